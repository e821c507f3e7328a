"""From the JSON of a label to its profile, and back: one function each way, so that nothing is taken and not shown."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ca.authorities import Authorities
from ca.authority import Authority
from ca.inventory import AuthorityKind
from certs.duration import write_duration
from certs.errors import ProfileRefused
from certs.pem import read_certificate, write_certificates
from certs.profile import AlternativeNameRule
from est.durations import duration
from est.http.dms_shapes import (
    ApprovalSettings,
    AuthMode,
    CaDistributionSettings,
    ClientCertificateSettings,
    DeviceProvisioningProfile,
    DmsSettings,
    EnrollmentSettings,
    EstSettings,
    JwtSettings,
    ReenrollmentSettings,
    ServerKeygenSettings,
    WebhookConfig,
    WebhookSettings,
)
from est.http.dms_shapes import ServerKey as ServerKeyShape
from est.profiles import (
    Approval,
    Bootstrap,
    DeviceDefaults,
    Distribution,
    EnrolmentMode,
    EnrolmentProfile,
    OpenIdTrust,
    Renewal,
    ServerKey,
    Settings,
    Way,
    Webhook,
    anchors_from,
    identifier_pattern,
)
from iam.errors import Refused, malformed, not_found
from iam.identifiers import role_name
from iam.model import Tenant

WAYS: Final[Mapping[AuthMode, tuple[Way, ...]]] = {
    "CLIENT_CERTIFICATE_AND_JWT": (Way.CERTIFICATE, Way.TOKEN),
    "CLIENT_CERTIFICATE": (Way.CERTIFICATE,),
    "ENROLLMENT_SECRET": (Way.SECRET,),
    "JWT": (Way.TOKEN,),
    "EXTERNAL_WEBHOOK": (Way.WEBHOOK,),
    "MANUAL_APPROVAL": (Way.APPROVAL,),
}
"""What each mode asks for; of those that a profile's ways hold, the first is shown as its mode."""

_MODES: Final = {"JITP": EnrolmentMode.JITP, "PRE_REGISTRATION": EnrolmentMode.PRE_REGISTERED}
_KEYS: Final = {
    ("ECDSA", 256): ServerKey.P256,
    ("ECDSA", 384): ServerKey.P384,
    ("ECDSA", 521): ServerKey.P521,
    ("RSA", 2048): ServerKey.RSA_2048,
    ("RSA", 3072): ServerKey.RSA_3072,
    ("RSA", 4096): ServerKey.RSA_4096,
    ("ED25519", 256): ServerKey.ED25519,
}
_ANY_LEVEL: Final = -1


@dataclass(frozen=True)
class Visible:
    """What the labels of a tenant may name: authorities and profiles of its own or of a tenant above it."""

    authorities: Authorities
    tenant: Tenant

    def authority(self, named: str) -> Authority:
        """Return an authority by its id or name; raise `Refused` (not found) for any that is not to be seen."""
        found = self.authorities.find(named)
        if found.tenant not in self.tenant.path:
            raise not_found("such authority")
        return found

    def issuing(self, named: str | None) -> Authority:
        """Return an authority whose certificates prove devices: another's would let them in where it is an anchor."""
        if named is None:
            return self.authorities.current(AuthorityKind.ISSUING)
        found = self.authority(named)
        if found.kind is not AuthorityKind.ISSUING:
            raise malformed(f"The authority {found.name} issues no devices' certificates.")
        return found

    def certificate_profile(self, name: str) -> str:
        """Return `name` if it is a profile for devices' own certificates: packaged, the tenant's, or one above's."""
        stored = self.authorities.stored_profile(name)
        try:
            profile = self.authorities.profile(name)
        except ProfileRefused as refused:
            raise malformed("There is no such certificate profile.") from refused
        if stored is not None and stored.tenant not in self.tenant.path:
            raise malformed("There is no such certificate profile.")
        if profile.subject_alternative_name is not AlternativeNameRule.DEVICE_URI:
            raise malformed(f"The certificate profile {name} is not one for devices.")
        return name

    def anchors(self, named: Iterable[str]) -> tuple[bytes, ...]:
        """Return authorities' certificates, by name or as they are given in PEM."""
        found: list[bytes] = []
        for one in named:
            try:
                found += anchors_from(one) if "-----BEGIN" in one else [self.authority(one).der]
            except Refused as refused:
                raise malformed(refused.detail) from refused
        return tuple(dict.fromkeys(found))

    def names(self) -> Mapping[bytes, str]:
        """Return how authorities that are to be seen are named, by their certificates."""
        return {one.der: str(one.id) for one in self.authorities.all if one.tenant in self.tenant.path}


