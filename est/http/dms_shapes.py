"""Enrolment profiles as JSON, in the form of Lamassu's DMS: what is taken, and what is shown.

The rules:

1. What is shown may be sent back: reading a profile, changing a member and putting it again changes just that member.
2. What is not sent has its default, which is the strict one.
3. An authority is named by its id or name, if it is ours, or is given as a certificate in PEM; a profile keeps the
   certificate, so it is pinned by its key from then on.
4. A patch is one of what is shown, in which what is not said is null; what comes out is checked as if it were put.
5. Secrets are never shown; that of a webhook is, once, by the answer that made it.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from est.authentication.asking import PROXY_PIN
from est.authentication.json_web_keys import ALGORITHMS
from est.authentication.token import is_template
from est.durations import duration
from est.profiles import CsrAttributes, ProofOfPossession
from iam.errors import Refused
from iam.listing import Listed
from iam.schema import SnakeModel, SnakeShown

_YEAR_SECONDS = 366 * 24 * 3600
_HTTPS = r"^https://[^\s/?#@]+(/[^\s#]*)?$"


def _period(text: str) -> str:
    """Let a text be a period."""
    try:
        duration(text)
    except Refused as refused:
        raise ValueError(refused.detail) from refused
    return text


def _template(text: str) -> str:
    """Let a text be a template of device identifiers."""
    if not is_template(text):
        raise ValueError("a template is letters, digits or any of '_.:-' with at least one ${claim}")
    return text


def _algorithm(text: str) -> str:
    """Let a text be an algorithm that tokens may be signed by."""
    if text not in ALGORITHMS:
        raise ValueError(f"one of {', '.join(ALGORITHMS)}")
    return text


Period = Annotated[str, Field(max_length=64, examples=["90d"]), AfterValidator(_period)]
Pem = Annotated[str, Field(max_length=64 * 1024)]
AuthMode = Literal[
    "CLIENT_CERTIFICATE",
    "ENROLLMENT_SECRET",
    "JWT",
    "CLIENT_CERTIFICATE_AND_JWT",
    "EXTERNAL_WEBHOOK",
    "MANUAL_APPROVAL",
]
KeyType = Literal["ECDSA", "RSA", "ED25519"]


class ClientCertificateSettings(SnakeModel):
    """Which bootstrap certificates count."""

    validation_cas: list[Pem] = Field(
        default_factory=list, max_length=16, description="Authorities: ids or names of ours, or certificates in PEM."
    )
    chain_level_validation: int = Field(
        -1, ge=-1, le=8, description="How many steps below one of them a certificate may be; -1 for any."
    )
    allow_expired: bool = Field(False, description="Whether a certificate that has ended may still enrol.")
    trusted_proxies: list[Annotated[str, Field(pattern=PROXY_PIN, examples=["client-cert:" + "0f" * 32])]] = Field(
        default_factory=list,
        max_length=16,
        description="Proxies that may pass certificates on: `client-cert:` or `xfcc:`, the header that the proxy owns,"
        " and the SHA-256 of its SubjectPublicKeyInfo in hexadecimal.",
    )


class JwtSettings(SnakeModel):
    """Whose tokens count."""

    issuer: str = Field(max_length=512, pattern=_HTTPS, description="Its `iss`, exactly.")
    audience: str = Field(min_length=1, max_length=512)
    jwks_uri: str | None = Field(
        None, max_length=1024, pattern=_HTTPS, description="Found by OpenID discovery if not said."
    )
    ca: Pem | None = Field(None, description="The only roots that its server may lead to, in PEM.")
    algorithms: list[Annotated[str, AfterValidator(_algorithm)]] = Field(
        default_factory=lambda: ["ES256"],
        min_length=1,
        max_length=len(ALGORITHMS),
        description=f"Any of {', '.join(ALGORITHMS)}.",
    )
    device_template: Annotated[str, Field(max_length=256), AfterValidator(_template)] = Field(
        "${sub}", description="The device that a token speaks for, from its claims.", examples=["meter-${serial}"]
    )


class WebhookConfig(SnakeModel):
    """How a webhook is asked."""

    call_timeout: Period = "5s"
    ca: Pem | None = Field(None, description="The only roots that its server may lead to, in PEM.")


class WebhookSettings(SnakeModel):
    """The service that is asked about each enrolment."""

    name: str = Field("", max_length=128)
    url: str = Field(max_length=1024, pattern=_HTTPS)
    config: WebhookConfig = WebhookConfig()


class ApprovalSettings(SnakeModel):
    """How an operator's decision is waited for."""

    expires_after: Period = Field("7d", description="How long a request waits, and how long a decision holds.")
    retry_after: int = Field(60, ge=1, le=86_400, description="Seconds after which a device is told to ask again.")
    max_pending: int = Field(1000, ge=1, le=100_000, description="How many may wait at once.")


class EstSettings(SnakeModel):
    """How who enrols proves himself."""

    auth_mode: AuthMode = "CLIENT_CERTIFICATE"
    additional_auth_modes: list[AuthMode] = Field(
        default_factory=list, max_length=5, description="What is asked for as well: all of it."
    )
    client_certificate_settings: ClientCertificateSettings = ClientCertificateSettings()
    jwt_settings: JwtSettings | None = Field(None, description="An external issuer; our own tokens if not said.")
    external_webhook: WebhookSettings | None = None
    manual_approval: ApprovalSettings = ApprovalSettings()
    proof_of_possession: ProofOfPossession = Field(
        ProofOfPossession.OFF, description="Whether requests are linked to their TLS connection."
    )
    csr_attributes: CsrAttributes = Field(CsrAttributes.MINIMAL, description="How much csrattrs asks for.")


