"""Enrolment profiles over REST, for operators."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from pydantic import Field

from ca.inventory import stored_serial
from certs.names import device_identifier
from certs.pem import read_certificate, write_certificates
from est.administration import ProfileService
from est.profiles import (
    CsrAttributes,
    EnrolmentMode,
    EnrolmentProfile,
    ProofOfPossession,
    ServerKey,
    bootstrap_anchors,
    certificate_profile,
    identifier_pattern,
    label,
)
from est.store.profiles import BootstrapBinding, IssuerAndSerial
from iam.errors import malformed
from iam.guard import Answer, Call, Needs, Route
from iam.identifiers import role_name
from iam.paging import PageQuery
from iam.permissions import Action, Resource
from iam.schema import Model, Shown

_PROFILES_TAG = "Enrolment profiles"
_PROFILES = "/api/v1/est/profiles"
_PROFILE = _PROFILES + "/{profileName}"
_BINDING = "/api/v1/est/bindings/{deviceIdentifier}"
_YEAR_SECONDS = 366 * 24 * 3600


class ProfileFields(Model):
    """What an operator may change of a profile."""

    mode: EnrolmentMode | None = None
    certificate_profile: str | None = Field(None, max_length=64)
    bootstrap_anchors: str | None = Field(None, max_length=128 * 1024, description="Authorities' certificates in PEM.")
    identifier_pattern: str | None = Field(
        None, max_length=128, description="`*` is any characters, `?` one; null for none.", examples=["meter-*"]
    )
    role_name: str | None = Field(None, max_length=63)
    expired_may_renew: bool | None = None
    previous_grace_seconds: int | None = Field(None, ge=0, le=_YEAR_SECONDS)
    proof_of_possession: ProofOfPossession | None = Field(
        None, description="Whether requests are linked to their TLS connection."
    )
    csr_attributes: CsrAttributes | None = Field(None, description="How much csrattrs asks for.")
    server_key_generation: ServerKey | None = Field(
        None, description="The kind of key that serverkeygen makes; null to make none."
    )
    encrypted_server_keys_only: bool | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What was sent, checked, as `EnrolmentProfile` calls it."""
        checks: dict[str, Callable[[Any], Any]] = {
            "mode": EnrolmentMode,
            "certificate_profile": certificate_profile,
            "bootstrap_anchors": bootstrap_anchors,
            "role_name": role_name,
            "expired_may_renew": bool,
            "proof_of_possession": ProofOfPossession,
            "csr_attributes": CsrAttributes,
            "encrypted_server_keys_only": bool,
        }
        sent = self.model_dump(exclude_unset=True)
        settings = {name: check(sent[name]) for name, check in checks.items() if sent.get(name) is not None}
        if "identifier_pattern" in sent:
            pattern = sent["identifier_pattern"]
            settings["identifier_pattern"] = None if pattern is None else identifier_pattern(pattern)
        if "server_key_generation" in sent:
            settings["server_key_generation"] = sent["server_key_generation"]
        if sent.get("previous_grace_seconds") is not None:
            settings["previous_grace"] = timedelta(seconds=sent["previous_grace_seconds"])
        return settings


class NewProfile(ProfileFields):
    """A profile to make."""

    name: str = Field(max_length=63, description="The label in the path.", examples=["meters"])
    bootstrap_anchors: str = Field(max_length=128 * 1024, description="Authorities' certificates in PEM.")

    @property
    def complete_settings(self) -> dict[str, Any]:
        """What was sent, and the defaults of the rest."""
        defaults = {
            "mode": EnrolmentMode.JITP,
            "certificate_profile": "device",
            "identifier_pattern": None,
            "role_name": "device",
            "expired_may_renew": False,
            "previous_grace": timedelta(0),
        }
        return {**defaults, **self.settings, "name": label(self.name)}


class ShownProfile(Shown):
    """An enrolment profile."""

    name: str
    mode: str
    certificate_profile: str
    bootstrap_anchors: str
    identifier_pattern: str | None
    role_name: str
    expired_may_renew: bool
    previous_grace_seconds: int
    proof_of_possession: str
    csr_attributes: str
    server_key_generation: str | None
    encrypted_server_keys_only: bool
    created: datetime


class ShownProfiles(Shown):
    """A page of enrolment profiles."""

    items: list[ShownProfile]
    next: str | None