def profile_settings(wanted: DmsSettings, authorities: Authorities, tenant: Tenant) -> dict[str, Any]:
    """Return what a label of a tenant says, checked, as `EnrolmentProfile` calls it.

    Raises:
        Refused: (malformed) Something that no single field could show. (not found) An authority.
    """
    visible = Visible(authorities, tenant)
    first, again = wanted.enrollment_settings, wanted.reenrollment_settings
    device, est = first.device_provisioning_profile, first.est_rfc7030_settings
    keys = wanted.server_keygen_settings
    return {
        "mode": _MODES[first.registration_mode],
        "authority": visible.issuing(first.enrollment_ca).id,
        "certificate_profile": visible.certificate_profile(first.certificate_profile),
        "bootstrap_anchors": visible.anchors(est.client_certificate_settings.validation_cas),
        "identifier_pattern": None
        if first.identifier_pattern is None
        else identifier_pattern(first.identifier_pattern),
        "role_name": role_name(device.role),
        "expired_may_renew": again.enable_expired_renewal,
        "previous_grace": duration(f"{again.grace_period}s"),
        "proof_of_possession": est.proof_of_possession,
        "csr_attributes": est.csr_attributes,
        "server_key_generation": _server_key(keys),
        "encrypted_server_keys_only": keys.encrypted_only,
        "additional_anchors": visible.anchors(again.additional_validation_cas),
        "renewal_window": duration(again.preventive_delta),
        "critical_window": duration(again.critical_delta),
        "settings": _settings(wanted, visible),
    }


def _settings(wanted: DmsSettings, visible: Visible) -> Settings:
    first, again = wanted.enrollment_settings, wanted.reenrollment_settings
    est, device, shown = (
        first.est_rfc7030_settings,
        first.device_provisioning_profile,
        wanted.ca_distribution_settings,
    )
    certificate, approval = est.client_certificate_settings, est.manual_approval
    level = certificate.chain_level_validation
    if level == 0:
        raise malformed("chain_level_validation is -1, or how many steps below an authority: at least 1.")
    return Settings(
        ways=_ways(est),
        replaces=first.enable_replaceable_enrollment,
        bootstrap=Bootstrap(
            None if level == _ANY_LEVEL else level, certificate.allow_expired, tuple(certificate.trusted_proxies)
        ),
        openid=_openid(est.jwt_settings),
        webhook=_webhook(est.external_webhook),
        approval=Approval(duration(approval.expires_after), duration(f"{approval.retry_after}s"), approval.max_pending),
        renewal=Renewal(
            None if again.reenrollment_delta is None else duration(again.reenrollment_delta),
            again.allow_same_key,
            again.allow_new_key,
            again.revoke_on_reenrollment,
        ),
        distribution=Distribution(
            shown.include_enrollment_ca,
            shown.include_system_ca,
            tuple(visible.authority(name).id for name in shown.managed_cas),
        ),
        device=DeviceDefaults(tuple(device.tags), device.labels, device.metadata, device.icon, device.icon_color),
    )


def _ways(est: EstSettings) -> tuple[Way, ...]:
    asked = {way for mode in (est.auth_mode, *est.additional_auth_modes) for way in WAYS[mode]}
    return tuple(way for way in Way if way in asked)


def _openid(wanted: JwtSettings | None) -> OpenIdTrust | None:
    if wanted is None:
        return None
    if wanted.ca is not None:
        anchors_from(wanted.ca)
    return OpenIdTrust(
        wanted.issuer,
        wanted.audience,
        wanted.jwks_uri,
        wanted.ca,
        tuple(dict.fromkeys(wanted.algorithms)),
        wanted.device_template,
    )


def _webhook(wanted: WebhookSettings | None) -> Webhook | None:
    if wanted is None:
        return None
    deadline = duration(wanted.config.call_timeout)
    if not 1 <= deadline.total_seconds() <= 15:  # noqa: PLR2004 - a device waits no longer for its answer
        raise malformed("call_timeout is between 1s and 15s.")
    if wanted.config.ca is not None:
        anchors_from(wanted.config.ca)
    return Webhook(wanted.url, wanted.name, wanted.config.ca, deadline)


def _server_key(wanted: ServerKeygenSettings) -> ServerKey | None:
    if not wanted.enabled:
        return None
    kind = _KEYS.get((wanted.key.type, wanted.key.bits))
    if kind is None:
        known = ", ".join(f"{name} {bits}" for name, bits in _KEYS)
        raise malformed(f"No such keys are made here; there are {known}.")
    return kind


