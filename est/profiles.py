"""Enrolment profiles: under which label whom a device may become, and who vouches for it.

The rules:

1. A profile is named by its label (RFC 7030 3.2.2): 1 to 63 letters, digits, `_` or `-`, and never an operation's name.
   The profile `default` answers where the path has no label.
2. Anchors are authorities' certificates, each pinned by its name and key. A profile without any lets nobody in.
3. An identifier pattern is a device identifier in which `*` stands for any characters and `?` for one. Without a
   pattern, a credential enrols only the device that it names.
4. Who enrols proves himself in every way that the profile names, and it names at least one.
5. What a profile says of renewing is said once, here, for `est.rules` and for the life cycle of devices alike: a
   certificate is due within `renewal_window` of its end, and urgent within `critical_window`, which is the shorter one.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import cached_property
from uuid import UUID

import orjson
from cryptography.hazmat.primitives.serialization import Encoding

from certs.chain import Anchor
from certs.errors import CertificateRefused
from certs.pem import read_certificate, read_certificates
from iam.errors import malformed

DEFAULT_LABEL = "default"

OPERATIONS = frozenset({"cacerts", "csrattrs", "fullcmc", "serverkeygen", "simpleenroll", "simplereenroll"})
"""RFC 7030 3.2.2: the operations, which no label may be called."""

ANCHORS_MAXIMUM = 16

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_PATTERN = re.compile(r"[A-Za-z0-9_.:*?-]{1,128}")


class Operation(StrEnum):
    """Those operations of EST that somebody is asked about."""

    ENROL = "simpleenroll"
    GENERATE = "serverkeygen"

    @property
    def brings_key(self) -> bool:
        """Whether the key in the request is that of whoever signed it: RFC 7030 4.4 has key and signature ignored."""
        return self is Operation.ENROL


class EnrolmentMode(StrEnum):
    """What links a bootstrap certificate to a device."""

    JITP = "jitp"
    """Just in time: a holder of a bootstrap certificate enrols the device that it names, or one that the pattern
    covers; the device is registered by that."""
    PRE_REGISTERED = "pre_registered"
    """Only devices that were registered before, each by the one bootstrap certificate that it was bound to."""


class ProofOfPossession(StrEnum):
    """Whether a request is linked to its TLS connection (RFC 7030 3.5); one that claims to be is verified always."""

    OFF = "off"
    """Not asked for."""
    OPTIONAL = "optional"
    """Asked for, and done without."""
    REQUIRED = "required"


class CsrAttributes(StrEnum):
    """How much `csrattrs` tells a client of what its request should hold (RFC 7030 4.5, RFC 9908)."""

    MINIMAL = "minimal"
    """Only what the label could not do without: nothing at all, unless requests are to be linked."""
    ATTRIBUTES = "attributes"
    """Extensions, the kind of key and the signature's hash, each as an attribute (RFC 9908 3.2)."""
    TEMPLATE = "template"
    """The request itself, to be filled in (RFC 9908 3.4)."""


class ServerKey(StrEnum):
    """A kind of key that is made here for devices that cannot make one (RFC 7030 4.4)."""

    P256 = "P-256"
    P384 = "P-384"
    P521 = "P-521"
    ED25519 = "Ed25519"
    RSA_2048 = "RSA-2048"
    RSA_3072 = "RSA-3072"
    RSA_4096 = "RSA-4096"


class Way(StrEnum):
    """How somebody proves that he may enrol a device; `est.authentication` has one file for each."""

    CERTIFICATE = "client_certificate"
    SECRET = "enrolment_secret"  # noqa: S105 - the name of a way, not a secret
    TOKEN = "token"  # noqa: S105 - the same
    WEBHOOK = "webhook"
    APPROVAL = "approval"


@dataclass(frozen=True, slots=True)
class OpenIdTrust:
    """An issuer of tokens that is not us.

    Attributes:
        issuer: Its `iss`, exactly.
        audience: What `aud` must be or hold.
        jwks_uri: Where its keys are; found by OpenID discovery below the issuer if not said.
        authorities: The only roots that its server's certificate may lead to, in PEM; the system's, if not said.
        algorithms: Those of RFC 7518 that its keys may sign by.
        device: The device that a token speaks for: `meter-${serial}` with names of claims.
    """

    issuer: str
    audience: str
    jwks_uri: str | None = None
    authorities: str | None = None
    algorithms: tuple[str, ...] = ("ES256",)
    device: str = "${sub}"


