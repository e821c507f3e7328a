"""Keys over REST, in the paths and the JSON of Lamassu's KMS.

There is no route that gives out a private half, and none that could: `ca.kms` has no method for it.
"""

import base64
import binascii
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import Field

from ca.keystore import RSA_BITS, Backend, StoredKey
from ca.kms import TAGS_MAXIMUM, Description, KeyService
from ca.signing import Message, SigningAlgorithm
from certs.keys import KeyAlgorithm
from iam.errors import Kind, Refused, malformed
from iam.guard import Answer, Call, Needs, Route
from iam.json_patch import OPERATIONS_MAXIMUM, Operation, read_patch
from iam.listing import FilterQuery, Listed, ListQuery
from iam.permissions import Action, Resource
from iam.schema import SnakeModel, SnakeShown

_TAG = "Keys"
_KMS = "/api/kms/v1"
_KEYS = _KMS + "/keys"
_KEY = _KEYS + "/{key}"
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
    engine_id: Backend = Field(Backend.SEALED, description="One of `/engines`.")
    name: Name = ""
    tags: Tags = Field(default=[])
    metadata: dict[str, Any] = Field(default={})


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
        return Message(_decoded("message", self.message), self.message_type == "DIGEST")


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


def routes(service: KeyService) -> list[Route]:  # noqa: C901 - one small handler for each route
    """Return the routes of keys."""

    async def list_engines(_: Call) -> Answer:
        return Answer(content=[_show_engine(one).model_dump() for one in service.engines])

    async def statistics(call: Call) -> Answer:
        found = await service.statistics(call.tenant.id, call.query)
        shown = ShownStatistics(
            total_keys=sum(found.by_engine.values()),
            keys_distribution_per_engine=dict(found.by_engine),
            keys_distribution_per_algorithm=dict(found.by_algorithm),
        )
        return Answer(content=shown)

    async def list_keys(call: Call) -> Answer:
        page = await service.page(call.tenant.id, call.query)
        return Answer(content=Listed[ShownKey](next=page.next, items=[_show_key(one) for one in page.items]))

    async def create(call: Call) -> Answer:
        body: NewKey = call.body
        kind = KINDS.get((body.algorithm, body.size))
        if kind is None:
            sizes = ", ".join(str(size) for family, size in KINDS if family is body.algorithm)
            raise Refused(Kind.INVALID, f"A key of {body.algorithm} has size {sizes}.")
        said = Description(body.name, tuple(body.tags), body.metadata)
        made = await service.create(call.tenant.id, kind, body.size, body.engine_id, said, actor=_actor(call))
        return Answer(201, _show_key(made))

    async def take_in(call: Call) -> Answer:
        body: ImportedKey = call.body
        said = Description(body.name, tuple(body.tags), body.metadata)
        content = _decoded("private_key", body.private_key)
        return Answer(201, _show_key(await service.take_in(call.tenant.id, content, said, actor=_actor(call))))

    async def get(call: Call) -> Answer:
        return Answer(content=_show_key(await service.key(call.tenant.id, call.path["key"])))

    async def get_public_key(call: Call) -> Answer:
        found = await service.key(call.tenant.id, call.path["key"])
        return Answer(content=_pem(found), headers={"Content-Type": "application/x-pem-file"})

    async def rename(call: Call) -> Answer:
        body: NewName = call.body
        renamed = await service.rename(call.tenant.id, call.path["key"], body.name, actor=_actor(call))
        return Answer(content=_show_key(renamed))

    async def retag(call: Call) -> Answer:
        body: NewTags = call.body
        return Answer(
            content=_show_key(await service.retag(call.tenant.id, call.path["key"], body.tags, actor=_actor(call)))
        )

    async def patch_metadata(call: Call) -> Answer:
        patch = call.body.operations
        patched = await service.patch_metadata(call.tenant.id, call.path["key"], patch, actor=_actor(call))
        return Answer(content=_show_key(patched))

    async def patch_aliases(call: Call) -> Answer:
        patch = call.body.operations
        patched = await service.patch_aliases(call.tenant.id, call.path["key"], patch, actor=_actor(call))
        return Answer(content=_show_key(patched))

    async def delete(call: Call) -> Answer:
        await service.delete(call.tenant.id, call.path["key"], actor=_actor(call))
        return Answer(content=ShownDeletion(status="deleted"))

    async def sign(call: Call) -> Answer:
        body: ToSign = call.body
        signature = await service.sign(
            call.tenant.id, call.path["key"], body.algorithm, body.content, actor=_actor(call)
        )
        return Answer(content=ShownSignature(signature=base64.b64encode(signature).decode()))

    async def verify(call: Call) -> Answer:
        body: ToVerify = call.body
        signature = _decoded("signature", body.signature)
        valid = await service.verify(call.tenant.id, call.path["key"], body.algorithm, body.content, signature)
        return Answer(content=ShownValidation(valid=valid))

    keys = Resource.KMS_KEYS
    may_create, may_read = Needs(Action.CREATE, keys), Needs(Action.READ, keys)
    may_update, may_delete = Needs(Action.UPDATE, keys), Needs(Action.DELETE, keys)
    return [
        Route("GET", _KMS + "/engines", list_engines, may_read, "List where keys are made and kept", _TAG),
        Route(
            "GET",
            _KMS + "/stats",
            statistics,
            may_read,
            "Count keys by engine and algorithm",
            _TAG,
            query=FilterQuery,
            answers=ShownStatistics,
        ),
        Route("GET", _KEYS, list_keys, may_read, "List keys", _TAG, query=ListQuery, answers=Listed[ShownKey]),
        Route("POST", _KEYS, create, may_create, "Make a key", _TAG, body=NewKey, answers=ShownKey, status=201),
        Route(
            "POST",
            _KEYS + "/import",
            take_in,
            may_create,
            "Take in a key that was made elsewhere",
            _TAG,
            body=ImportedKey,
            answers=ShownKey,
            status=201,
        ),
        Route("GET", _KEY, get, may_read, "Get a key by its id or an alias", _TAG, answers=ShownKey),
        Route(
            "GET",
            _KEY + "/public-key",
            get_public_key,
            may_read,
            "Get the public half of a key as PEM",
            _TAG,
            answers="application/x-pem-file",
        ),
        Route("PUT", _KEY + "/name", rename, may_update, "Rename a key", _TAG, body=NewName, answers=ShownKey),
        Route("PUT", _KEY + "/tags", retag, may_update, "Set the tags of a key", _TAG, body=NewTags, answers=ShownKey),
        Route(
            "PUT",
            _KEY + "/alias",
            patch_aliases,
            may_update,
            "Change the list of a key's aliases by a JSON Patch",
            _TAG,
            body=Patches,
            answers=ShownKey,
        ),
        Route(
            "PUT",
            _KEY + "/metadata",
            patch_metadata,
            may_update,
            "Change the metadata of a key by a JSON Patch",
            _TAG,
            body=Patches,
            answers=ShownKey,
        ),
        Route("DELETE", _KEY, delete, may_delete, "Delete a key that nothing uses", _TAG, answers=ShownDeletion),
        Route(
            "POST",
            _KEY + "/sign",
            sign,
            may_update,
            "Sign a message or digest; not with the key of an authority",
            _TAG,
            body=ToSign,
            answers=ShownSignature,
        ),
        Route(
            "POST",
            _KEY + "/verify",
            verify,
            may_read,
            "Verify a signature",
            _TAG,
            body=ToVerify,
            answers=ShownValidation,
        ),
    ]


