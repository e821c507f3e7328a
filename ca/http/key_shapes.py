"""What requests and answers about keys look like, in the JSON of Lamassu's KMS.

Lamassu names the algorithm of a key by its family and a size; here each of both is one of ours.
"""

import base64
import binascii
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import Field

from ca.keystore import Backend, StoredKey
from ca.kms import TAGS_MAXIMUM, Description
from ca.signers import RSA_BITS
from ca.signing import Message, SigningAlgorithm
from certs.keys import KeyAlgorithm
from iam.errors import Kind, Refused, malformed
from iam.json_patch import OPERATIONS_MAXIMUM, Operation, read_patch
from iam.schema import SnakeModel, SnakeShown

_MESSAGE_BYTES = 128 * 1024
_SIGNATURE_BYTES = 8 * 1024
_PRIVATE_KEY_BYTES = 16 * 1024
_BASE64_OF = {size: (size + 2) // 3 * 4 for size in (_MESSAGE_BYTES, _SIGNATURE_BYTES, _PRIVATE_KEY_BYTES)}

Tag = Annotated[str, Field(min_length=1, max_length=128)]
Tags = Annotated[list[Tag], Field(max_length=TAGS_MAXIMUM)]
Name = Annotated[str, Field(max_length=256)]


class Family(StrEnum):
    """What Lamassu calls the algorithm of a key; its size says the rest."""

    RSA = "RSA"
    ECDSA = "ECDSA"
    ED25519 = "Ed25519"
    ML_DSA = "ML-DSA"


FAMILIES: dict[KeyAlgorithm, Family] = {
    KeyAlgorithm.RSA: Family.RSA,
    KeyAlgorithm.P256: Family.ECDSA,
    KeyAlgorithm.P384: Family.ECDSA,
    KeyAlgorithm.P521: Family.ECDSA,
    KeyAlgorithm.ED25519: Family.ED25519,
    KeyAlgorithm.ML_DSA_44: Family.ML_DSA,
    KeyAlgorithm.ML_DSA_65: Family.ML_DSA,
    KeyAlgorithm.ML_DSA_87: Family.ML_DSA,
}
KINDS: dict[tuple[Family, int], KeyAlgorithm] = {
    **{(Family.RSA, bits): KeyAlgorithm.RSA for bits in RSA_BITS},
    (Family.ECDSA, 256): KeyAlgorithm.P256,
    (Family.ECDSA, 384): KeyAlgorithm.P384,
    (Family.ECDSA, 521): KeyAlgorithm.P521,
    (Family.ED25519, 256): KeyAlgorithm.ED25519,
    (Family.ML_DSA, 44): KeyAlgorithm.ML_DSA_44,
    (Family.ML_DSA, 65): KeyAlgorithm.ML_DSA_65,
    (Family.ML_DSA, 87): KeyAlgorithm.ML_DSA_87,
}
_IN_TOKENS = (Family.RSA, Family.ECDSA)


class NewKey(SnakeModel):
    """A key to make."""

    algorithm: Family
    size: int = Field(256, description="RSA: the bits of the modulus. ECDSA: of the curve. ML-DSA: 44, 65 or 87.")
    engine_id: str = Field(Backend.SEALED.value, max_length=32, description="One of `/engines`.")
    name: Name = ""
    tags: Tags = Field(default=[])
    metadata: dict[str, Any] = Field(default={})

    @property
    def kind(self) -> KeyAlgorithm:
        """Which key that is; raise `Refused` (invalid) if there is none such."""
        found = KINDS.get((self.algorithm, self.size))
        if found is None:
            sizes = ", ".join(str(size) for family, size in KINDS if family is self.algorithm)
            raise Refused(Kind.INVALID, f"A key of {self.algorithm} has size {sizes}.")
        return found

    @property
    def description(self) -> Description:
        """What is said of it."""
        return Description(self.name, tuple(self.tags), self.metadata)


class ImportedKey(SnakeModel):
    """A key to take in."""

    private_key: str = Field(
        max_length=_BASE64_OF[_PRIVATE_KEY_BYTES],
        repr=False,
        description="Base64 of PKCS#8 without a password, in DER or PEM.",
    )
    engine_id: Literal[Backend.SEALED] = Field(Backend.SEALED, description="Keys of a token are made in it.")
    name: Name = ""
    tags: Tags = Field(default=[])
    metadata: dict[str, Any] = Field(default={})

    @property
    def description(self) -> Description:
        """What is said of it."""
        return Description(self.name, tuple(self.tags), self.metadata)


class Patches(SnakeModel):
    """A JSON Patch (RFC 6902)."""

    patches: list[dict[str, Any]] = Field(max_length=OPERATIONS_MAXIMUM)

    @property
    def operations(self) -> tuple[Operation, ...]:
        """The same, checked."""
        return read_patch(self.patches)


class NewName(SnakeModel):
    """Another name for a key."""

    name: Name


class NewTags(SnakeModel):
    """All tags of a key."""

    tags: Tags


class ToSign(SnakeModel):
    """What shall be signed, and how."""

    algorithm: SigningAlgorithm
    message: str = Field(max_length=_BASE64_OF[_MESSAGE_BYTES], description="Base64.")
    message_type: Literal["RAW", "DIGEST"] = Field("RAW", description="DIGEST: the message is a hash already.")

    @property
    def content(self) -> Message:
        """The message."""
        return Message(decoded("message", self.message), self.message_type == "DIGEST")


class ToVerify(ToSign):
    """A signature, and what it is to be one of."""

    signature: str = Field(max_length=_BASE64_OF[_SIGNATURE_BYTES], description="Base64.")


class ShownKey(SnakeShown):
    """A key, without its private half."""

    pkcs11_uri: str
    key_id: str
    name: str
    aliases: list[str]
    engine_id: str
    has_private_key: bool
    algorithm: str
    size: int
    public_key: str = Field(description="Base64 of PEM.")
    creation_ts: datetime
    tags: list[str]
    metadata: dict[str, Any]
    deleting_since: datetime | None = Field(None, description="It signs nothing any more: delete it again to finish.")


class ShownDeletion(SnakeShown):
    """That a key is gone."""

    status: str


class ShownSignature(SnakeShown):
    """A signature."""

    signature: str = Field(description="Base64; of ECDSA the DER of RFC 3279 2.2.3.")


class ShownValidation(SnakeShown):
    """Whether a signature holds."""

    valid: bool


class ShownStatistics(SnakeShown):
    """How many keys there are."""

    total_keys: int
    keys_distribution_per_engine: dict[str, int]
    keys_distribution_per_algorithm: dict[str, int]


class ShownKeyType(SnakeShown):
    """A kind of keys that an engine makes."""

    type: str
    sizes: list[int]


class ShownEngine(SnakeShown):
    """A place where keys are made and kept.

    Attributes:
        security_level: 1 where the process holds a key while it signs, 2 where it never sees it.
    """

    id: str
    name: str
    type: str
    provider: str
    security_level: int
    default: bool
    metadata: dict[str, Any]
    supported_key_types: list[ShownKeyType]


def decoded(field: str, text: str) -> bytes:
    """Return what is given in base64; raise `Refused` (malformed), which shows nothing of it."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise malformed(f"{field} is not base64.") from None


def pem(one: StoredKey) -> bytes:
    """Return the public half of a key."""
    return one.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def show_key(one: StoredKey) -> ShownKey:
    """Return a key as it is shown."""
    return ShownKey(
        pkcs11_uri=f"pkcs11:token-id={one.engine};id={one.id};type=private",
        key_id=str(one.id),
        name=one.name,
        aliases=list(one.aliases),
        engine_id=one.engine,
        has_private_key=True,
        algorithm=FAMILIES[one.algorithm],
        size=one.bits,
        public_key=base64.b64encode(pem(one)).decode(),
        creation_ts=one.created,
        tags=list(one.tags),
        metadata=one.metadata,
        deleting_since=one.leaves_since,
    )


def show_engine(one: str) -> ShownEngine:
    """Return an engine as it is shown."""
    in_token = one != Backend.SEALED
    families = _IN_TOKENS if in_token else tuple(Family)
    return ShownEngine(
        id=one,
        name="PKCS#11 token" if in_token else "Sealed under the master key",
        type="PKCS11" if in_token else "SEALED",
        provider="PKCS#11" if in_token else "Doorward",
        security_level=2 if in_token else 1,
        default=not in_token,
        metadata={},
        supported_key_types=[
            ShownKeyType(type=family, sizes=[size for known, size in KINDS if known is family]) for family in families
        ],
    )
