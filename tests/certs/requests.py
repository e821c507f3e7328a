"""Requests that a library's builder does not make: with attributes of any kind and number, for serverkeygen."""

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from certs.der import (
    BIT_STRING,
    CONTEXT_0,
    NULL,
    OCTET_STRING,
    SEQUENCE,
    SET,
    UTF8_STRING,
    encode,
    encode_integer,
    encode_object_identifier,
)

AES_128_WRAP, AES_256_WRAP = "2.16.840.1.101.3.4.1.5", "2.16.840.1.101.3.4.1.45"
AES_256_CBC, AES_256_GCM = "2.16.840.1.101.3.4.1.42", "2.16.840.1.101.3.4.1.46"
RSA_V15, OAEP = "1.2.840.113549.1.1.1", "1.2.840.113549.1.1.7"
ECDH_SHA256 = "1.3.132.1.11.1"
CHALLENGE_PASSWORD = "1.2.840.113549.1.9.7"
EXTENSION_REQUEST = "1.2.840.113549.1.9.14"


def attribute(oid: str, *values: bytes) -> bytes:
    return encode(SEQUENCE, encode_object_identifier(oid), encode(SET, *values))


def named_key(identifier: bytes, *, is_asymmetric: bool = False, tag: int = OCTET_STRING) -> bytes:
    kind = 54 if is_asymmetric else 37
    return attribute(f"1.2.840.113549.1.9.16.2.{kind}", encode(tag, identifier))


def capabilities(*oids: str | tuple[str, str]) -> bytes:
    """Return SMIMECapabilities; a pair is an algorithm with the one that is its parameter."""
    listed = []
    for one in oids:
        oid, nested = (one, None) if isinstance(one, str) else one
        parameters = b"" if nested is None else encode(SEQUENCE, encode_object_identifier(nested))
        listed.append(encode(SEQUENCE, encode_object_identifier(oid), parameters))
    return attribute("1.2.840.113549.1.9.15", encode(SEQUENCE, *listed))


def challenge_password(text: str) -> bytes:
    return attribute(CHALLENGE_PASSWORD, encode(UTF8_STRING, text.encode()))


def alternative_names(*names: x509.GeneralName) -> bytes:
    value = x509.SubjectAlternativeName(names).public_bytes()
    extension = encode(SEQUENCE, encode_object_identifier("2.5.29.17"), encode(OCTET_STRING, value))
    return attribute(EXTENSION_REQUEST, encode(SEQUENCE, extension))


def keyless_request(
    common_name: str, *attributes: bytes, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None
) -> bytes:
    """Return a request in DER, signed by a key that is thrown away, with `attributes` as they are."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = encode(
        SEQUENCE,
        encode(
            SET,
            encode(
                SEQUENCE,
                encode_object_identifier(NameOID.COMMON_NAME.dotted_string),
                encode(UTF8_STRING, common_name.encode()),
            ),
        ),
    )
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    information = encode(SEQUENCE, encode_integer(0), name, spki, encode(CONTEXT_0, *sorted(attributes)))
    if isinstance(key, rsa.RSAPrivateKey):
        algorithm = encode(SEQUENCE, encode_object_identifier("1.2.840.113549.1.1.11"), NULL)
        signature = key.sign(information, PKCS1v15(), hashes.SHA256())
    else:
        algorithm = encode(SEQUENCE, encode_object_identifier("1.2.840.10045.4.3.2"))
        signature = key.sign(information, ec.ECDSA(hashes.SHA256()))
    return encode(SEQUENCE, information, algorithm, encode(BIT_STRING, b"\0", signature))