@dataclass(frozen=True, slots=True)
class Webhook:
    """A service of the operator's that is asked about each enrolment.

    Attributes:
        authorities: The only roots that its certificate may lead to, in PEM; the system's, if not said.
        deadline: How long it may take altogether.
    """

    url: str
    name: str = ""
    authorities: str | None = None
    deadline: timedelta = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class Approval:
    """How an operator's decision is waited for.

    Attributes:
        expires_after: How long a request waits for a decision, and how long a decision holds.
        retry_after: When the device is told to ask again.
        most_waiting: How many requests may wait under this label at once.
    """

    expires_after: timedelta = timedelta(days=7)
    retry_after: timedelta = timedelta(seconds=60)
    most_waiting: int = 1000


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """What is asked of bootstrap certificates beside their anchor.

    Attributes:
        longest_path: How many steps it may be from the anchor to the certificate; 1 is issued by the anchor itself.
        expired_is_allowed: Whether one that has ended may still enrol.
        proxies: Those that may pass certificates on, each as `est.authentication.asking.PROXY_PIN` says.
    """

    longest_path: int | None = None
    expired_is_allowed: bool = False
    proxies: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Renewal:
    """What is asked of re-enrolments.

    Attributes:
        opens: How long before its end a certificate may be renewed; None is at any time.
        with_same_key: Whether the key may stay (renew).
        with_new_key: Whether it may change (rekey).
        revokes_previous: Whether the predecessor is revoked once its grace is over; else it is only superseded.
    """

    opens: timedelta | None = None
    with_same_key: bool = True
    with_new_key: bool = True
    revokes_previous: bool = False


@dataclass(frozen=True, slots=True)
class Distribution:
    """Which authorities `cacerts` shows, each with those above it up to its root.

    Attributes:
        own: That which issues under this label.
        system: That which issues the certificates of our own listeners.
        others: Further authorities of ours.
    """

    own: bool = True
    system: bool = False
    others: tuple[UUID, ...] = ()


@dataclass(frozen=True, slots=True)
class DeviceDefaults:
    """What a device that is registered by its enrolment (`jitp`) begins with."""

    tags: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    metadata: Mapping[str, object] = field(default_factory=dict, hash=False)
    icon: str = ""
    icon_color: str = ""


@dataclass(frozen=True, slots=True)
class Settings:
    """The part of a profile that only code reads, never SQL.

    Attributes:
        ways: How who enrols proves himself: all of them.
        replaces: Whether a device's identity may be replaced once an operator has allowed that for the device.
        openid: Whose tokens count; ours, if not said.
    """

    ways: tuple[Way, ...] = (Way.CERTIFICATE,)
    replaces: bool = True
    bootstrap: Bootstrap = Bootstrap()
    openid: OpenIdTrust | None = None
    webhook: Webhook | None = None
    approval: Approval = Approval()
    renewal: Renewal = Renewal()
    distribution: Distribution = Distribution()
    device: DeviceDefaults = DeviceDefaults()


