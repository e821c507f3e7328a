"""The words of CMS that we write and that our client reads: object identifiers, and the algorithms that they name.

One table for both: what the server can make and what the device's library can open are not listed twice.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Final

from cryptography.hazmat.primitives import hashes

SIGNED_DATA: Final = "1.2.840.113549.1.7.2"
ENVELOPED_DATA: Final = "1.2.840.113549.1.7.3"
AUTH_ENVELOPED_DATA: Final = "1.2.840.113549.1.9.16.1.23"
KEY_PACKAGE: Final = "2.16.840.1.101.2.1.2.78.5"
"""id-ct-KP-aKeyPackage (RFC 5958 2)."""

CONTENT_TYPE: Final = "1.2.840.113549.1.9.3"
MESSAGE_DIGEST: Final = "1.2.840.113549.1.9.4"
SMIME_CAPABILITIES: Final = "1.2.840.113549.1.9.15"
DECRYPT_KEY_IDENTIFIER: Final = "1.2.840.113549.1.9.16.2.37"
ASYMMETRIC_DECRYPT_KEY_IDENTIFIER: Final = "1.2.840.113549.1.9.16.2.54"

EC_PUBLIC_KEY: Final = "1.2.840.10045.2.1"
RSA_ENCRYPTION: Final = "1.2.840.113549.1.1.1"
RSAES_OAEP: Final = "1.2.840.113549.1.1.7"
MGF1: Final = "1.2.840.113549.1.1.8"
SHA256: Final = "2.16.840.1.101.3.4.2.1"
SHA384: Final = "2.16.840.1.101.3.4.2.2"
SHA512: Final = "2.16.840.1.101.3.4.2.3"

DIGESTS: Final[Mapping[str, hashes.HashAlgorithm]] = {
    SHA256: hashes.SHA256(),
    SHA384: hashes.SHA384(),
    SHA512: hashes.SHA512(),
}


class _OfKeyLength(Enum):
    """An algorithm with its object identifier and its key's length in bytes."""

    @property
    def oid(self) -> str:
        """Its object identifier."""
        identifier: str = self.value[0]
        return identifier

    @property
    def key_bytes(self) -> int:
        """The length of its key."""
        length: int = self.value[1]
        return length


class ContentCipher(_OfKeyLength):
    """What encrypts the content: its object identifier and its key's length in bytes, the best first."""

    AES_256_GCM = ("2.16.840.1.101.3.4.1.46", 32)
    AES_128_GCM = ("2.16.840.1.101.3.4.1.6", 16)
    AES_256_CBC = ("2.16.840.1.101.3.4.1.42", 32)
    AES_128_CBC = ("2.16.840.1.101.3.4.1.2", 16)

    @property
    def is_authenticated(self) -> bool:
        """Whether it also shows that nothing was changed."""
        return self in {ContentCipher.AES_256_GCM, ContentCipher.AES_128_GCM}


class KeyWrap(_OfKeyLength):
    """AES key wrap (RFC 3394, RFC 3565 2.3.2): its object identifier and its key's length in bytes, the best first."""

    AES_256 = ("2.16.840.1.101.3.4.1.45", 32)
    AES_192 = ("2.16.840.1.101.3.4.1.25", 24)
    AES_128 = ("2.16.840.1.101.3.4.1.5", 16)


class KeyAgreement(Enum):
    """Ephemeral-static ECDH with the X9.63 KDF over a hash (RFC 5753 7.1.4)."""

    SHA256 = "1.3.132.1.11.1"
    SHA384 = "1.3.132.1.11.2"
    SHA512 = "1.3.132.1.11.3"

    @property
    def oid(self) -> str:
        """Its object identifier."""
        return self.value

    @property
    def hash_algorithm(self) -> hashes.HashAlgorithm:
        """Its hash."""
        match self:
            case KeyAgreement.SHA256:
                return hashes.SHA256()
            case KeyAgreement.SHA384:
                return hashes.SHA384()
            case KeyAgreement.SHA512:
                return hashes.SHA512()