class DeviceProvisioningProfile(SnakeModel):
    """What a device that is registered by its enrolment begins with."""

    icon: str = Field("", max_length=128)
    icon_color: str = Field("", max_length=64)
    tags: list[Annotated[str, Field(min_length=1, max_length=64)]] = Field(default_factory=list, max_length=32)
    labels: dict[str, Annotated[str, Field(max_length=256)]] = Field(default_factory=dict, max_length=32)
    metadata: dict[str, Any] = Field(default_factory=dict, max_length=64)
    role: str = Field("device", max_length=63, description="The role that its identity gets, in its own group.")


class EnrollmentSettings(SnakeModel):
    """First enrolments."""

    protocol: Literal["EST_RFC7030"] = "EST_RFC7030"
    registration_mode: Literal["JITP", "PRE_REGISTRATION"] = "JITP"
    enrollment_ca: str | None = Field(
        None, max_length=128, description="Who issues: an authority's id or name; the one of this node if not said."
    )
    certificate_profile: str = Field("device", max_length=64)
    identifier_pattern: str | None = Field(
        None, max_length=128, description="`*` is any characters, `?` one.", examples=["meter-*"]
    )
    enable_replaceable_enrollment: bool = Field(
        True, description="Whether an operator may allow that a device's identity is replaced."
    )
    est_rfc7030_settings: EstSettings = EstSettings()
    device_provisioning_profile: DeviceProvisioningProfile = DeviceProvisioningProfile()


class ReenrollmentSettings(SnakeModel):
    """Renewals."""

    additional_validation_cas: list[Pem] = Field(
        default_factory=list, max_length=16, description="As validation_cas: whose certificates renew too."
    )
    reenrollment_delta: Period | None = Field(
        None, description="How long before its end a certificate may be renewed; at any time if not said."
    )
    preventive_delta: Period = Field("30d", description="How long before its end a device is RENEWAL_PENDING.")
    critical_delta: Period = Field("7d", description="How long before its end it is EXPIRING_SOON.")
    enable_expired_renewal: bool = Field(False, description="Whether a certificate that has ended may still renew.")
    allow_same_key: bool = Field(True, description="Whether the key may stay (renew).")
    allow_new_key: bool = Field(True, description="Whether the key may change (rekey).")
    revoke_on_reenrollment: bool = Field(
        False, description="Whether the previous certificate is revoked when its grace is over."
    )
    grace_period: int = Field(
        0, ge=0, le=_YEAR_SECONDS, description="Seconds for which the previous certificate may still renew."
    )


class CaDistributionSettings(SnakeModel):
    """What cacerts shows."""

    include_enrollment_ca: bool = True
    include_system_ca: bool = Field(False, description="That of our own listeners' certificates.")
    managed_cas: list[Annotated[str, Field(max_length=128)]] = Field(
        default_factory=list, max_length=16, description="Further authorities of ours, by id or name."
    )


class ServerKey(SnakeModel):
    """A kind of key."""

    type: KeyType = "ECDSA"
    bits: int = 256


class ServerKeygenSettings(SnakeModel):
    """Keys that are made here."""

    enabled: bool = False
    key: ServerKey = ServerKey()
    encrypted_only: bool = Field(False, description="Whether keys leave only encrypted to the device.")


class DmsSettings(SnakeModel):
    """All that a label says."""

    enrollment_settings: EnrollmentSettings = EnrollmentSettings()
    reenrollment_settings: ReenrollmentSettings = ReenrollmentSettings()
    ca_distribution_settings: CaDistributionSettings = CaDistributionSettings()
    server_keygen_settings: ServerKeygenSettings = ServerKeygenSettings()


class DmsFields(SnakeModel):
    """A label to put in place of what there is."""

    id: str | None = Field(None, max_length=63, description="As in the path, if it is said.")
    name: str = Field("", max_length=128, description="What people call it.")
    metadata: dict[str, Any] = Field(default_factory=dict, max_length=64)
    creation_ts: datetime | None = Field(None, description="Not changed: what was shown may be sent back.")
    settings: DmsSettings = DmsSettings()


class NewDms(SnakeModel):
    """A label to make."""

    id: str = Field(max_length=63, description="The label in the path of EST.", examples=["meters"])
    name: str = Field("", max_length=128, description="What people call it.")
    metadata: dict[str, Any] = Field(default_factory=dict, max_length=64)
    settings: DmsSettings = DmsSettings()


class MetadataPatch(SnakeModel):
    """A JSON Patch (RFC 6902) of the metadata."""

    patches: list[dict[str, Any]] = Field(max_length=100)


class ProfilePatch(SnakeModel):
    """A JSON Patch (RFC 6902) of what is shown of a label: its `name`, `metadata` and `settings`."""

    patches: list[dict[str, Any]] = Field(
        max_length=100,
        examples=[[{"op": "replace", "path": "/settings/reenrollment_settings/grace_period", "value": 3600}]],
    )


class ShownDms(SnakeShown):
    """A label."""

    id: str
    name: str
    metadata: dict[str, Any]
    creation_ts: datetime
    settings: DmsSettings
    webhook_secret: str | None = Field(None, description="Shown once, by the answer that made it.")


class ShownDmsList(Listed[ShownDms]):
    """A page of labels."""


class ShownStats(SnakeShown):
    """How many labels there are."""

    total: int


class ShownWebhookSecret(SnakeShown):
    """A new secret of a webhook; it is not shown again."""

    secret: str
