"""A certification request of an authority (PKCS #10, RFC 2986), signed by its key wherever that lies.

It asks for what an authority needs, as extensions that are a wish (extensionRequest, RFC 2985 5.4.2):
basic constraints and key usage, both critical. Whoever certifies decides.
"""

from cryptography import x509

from ca.encoding import encode_extension, encode_signed
from ca.issue import encoded_key
from ca.signers import Signer
from certs.der import CONTEXT_0, SEQUENCE, SET, encode, encode_integer, encode_object_identifier
from certs.profile import load_profile

_VERSION_1 = encode_integer(0)
_EXTENSION_REQUEST = "1.2.840.113549.1.9.14"


def build_request(subject: x509.Name, signer: Signer) -> bytes:
    """Return the request in DER; raise `Refused` (unavailable) if the key is gone."""
    wanted = load_profile("root")
    extensions = encode(
        SEQUENCE,
        encode_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True),
        encode_extension(wanted.key_usage, critical=True),
    )
    attribute = encode(SEQUENCE, encode_object_identifier(_EXTENSION_REQUEST), encode(SET, extensions))
    information = encode(
        SEQUENCE,
        _VERSION_1,
        subject.public_bytes(),
        encoded_key(signer.public_key),
        encode(CONTEXT_0, attribute),
    )
    return encode_signed(information, signer.algorithm, signer.sign(information))