def _actor(call: Call) -> str:
    return call.caller.access.identity.id


def _decoded(field: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise malformed(f"{field} is not base64.") from None


def _pem(one: StoredKey) -> bytes:
    return one.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _show_key(one: StoredKey) -> ShownKey:
    return ShownKey(
        pkcs11_uri=f"pkcs11:token-id={one.backend};id={one.id};type=private",
        key_id=str(one.id),
        name=one.name,
        aliases=list(one.aliases),
        engine_id=one.backend,
        has_private_key=True,
        algorithm=FAMILIES[one.algorithm],
        size=one.bits,
        public_key=base64.b64encode(_pem(one)).decode(),
        creation_ts=one.created,
        tags=list(one.tags),
        metadata=one.metadata,
    )


def _show_engine(one: Backend) -> ShownEngine:
    in_token = one is Backend.PKCS11
    families = _IN_TOKENS if in_token else tuple(Family)
    return ShownEngine(
        id=one,
        name="PKCS#11 token" if in_token else "Sealed under the master key",
        type="PKCS11" if in_token else "SEALED",
        provider="PKCS#11" if in_token else "Doorward",
        security_level=2 if in_token else 1,
        default=one is Backend.SEALED,
        metadata={},
        supported_key_types=[
            ShownKeyType(type=family, sizes=[size for known, size in KINDS if known is family]) for family in families
        ],
    )
