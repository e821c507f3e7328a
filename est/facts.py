"""What the store knows of a device, a certificate and a key at the moment of a decision, and its JSON.

The functions `enrol_device` and `reenrol_device` of the migrations find these facts by the same names, and write only
if they are those that were decided on.
"""

from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import lru_cache

import orjson


class DeviceState(StrEnum):
    """What is known of the device that the request names."""

    ABSENT = "absent"
    REGISTERED = "registered"
    IDENTIFIED = "identified"
    DECOMMISSIONED = "decommissioned"
    OTHER = "other"
    """It is there, and the certificate presented is not of its identity."""


class KeyOwner(StrEnum):
    """Whose the public key in the request is."""

    NOBODY = "nobody"
    THIS = "this"
    OTHER = "other"
    AUTHORITY = "authority"
    COMPROMISED = "compromised"


class Binding(StrEnum):
    """How the bootstrap certificate stands to what the device was bound to."""

    ABSENT = "absent"
    MATCHES = "matches"
    DIFFERS = "differs"


class SecretState(StrEnum):
    """How the enrolment secret stands, where one was presented."""

    NONE = "none"
    USABLE = "usable"
    SPENT = "spent"
    GONE = "gone"
    """It was withdrawn, or its time is over."""


class DeviceLabel(StrEnum):
    """How the label that is asked stands to the one that the device was enrolled under."""

    OWN = "own"
    OTHER = "other"
    DELETED = "deleted"
    """It is another one, and the device's own is no more."""


class PresentedState(StrEnum):
    """What the store has of the certificate presented."""

    ABSENT = "absent"
    DIFFERS = "differs"
    ACTIVE = "active"
    RECENTLY_SUPERSEDED = "superseded within grace"
    SUPERSEDED = "superseded"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class EnrolmentFacts:
    """What `enrol_device` finds, and what it must still find to write."""

    device: DeviceState
    is_within_label: bool = True
    is_tenant_active: bool = True
    is_identity_active: bool = True
    is_name_taken: bool = False
    is_registered_elsewhere: bool = False
    has_role: bool = True
    is_replacement_allowed: bool = False
    is_bootstrap_revoked: bool = False
    binding: Binding = Binding.ABSENT
    key_owner: KeyOwner = KeyOwner.NOBODY
    secret: SecretState = SecretState.NONE
    is_answered: bool = False


@dataclass(frozen=True, slots=True)
class RenewalFacts:
    """What `reenrol_device` finds, and what it must still find to write."""

    presented: PresentedState
    key_owner: KeyOwner
    device: DeviceState = DeviceState.IDENTIFIED
    label: DeviceLabel = DeviceLabel.OWN
    is_within_label: bool = True
    is_tenant_active: bool = True
    is_identity_active: bool = True
    is_answered: bool = False


@lru_cache(maxsize=256)
def encode_facts(facts: EnrolmentFacts | RenewalFacts) -> str:
    """Return facts as JSON, as the store speaks of them."""
    return orjson.dumps(asdict(facts)).decode()


def decode_enrolment_facts(text: str) -> EnrolmentFacts:
    """Read the facts that the store found."""
    raw = orjson.loads(text)
    return EnrolmentFacts(
        DeviceState(raw.pop("device")),
        binding=Binding(raw.pop("binding")),
        key_owner=KeyOwner(raw.pop("key_owner")),
        secret=SecretState(raw.pop("secret")),
        **raw,
    )


def decode_renewal_facts(text: str) -> RenewalFacts:
    """Read the facts that the store found."""
    raw = orjson.loads(text)
    return RenewalFacts(
        PresentedState(raw.pop("presented")),
        KeyOwner(raw.pop("key_owner")),
        DeviceState(raw.pop("device")),
        DeviceLabel(raw.pop("label")),
        **raw,
    )