class BindingBody(Model):
    """The bootstrap certificate that a device is bound to: by its key, its serial number, or both."""

    public_key_sha256: str | None = Field(
        None, pattern="^[0-9a-f]{64}$", description="Of the SubjectPublicKeyInfo in DER, in hexadecimal."
    )
    serial: str | None = Field(None, pattern="^([0-9a-f]{2}){1,20}$", description="In hexadecimal.")
    issuer_public_key_sha256: str | None = Field(
        None, pattern="^[0-9a-f]{64}$", description="Whose serial number it is: of the issuer's SubjectPublicKeyInfo."
    )

    @property
    def binding(self) -> BootstrapBinding:
        """The same, in bytes; raises `Refused` (malformed) if it binds to nothing, or to anybody's serial number."""
        if self.public_key_sha256 is None and self.serial is None:
            raise malformed("Give the SHA-256 of the key, the serial number with its issuer, or both.")
        return BootstrapBinding(
            None if self.public_key_sha256 is None else bytes.fromhex(self.public_key_sha256), self._issuer_and_serial
        )

    @property
    def _issuer_and_serial(self) -> IssuerAndSerial | None:
        if self.serial is None and self.issuer_public_key_sha256 is None:
            return None
        if self.serial is None or self.issuer_public_key_sha256 is None:
            raise malformed("A serial number is one issuer's: give serial and issuerPublicKeySha256 together.")
        return IssuerAndSerial(bytes.fromhex(self.issuer_public_key_sha256), stored_serial(int(self.serial, 16)))


def routes(service: ProfileService) -> list[Route]:
    """Return the routes of enrolment profiles."""

    async def create(call: Call) -> Answer:
        body: NewProfile = call.body
        profile = await service.create(call.caller.access, call.tenant, body.complete_settings)
        return Answer(201, _show(profile), {"Location": f"{_PROFILES}/{profile.name}"})

    async def list_profiles(call: Call) -> Answer:
        page = await service.page(call.tenant, call.query)
        return Answer(content=ShownProfiles(items=[_show(one) for one in page.items], next=page.next))

    async def get(call: Call) -> Answer:
        return Answer(content=_show(await service.get(call.tenant, label(call.path["profileName"]))))

    async def change(call: Call) -> Answer:
        body: ProfileFields = call.body
        name = label(call.path["profileName"])
        return Answer(content=_show(await service.change(call.caller.access, call.tenant, name, body.settings)))

    async def delete(call: Call) -> Answer:
        await service.delete(call.caller.access, call.tenant, label(call.path["profileName"]))
        return Answer(204)

    async def bind(call: Call) -> Answer:
        body: BindingBody = call.body
        identifier = device_identifier(call.path["deviceIdentifier"])
        call.require_device(Action.UPDATE, Resource.EST_PROFILES, identifier)
        await service.bind(call.caller.access, call.tenant, identifier, body.binding)
        return Answer(204)

    def needs(action: Action) -> Needs:
        return Needs(action, Resource.EST_PROFILES)

    return [
        Route(
            "POST",
            _PROFILES,
            create,
            needs(Action.CREATE),
            "Make an enrolment profile",
            _PROFILES_TAG,
            body=NewProfile,
            answers=ShownProfile,
            status=201,
        ),
        Route(
            "GET",
            _PROFILES,
            list_profiles,
            needs(Action.READ),
            "List enrolment profiles",
            _PROFILES_TAG,
            query=PageQuery,
            answers=ShownProfiles,
        ),
        Route("GET", _PROFILE, get, needs(Action.READ), "Get a profile", _PROFILES_TAG, answers=ShownProfile),
        Route(
            "PATCH",
            _PROFILE,
            change,
            needs(Action.UPDATE),
            "Change a profile; it takes effect within two seconds",
            _PROFILES_TAG,
            body=ProfileFields,
            answers=ShownProfile,
        ),
        Route(
            "PUT",
            _BINDING,
            bind,
            needs(Action.UPDATE),
            "Bind a registered device to its bootstrap certificate",
            _PROFILES_TAG,
            body=BindingBody,
            status=204,
        ),
        Route("DELETE", _PROFILE, delete, needs(Action.DELETE), "Delete a profile", _PROFILES_TAG, status=204),
    ]


def _show(profile: EnrolmentProfile) -> ShownProfile:
    anchors = write_certificates(map(read_certificate, profile.bootstrap_anchors))
    return ShownProfile(
        name=profile.name,
        mode=profile.mode,
        certificate_profile=profile.certificate_profile,
        bootstrap_anchors=anchors.decode(),
        identifier_pattern=profile.identifier_pattern,
        role_name=profile.role_name,
        expired_may_renew=profile.expired_may_renew,
        previous_grace_seconds=int(profile.previous_grace.total_seconds()),
        proof_of_possession=profile.proof_of_possession,
        csr_attributes=profile.csr_attributes,
        server_key_generation=profile.server_key_generation,
        encrypted_server_keys_only=profile.encrypted_server_keys_only,
        created=profile.created,
    )