def shown_settings(profile: EnrolmentProfile, authorities: Authorities, tenant: Tenant) -> DmsSettings:
    """Return what a label says, as it may be sent back."""
    ours = Visible(authorities, tenant).names()
    settings, renewal = profile.settings, profile.settings.renewal
    return DmsSettings(
        enrollment_settings=EnrollmentSettings(
            registration_mode="JITP" if profile.mode is EnrolmentMode.JITP else "PRE_REGISTRATION",
            enrollment_ca=str(profile.authority),
            certificate_profile=profile.certificate_profile,
            identifier_pattern=profile.identifier_pattern,
            enable_replaceable_enrollment=settings.replaces,
            est_rfc7030_settings=_shown_est(profile, ours),
            device_provisioning_profile=DeviceProvisioningProfile(
                icon=settings.device.icon,
                icon_color=settings.device.icon_color,
                tags=list(settings.device.tags),
                labels=dict(settings.device.labels),
                metadata=dict(settings.device.metadata),
                role=profile.role_name,
            ),
        ),
        reenrollment_settings=ReenrollmentSettings(
            additional_validation_cas=_shown_anchors(profile.additional_anchors, ours),
            reenrollment_delta=None if renewal.opens is None else write_duration(renewal.opens),
            preventive_delta=write_duration(profile.renewal_window),
            critical_delta=write_duration(profile.critical_window),
            enable_expired_renewal=profile.expired_may_renew,
            allow_same_key=renewal.with_same_key,
            allow_new_key=renewal.with_new_key,
            revoke_on_reenrollment=renewal.revokes_previous,
            grace_period=int(profile.previous_grace.total_seconds()),
        ),
        ca_distribution_settings=CaDistributionSettings(
            include_enrollment_ca=settings.distribution.own,
            include_system_ca=settings.distribution.system,
            managed_cas=[str(one) for one in settings.distribution.others],
        ),
        server_keygen_settings=_shown_server_key(profile),
    )


def _shown_est(profile: EnrolmentProfile, ours: Mapping[bytes, str]) -> EstSettings:
    settings = profile.settings
    bootstrap, approval = settings.bootstrap, settings.approval
    modes: list[AuthMode] = []
    left = set(settings.ways)
    for mode, ways in WAYS.items():
        if left.issuperset(ways):
            modes.append(mode)
            left.difference_update(ways)
    return EstSettings(
        auth_mode=modes[0],
        additional_auth_modes=modes[1:],
        client_certificate_settings=ClientCertificateSettings(
            validation_cas=_shown_anchors(profile.bootstrap_anchors, ours),
            chain_level_validation=bootstrap.longest_path or _ANY_LEVEL,
            allow_expired=bootstrap.expired_is_allowed,
            trusted_proxies=list(bootstrap.proxies),
        ),
        jwt_settings=None if settings.openid is None else _shown_openid(settings.openid),
        external_webhook=None if settings.webhook is None else _shown_webhook(settings.webhook),
        manual_approval=ApprovalSettings(
            expires_after=write_duration(approval.expires_after),
            retry_after=int(approval.retry_after.total_seconds()),
            max_pending=approval.most_waiting,
        ),
        proof_of_possession=profile.proof_of_possession,
        csr_attributes=profile.csr_attributes,
    )


def _shown_openid(trust: OpenIdTrust) -> JwtSettings:
    return JwtSettings(
        issuer=trust.issuer,
        audience=trust.audience,
        jwks_uri=trust.jwks_uri,
        ca=trust.authorities,
        algorithms=list(trust.algorithms),
        device_template=trust.device,
    )


def _shown_webhook(webhook: Webhook) -> WebhookSettings:
    config = WebhookConfig(call_timeout=write_duration(webhook.deadline), ca=webhook.authorities)
    return WebhookSettings(name=webhook.name, url=webhook.url, config=config)


def _shown_server_key(profile: EnrolmentProfile) -> ServerKeygenSettings:
    made, only = profile.server_key_generation, profile.encrypted_server_keys_only
    if made is None:
        return ServerKeygenSettings(encrypted_only=only)
    (kind, bits), *_ = [named for named, key in _KEYS.items() if key is made]
    key = ServerKeyShape.model_validate({"type": kind, "bits": bits})
    return ServerKeygenSettings(enabled=True, key=key, encrypted_only=only)


def _shown_anchors(anchors: Iterable[bytes], ours: Mapping[bytes, str]) -> list[str]:
    return [ours.get(der) or write_certificates([read_certificate(der)]).decode() for der in anchors]
