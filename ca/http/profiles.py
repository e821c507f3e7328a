"""Issuance profiles over REST, in the paths and, adapted, the JSON of Lamassu's CA API.

A profile says exactly what a certificate holds, and a request only asks: so `honor_key_usage` and its like, which let a
request have its way in Lamassu, are false here and can be nothing else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from pydantic import Field

from ca.http.authority_bodies import ValidityBody
from ca.issuance_profiles import IssuanceProfile, IssuanceProfiles
from certs.duration import write_duration
from certs.keys import KeyAlgorithm, KeyPolicy
from certs.profile import EXTENDED_KEY_USAGES, AlternativeNameRule, Profile, SubjectRule
from iam.guard import Call, Needs, Route
from iam.listing import Listed, ListQuery
from iam.permissions import Action, Resource
from iam.responses import Answer
from iam.schema import SnakeModel, SnakeShown

_TAG = "Issuance profiles"
_PROFILES = "/api/ca/v1/profiles"
_PROFILE = f"{_PROFILES}/{{profile}}"

_LAMASSU_KEY_USAGES = {
    "DigitalSignature": "digital_signature",
    "ContentCommitment": "content_commitment",
    "KeyEncipherment": "key_encipherment",
    "DataEncipherment": "data_encipherment",
    "KeyAgreement": "key_agreement",
    "CertSign": "key_cert_sign",
    "CRLSign": "crl_sign",
}
_LAMASSU_PURPOSES = {
    "ClientAuth": ExtendedKeyUsageOID.CLIENT_AUTH,
    "ServerAuth": ExtendedKeyUsageOID.SERVER_AUTH,
    "OCSPSigning": ExtendedKeyUsageOID.OCSP_SIGNING,
    "CodeSigning": ExtendedKeyUsageOID.CODE_SIGNING,
    "EmailProtection": ExtendedKeyUsageOID.EMAIL_PROTECTION,
    "TimeStamping": ExtendedKeyUsageOID.TIME_STAMPING,
}
_PURPOSE_WORDS = {oid: word for word, oid in EXTENDED_KEY_USAGES.items()}
_CURVES = {256: KeyAlgorithm.P256, 384: KeyAlgorithm.P384, 521: KeyAlgorithm.P521}
_ML_DSA = {44: KeyAlgorithm.ML_DSA_44, 65: KeyAlgorithm.ML_DSA_65, 87: KeyAlgorithm.ML_DSA_87}
_RSA_BITS = (2048, 3072, 4096)

Word = Annotated[str, Field(max_length=128)]
Words = Annotated[list[Word], Field(max_length=32)]


class KeyRules(SnakeModel):
    """Which keys are taken; all kinds, unless `enabled`."""

    enabled: bool = False
    allow_rsa_keys: bool = False
    allowed_rsa_key_sizes: list[Literal[2048, 3072, 4096]] = Field(
        default=[2048, 3072, 4096], description="The least and the largest of these bound the sizes that are taken."
    )
    allow_ecdsa_keys: bool = False
    allowed_ecdsa_key_sizes: list[Literal[256, 384, 521]] = Field(default=[256, 384, 521])
    allow_ed25519_keys: bool = False
    allow_mldsa_keys: bool = False
    allowed_mldsa_security_versions: list[Literal[44, 65, 87]] = Field(default=[44, 65, 87])

    @property
    def settings(self) -> dict[str, Any]:
        """The same, as a profile's settings say it."""
        algorithms = set(KeyAlgorithm)
        if self.enabled:
            algorithms = {
                *({KeyAlgorithm.RSA} if self.allow_rsa_keys and self.allowed_rsa_key_sizes else ()),
                *((_CURVES[bits] for bits in self.allowed_ecdsa_key_sizes) if self.allow_ecdsa_keys else ()),
                *({KeyAlgorithm.ED25519} if self.allow_ed25519_keys else ()),
                *((_ML_DSA[one] for one in self.allowed_mldsa_security_versions) if self.allow_mldsa_keys else ()),
            }
        sizes = self.allowed_rsa_key_sizes if self.enabled and self.allowed_rsa_key_sizes else _RSA_BITS
        return {
            "key_algorithms": sorted(one.value for one in algorithms),
            "rsa_minimum_bits": min(sizes),
            "rsa_maximum_bits": max(sizes),
        }