@dataclass(frozen=True)
class EnrolmentProfile:
    """What a label offers.

    Attributes:
        tenant: Whose label it is: devices registered there or below may enrol, and new ones are registered there.
        name: The label.
        authority: Who issues, and whose certificates re-enrol.
        bootstrap_anchors: Authorities' certificates in DER.
        role_name: The role that a new device's identity gets, in the tenant of the device.
        previous_grace: For how long a superseded certificate may still re-enrol.
        server_key_generation: The kind of key that is made here for a device that asks; None: none is made.
        encrypted_server_keys_only: Whether such a key leaves only encrypted to the device, inside of TLS.
        title: What people call it.
        additional_anchors: Authorities whose certificates re-enrol too, in DER; they are on record here all the same.
        renewal_window: How long before its end a certificate is due (RENEWAL_PENDING).
        critical_window: How long before its end it is urgent (EXPIRING_SOON).
        webhook_secret: What requests to the webhook are signed by, sealed under the node's master key; empty for none.
        tenant_path: The tenants above its own and that, from the top, as the store has them.
    """

    id: UUID
    tenant: UUID
    name: str
    mode: EnrolmentMode
    authority: UUID
    certificate_profile: str
    bootstrap_anchors: tuple[bytes, ...]
    identifier_pattern: str | None
    role_name: str
    expired_may_renew: bool
    previous_grace: timedelta
    created: datetime
    proof_of_possession: ProofOfPossession = ProofOfPossession.OFF
    csr_attributes: CsrAttributes = CsrAttributes.MINIMAL
    server_key_generation: ServerKey | None = None
    encrypted_server_keys_only: bool = False
    title: str = ""
    metadata: Mapping[str, object] = field(default_factory=dict, hash=False)
    additional_anchors: tuple[bytes, ...] = ()
    renewal_window: timedelta = timedelta(days=30)
    critical_window: timedelta = timedelta(days=7)
    settings: Settings = Settings()
    webhook_secret: bytes = field(default=b"", repr=False)
    tenant_path: tuple[UUID, ...] = field(default=(), compare=False)

    @cached_property
    def anchors(self) -> tuple[Anchor, ...]:
        """The bootstrap anchors, pinned."""
        return _pinned(self.bootstrap_anchors)

    @cached_property
    def renewal_anchors(self) -> tuple[Anchor, ...]:
        """The additional anchors of re-enrolment, pinned."""
        return _pinned(self.additional_anchors)

    @cached_property
    def device_defaults(self) -> str:
        """What a device that is registered by its enrolment begins with, as JSON by the columns of the store."""
        one = self.settings.device
        begins_with = {
            "alias": "",
            "tags": list(one.tags),
            "labels": dict(one.labels),
            "metadata": dict(one.metadata),
            "icon": one.icon,
            "icon_color": one.icon_color,
        }
        return orjson.dumps(begins_with).decode()

    @property
    def names_by_certificate(self) -> bool:
        """Whether a bootstrap certificate enrols the device that it names, and no other."""
        by_certificate = Way.CERTIFICATE in self.settings.ways
        return by_certificate and self.mode is EnrolmentMode.JITP and self.identifier_pattern is None

    def covers(self, identifier: str) -> bool:
        """Tell whether the pattern, if there is one, covers a device identifier."""
        return self.identifier_pattern is not None and fnmatchcase(identifier, self.identifier_pattern)


def _pinned(anchors: Iterable[bytes]) -> tuple[Anchor, ...]:
    return tuple(Anchor.from_certificate(read_certificate(der)) for der in anchors)


def label(text: str) -> str:
    """Return `text` if it can name a profile; raise `Refused` (malformed)."""
    if not _LABEL.fullmatch(text) or text.lower() in OPERATIONS:
        raise malformed(
            "A label is 1 to 63 letters, digits, '_' or '-', starts with a letter or digit, and is no operation of EST."
        )
    return text


def identifier_pattern(text: str) -> str:
    """Return `text` if it is a pattern of device identifiers; raise `Refused` (malformed)."""
    if not _PATTERN.fullmatch(text):
        raise malformed("A pattern is a device identifier with '*' for any characters and '?' for one.")
    return text


def anchors_from(pem: str) -> tuple[bytes, ...]:
    """Read anchors from PEM, each an authority's certificate; raise `Refused` (malformed) for anything else."""
    try:
        certificates = read_certificates(pem.encode())
        for certificate in certificates:
            Anchor.from_certificate(certificate)
    except CertificateRefused as refusal:
        raise malformed(f"The anchors cannot be used: {refusal.reason}.") from refusal
    return tuple(certificate.public_bytes(Encoding.DER) for certificate in certificates)


def check_profile(profile: EnrolmentProfile) -> None:
    """Raise `Refused` (malformed) for what no single field shows: parts that do not fit together."""
    settings = profile.settings
    for stands_against, sentence in (
        (not settings.ways, "A label asks for at least one way of authentication."),
        (
            Way.CERTIFICATE in settings.ways and not profile.bootstrap_anchors,
            "A label that asks for a client certificate needs at least one of validation_cas.",
        ),
        (
            max(len(profile.bootstrap_anchors), len(profile.additional_anchors)) > ANCHORS_MAXIMUM,
            f"A label has at most {ANCHORS_MAXIMUM} anchors.",
        ),
        (
            Way.WEBHOOK in settings.ways and settings.webhook is None,
            "A label that asks a webhook needs external_webhook.",
        ),
        (
            not settings.renewal.with_same_key and not settings.renewal.with_new_key,
            "A label renews with the same key, with a new one, or both.",
        ),
        (
            profile.critical_window > profile.renewal_window,
            "critical_delta is the shorter one: at most preventive_delta.",
        ),
        (
            settings.renewal.opens is not None and settings.renewal.opens < profile.critical_window,
            "reenrollment_delta is at least critical_delta: what is urgent must be allowed to renew.",
        ),
        (
            settings.distribution == Distribution(own=False),
            "cacerts shows at least one authority.",
        ),
    ):
        if stands_against:
            raise malformed(sentence)
