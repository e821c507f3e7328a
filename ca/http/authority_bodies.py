"""What the bodies of Lamassu's CA API say of authorities."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field, model_validator

from ca.authority import AuthorityOrigin
from ca.http.key_shapes import KINDS, Family
from ca.keystore import Backend
from ca.wishes import KeyWish
from certs.duration import read_duration
from certs.errors import ProfileRefused
from iam.errors import malformed
from iam.json_patch import OPERATIONS_MAXIMUM
from iam.schema import SnakeModel

Reference = Annotated[str, Field(max_length=128)]
Text = Annotated[str, Field(max_length=256)]
Engine = Annotated[str, Field(max_length=32)]
Pem = Annotated[str, Field(max_length=64 * 1024)]


_ENGINE = "Where a new key is to lie: one of `/api/kms/v1/engines`; in the store, if not said."


class SubjectBody(SnakeModel):
    """A name."""

    common_name: Text
    organization: Text = ""
    organization_unit: Text = ""
    country: Text = ""
    state: Text = ""
    locality: Text = ""


class KeyBody(SnakeModel):
    """Which kind of key to make."""

    type: Family = Family.ECDSA
    bits: int = Field(384, description="RSA: the bits of the modulus. ECDSA: of the curve. ML-DSA: 44, 65 or 87.")

    def wish(self, existing: UUID | None = None, engine: str | None = None) -> KeyWish:
        """Return what is wanted; raise `Refused` (malformed) for a kind that there is not."""
        algorithm = KINDS.get((self.type, self.bits))
        if algorithm is None:
            sizes = ", ".join(str(bits) for family, bits in KINDS if family is self.type)
            raise malformed(f"Keys of {self.type} have one of these sizes: {sizes}.")
        return KeyWish(algorithm, self.bits, existing, engine)


class ValidityBody(SnakeModel):
    """How long something lasts, or until when."""

    type: Literal["Duration", "Time", "Date"] = Field("Duration", description="Date is another word for Time.")
    duration: Text | None = Field(None, description="Such as 90d, 36h or 1y (365 days).")
    time: datetime | None = None

    @property
    def period(self) -> timedelta | datetime:
        """The same; raise `Refused` (malformed) if it is neither."""
        if self.type != "Duration":
            if self.time is None or self.time.tzinfo is None:
                raise malformed(f"A validity of type {self.type} says a time with its offset.")
            try:
                return self.time.astimezone(UTC)
            except OverflowError as error:
                raise malformed("A validity's time is of the years 1 to 9999.") from error
        try:
            return read_duration(self.duration or "")
        except ProfileRefused as refused:
            raise malformed(f"The validity cannot be read: {refused.reason}.") from refused


class NewAuthority(SnakeModel):
    """An authority to make."""

    id: Reference | None = Field(None, description="What it is called, in paths and URLs; made up if not said.")
    parent_id: Reference | None = Field(None, description="The authority above it; none for a root.")
    subject: SubjectBody
    key_metadata: KeyBody = KeyBody()
    key_id: UUID | None = Field(None, description="A key of `/api/kms/v1` that is nobody's yet, instead of a new one.")
    engine_id: Engine | None = Field(None, description=_ENGINE)
    ca_expiration: ValidityBody | None = None
    path_length: int | None = Field(None, ge=0, le=4)
    ca_issuance_profile_id: Reference | None = Field(None, description="By which its own certificate is made.")
    profile_id: Reference | None = Field(None, description="By which it issues where nobody says.")
    issuance_expiration: ValidityBody | None = Field(None, description="How long what it issues lasts at the most.")
    metadata: dict[str, Any] = Field(default={})


class RequestedAuthority(SnakeModel):
    """An authority whose certificate is to be asked for elsewhere."""

    id: Reference | None = None
    subject: SubjectBody
    key_metadata: KeyBody = KeyBody()
    key_id: UUID | None = None
    engine_id: Engine | None = Field(None, description=_ENGINE)
    metadata: dict[str, Any] = Field(default={})


class ImportedAuthority(SnakeModel):
    """An authority that was made elsewhere, or the answer to a request."""

    id: Reference | None = None
    ca: Pem = Field(description="Its certificate: PEM, or PEM in base64 once more.")
    ca_chain: list[Pem] = Field(default=[], max_length=8, description="What stands above it, up to the top.")
    private_key: Pem | None = Field(None, repr=False, description="PEM without a password, or that in base64.")
    ca_request_id: UUID | None = Field(None, description="The request that the certificate answers.")
    ca_type: AuthorityOrigin | None = Field(None, description="What it is taken to be; refused if it is not.")
    parent_id: Reference | None = Field(None, description="What it is taken to stand below; refused if it does not.")
    engine_id: Literal[Backend.SEALED] | None = Field(None, description="Where a key that is brought is kept.")
    profile_id: Reference | None = None
    issuance_expiration: ValidityBody | None = None
    metadata: dict[str, Any] = Field(default={})


class Deletion(SnakeModel):
    """How to delete an authority."""

    cascade_delete: bool = Field(False, description="Lamassu's: with what it issued. That is refused.")


class Reissue(SnakeModel):
    """How to certify a key once more."""

    ca_expiration: ValidityBody | None = Field(None, description="As long as before, if not said.")
    ca: Pem | None = Field(None, description="The new certificate of an authority that was certified elsewhere.")
    ca_chain: list[Pem] = Field(default=[], max_length=8, description="What stands above that, up to the top.")

    @model_validator(mode="before")
    @classmethod
    def _says_nothing(cls, raw: object) -> object:
        """Take null for a body that says nothing: Lamassu's clients send it."""
        return {} if raw is None else raw


class Rollover(SnakeModel):
    """How to give an authority its next key."""

    key_metadata: KeyBody | None = Field(None, description="As before, if not said.")
    key_id: UUID | None = None
    engine_id: Engine | None = Field(None, description="Where the key before lies, if not said.")
    ca_expiration: ValidityBody | None = None


class NewStatus(SnakeModel):
    """What an authority shall be."""

    status: Literal["ACTIVE", "INACTIVE", "REVOKED"]
    revocation_reason: Text = Field("Unspecified", description="By RFC 5280 5.3.1.")


class NewProfile(SnakeModel):
    """By which profile an authority issues where nobody says."""

    profile_id: Reference


class Patches(SnakeModel):
    """A JSON Patch (RFC 6902)."""

    patches: list[Any] = Field(max_length=OPERATIONS_MAXIMUM)