class ProfileBody(SnakeModel):
    """What certificates of a profile hold."""

    name: str = Field(max_length=128)
    description: str = Field("", max_length=1024)
    validity: ValidityBody
    backdate_minutes: int = 5
    sign_as_ca: bool = False
    path_length: int | None = Field(None, ge=0, le=4, description="Of authorities; 0 if not said.")
    honor_key_usage: Literal[False] = False
    key_usage: Words = Field(default=[], description="DigitalSignature, KeyEncipherment, CertSign, CRLSign, ...")
    honor_extended_key_usages: Literal[False] = False
    extended_key_usages: Words = Field(default=[], description="ClientAuth, ServerAuth, ..., or object identifiers.")
    honor_subject: Literal[False] = False
    honor_extensions: Literal[False] = False
    crypto_enforcement: KeyRules = KeyRules()
    subject: SubjectRule = Field(SubjectRule.DEVICE_IDENTIFIER, description="What the subject is.")
    subject_alternative_name: AlternativeNameRule = AlternativeNameRule.DEVICE_URI
    certificate_policies: Words = Field(default=[], description="Object identifiers.")
    subject_key_identifier: bool = True
    authority_key_identifier: bool = True
    crl_distribution_points: bool = True
    authority_information_access: bool = True
    ocsp: bool = True

    @property
    def settings(self) -> dict[str, Any]:
        """The same, as `certs.profile.read_profile` takes it; what is wrong in it is found there."""
        period = self.validity.period
        return {
            "name": self.name,
            "authority": self.sign_as_ca,
            **({"path_length": self.path_length or 0} if self.sign_as_ca else {}),
            "validity": period.isoformat() if isinstance(period, datetime) else write_duration(period),
            "backdate_minutes": self.backdate_minutes,
            **self.crypto_enforcement.settings,
            "key_usage": [_LAMASSU_KEY_USAGES.get(one, one) for one in self.key_usage],
            "extended_key_usage": [_purpose(one) for one in self.extended_key_usages],
            "certificate_policies": self.certificate_policies,
            "subject": self.subject.value,
            "subject_alternative_name": self.subject_alternative_name.value,
            "subject_key_identifier": self.subject_key_identifier,
            "authority_key_identifier": self.authority_key_identifier,
            "crl_distribution_points": self.crl_distribution_points,
            "authority_information_access": self.authority_information_access,
            "ocsp": self.ocsp and self.authority_information_access,
            "ocsp_no_check": False,
        }


class ShownValidity(SnakeShown):
    """How long a certificate lasts, or until when."""

    type: str
    duration: str | None
    time: datetime | None


class ShownProfile(SnakeShown):
    """What certificates of a profile hold."""

    id: str
    name: str
    description: str
    read_only: bool = Field(description="It comes with the program.")
    validity: ShownValidity
    backdate_minutes: int
    sign_as_ca: bool
    path_length: int | None
    honor_key_usage: bool = False
    key_usage: Sequence[str]
    honor_extended_key_usages: bool = False
    extended_key_usages: Sequence[str]
    honor_subject: bool = False
    honor_extensions: bool = False
    crypto_enforcement: Mapping[str, Any]
    subject: str
    subject_alternative_name: str
    certificate_policies: Sequence[str]
    subject_key_identifier: bool
    authority_key_identifier: bool
    crl_distribution_points: bool
    authority_information_access: bool
    ocsp: bool


def routes(service: IssuanceProfiles) -> list[Route]:
    """Return the routes of issuance profiles."""
    do = _Handlers(service)
    create, read, update, delete = (Needs(action, Resource.CA_PROFILES) for action in Action)
    return [
        Route(
            "GET",
            _PROFILES,
            do.list_all,
            read,
            "List issuance profiles",
            _TAG,
            query=ListQuery,
            answers=Listed[ShownProfile],
        ),
        Route(
            "POST",
            _PROFILES,
            do.create,
            create,
            "Make an issuance profile",
            _TAG,
            body=ProfileBody,
            answers=ShownProfile,
            status=201,
        ),
        Route("GET", _PROFILE, do.get, read, "Get an issuance profile", _TAG, answers=ShownProfile),
        Route(
            "PUT",
            _PROFILE,
            do.replace,
            update,
            "Replace what an issuance profile says",
            _TAG,
            body=ProfileBody,
            answers=ShownProfile,
        ),
        Route("DELETE", _PROFILE, do.delete, delete, "Delete an issuance profile that nothing uses", _TAG, status=204),
    ]


@dataclass(frozen=True, slots=True)
class _Handlers:
    """What the routes above do."""

    service: IssuanceProfiles

    async def list_all(self, call: Call) -> Answer:
        page = await self.service.page(call.tenant, call.query)
        return Answer(content=Listed(next=page.next, items=[_show(one) for one in page.items]))

    async def create(self, call: Call) -> Answer:
        body: ProfileBody = call.body
        access, tenant = call.caller.access, call.tenant
        made = await self.service.create(access, tenant, body.name, body.description, body.settings)
        return Answer(201, content=_show(made))

    async def get(self, call: Call) -> Answer:
        return Answer(content=_show(await self.service.get(call.tenant, call.path["profile"])))

    async def replace(self, call: Call) -> Answer:
        body: ProfileBody = call.body
        access, tenant, identifier = call.caller.access, call.tenant, call.path["profile"]
        changed = await self.service.replace(access, tenant, identifier, body.name, body.description, body.settings)
        return Answer(content=_show(changed))

    async def delete(self, call: Call) -> Answer:
        await self.service.delete(call.caller.access, call.tenant, call.path["profile"])
        return Answer(204)


def _purpose(word: str) -> str:
    oid = _LAMASSU_PURPOSES.get(word)
    return _PURPOSE_WORDS[oid] if oid is not None else word


def _show(one: IssuanceProfile) -> ShownProfile:
    profile = one.profile
    usages = {theirs for theirs, ours in _LAMASSU_KEY_USAGES.items() if getattr(profile.key_usage, ours)}
    return ShownProfile(
        id=one.id,
        name=one.stored.name if one.stored else one.id,
        description=one.stored.description if one.stored else "",
        read_only=one.stored is None,
        validity=_show_validity(profile),
        backdate_minutes=int(profile.backdate.total_seconds() // 60),
        sign_as_ca=profile.is_authority,
        path_length=profile.basic_constraints.path_length,
        key_usage=[theirs for theirs in _LAMASSU_KEY_USAGES if theirs in usages],
        extended_key_usages=[_show_purpose(each) for each in profile.extended_key_usage or ()],
        crypto_enforcement=_show_key_rules(profile.key_policy),
        subject=profile.subject.value,
        subject_alternative_name=profile.subject_alternative_name.value,
        certificate_policies=[each.policy_identifier.dotted_string for each in profile.certificate_policies or ()],
        subject_key_identifier=profile.subject_key_identifier,
        authority_key_identifier=profile.authority_key_identifier,
        crl_distribution_points=profile.crl_distribution_points,
        authority_information_access=profile.authority_information_access,
        ocsp=profile.ocsp,
    )


def _show_validity(profile: Profile) -> ShownValidity:
    if profile.ends is not None:
        return ShownValidity(type="Time", duration=None, time=profile.ends)
    return ShownValidity(type="Duration", duration=write_duration(profile.validity), time=None)


def _show_purpose(oid: x509.ObjectIdentifier) -> str:
    return next((word for word, known in _LAMASSU_PURPOSES.items() if known == oid), oid.dotted_string)


def _show_key_rules(policy: KeyPolicy) -> dict[str, Any]:
    curves = [bits for bits, one in _CURVES.items() if one in policy.algorithms]
    versions = [one for one, algorithm in _ML_DSA.items() if algorithm in policy.algorithms]
    return {
        "enabled": True,
        "allow_rsa_keys": KeyAlgorithm.RSA in policy.algorithms,
        "allowed_rsa_key_sizes": [
            bits for bits in _RSA_BITS if policy.rsa_minimum_bits <= bits <= policy.rsa_maximum_bits
        ],
        "allow_ecdsa_keys": bool(curves),
        "allowed_ecdsa_key_sizes": curves,
        "allow_ed25519_keys": KeyAlgorithm.ED25519 in policy.algorithms,
        "allow_mldsa_keys": bool(versions),
        "allowed_mldsa_security_versions": versions,
    }
