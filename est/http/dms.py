"""Enrolment profiles over REST, for operators, in the paths of Lamassu's DMS Manager."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from pydantic import Field

from ca.authorities import Authorities
from ca.inventory import stored_serial
from certs.names import device_identifier
from certs.pem import read_certificate, write_certificates
from est.administration import ProfileService
from est.http.dms_mapping import profile_settings, shown_settings
from est.http.dms_shapes import (
    DmsFields,
    DmsSettings,
    MetadataPatch,
    NewDms,
    ProfilePatch,
    ShownDms,
    ShownDmsList,
    ShownStats,
    ShownWebhookSecret,
)
from est.identities import IdentityBinder
from est.profiles import EnrolmentProfile, label
from est.store.profiles import BootstrapBinding, IssuerAndSerial
from iam.bodies import JSON_LIMIT_BYTES, parsed
from iam.errors import Kind, Refused, malformed
from iam.guard import Call, Needs, Route
from iam.json_patch import Operation, apply_patch, read_patch
from iam.listing import ListQuery
from iam.model import Tenant
from iam.permissions import Action, Resource
from iam.responses import Answer
from iam.schema import SnakeModel, SnakeShown

DMS = "/api/dmsmanager/v1/dms"
ONE_DMS = DMS + "/{label}"
DMS_TAG = "Enrolment profiles"
_STATS = "/api/dmsmanager/v1/stats"
_BINDING = "/api/dmsmanager/v1/bindings/{deviceIdentifier}"


class BindingBody(SnakeModel):
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
            raise malformed("A serial number is one issuer's: give serial and issuer_public_key_sha256 together.")
        return IssuerAndSerial(bytes.fromhex(self.issuer_public_key_sha256), stored_serial(int(self.serial, 16)))


class BindIdentity(SnakeModel):
    """A certificate that was issued here, to become the identity of a device."""

    device_id: str = Field(max_length=128)
    certificate_serial_number: str = Field(pattern="^([0-9A-Fa-f]{2}[-:]?){1,20}$", description="In hexadecimal.")
    dms_id: str | None = Field(None, max_length=63, description="Whose device it becomes; its own label if not said.")


class BoundCertificate(SnakeShown):
    """The certificate of a device."""

    serial_number: str
    status: str
    valid_from: datetime
    valid_to: datetime
    certificate: str = Field(description="PEM")


class BoundDevice(SnakeShown):
    """The device that has it."""

    id: str
    status: str
    identity: str | None
    dms_owner: str | None


class ShownIdentity(SnakeShown):
    """What was bound to what."""

    certificate: BoundCertificate
    dms: ShownDms
    device: BoundDevice


class ShownBinding(SnakeShown):
    """The bootstrap certificate that a device is bound to."""

    public_key_sha256: str | None
    serial: str | None
    issuer_public_key_sha256: str | None


def profile_routes(service: ProfileService, authorities: Authorities) -> list[Route]:  # noqa: C901 - small handlers
    """Return the routes of enrolment profiles."""
    show = partial(_show, authorities)

    def read(call: Call, settings: DmsSettings) -> dict[str, Any]:
        return profile_settings(settings, authorities, call.tenant)

    async def create(call: Call) -> Answer:
        body: NewDms = call.body
        wanted = {"name": label(body.id), "title": body.name, "metadata": body.metadata, **read(call, body.settings)}
        _check_usable(authorities, call, wanted)
        made = await service.create(call.caller.access, call.tenant, wanted)
        return Answer(
            201, show(call.tenant, made.profile, made.webhook_secret), {"Location": f"{DMS}/{made.profile.name}"}
        )

    async def list_profiles(call: Call) -> Answer:
        page = await service.page(call.tenant, call.query)
        return Answer(content=ShownDmsList(items=[show(call.tenant, one) for one in page.items], next=page.next))

    async def get(call: Call) -> Answer:
        return Answer(content=show(call.tenant, await service.get(call.tenant, named_label(call))))

    def revised(call: Call, fields: DmsFields, known: EnrolmentProfile) -> dict[str, Any]:
        """Return what a profile is to say, checked as a whole."""
        if fields.id not in (None, known.name):
            raise malformed("A label keeps its id: make a new one instead.")
        wanted = {"title": fields.name, "metadata": fields.metadata, **read(call, fields.settings)}
        _check_usable(authorities, call, wanted, known)
        return wanted

    async def replace(call: Call) -> Answer:
        body: DmsFields = call.body
        changed = await service.change(
            call.caller.access, call.tenant, named_label(call), lambda known: revised(call, body, known)
        )
        return Answer(content=show(call.tenant, changed.profile, changed.webhook_secret))

    async def patch(call: Call) -> Answer:
        body: ProfilePatch = call.body
        operations = read_patch(body.patches)
        changed = await service.change(
            call.caller.access,
            call.tenant,
            named_label(call),
            lambda known: revised(call, _patched(show(call.tenant, known), operations), known),
        )
        return Answer(content=show(call.tenant, changed.profile, changed.webhook_secret))

    async def patch_metadata(call: Call) -> Answer:
        body: MetadataPatch = call.body
        patched = partial(apply_patch, patch=read_patch(body.patches))
        changed = await service.change_metadata(call.caller.access, call.tenant, named_label(call), patched)
        return Answer(content=show(call.tenant, changed))

    async def new_webhook_secret(call: Call) -> Answer:
        secret = await service.new_webhook_secret(call.caller.access, call.tenant, named_label(call))
        return Answer(201, ShownWebhookSecret(secret=secret))

    async def delete(call: Call) -> Answer:
        await service.delete(call.caller.access, call.tenant, named_label(call))
        return Answer(204)

    async def stats(call: Call) -> Answer:
        return Answer(content=ShownStats(total=await service.count(call.tenant)))

    may_create, may_read, may_update, may_delete = (
        Needs(action, Resource.EST_PROFILES) for action in (Action.CREATE, Action.READ, Action.UPDATE, Action.DELETE)
    )
    metadata, patches = ONE_DMS + "/metadata", "Change a profile's metadata by JSON Patch"
    return [
        Route("POST", DMS, create, may_create, "Make a profile", DMS_TAG, body=NewDms, answers=ShownDms, status=201),
        Route("GET", DMS, list_profiles, may_read, "List profiles", DMS_TAG, query=ListQuery, answers=ShownDmsList),
        Route("GET", _STATS, stats, may_read, "Count profiles", DMS_TAG, answers=ShownStats),
        Route("GET", ONE_DMS, get, may_read, "Get a profile", DMS_TAG, answers=ShownDms),
        Route(
            "PUT",
            ONE_DMS,
            replace,
            may_update,
            "Replace what a profile says; it takes effect within two seconds",
            DMS_TAG,
            body=DmsFields,
            answers=ShownDms,
        ),
        Route(
            "PATCH",
            ONE_DMS,
            patch,
            may_update,
            "Change what a profile says by JSON Patch; it takes effect within two seconds",
            DMS_TAG,
            body=ProfilePatch,
            answers=ShownDms,
        ),
        *(
            Route(method, metadata, patch_metadata, may_update, patches, DMS_TAG, body=MetadataPatch, answers=ShownDms)
            for method in ("PUT", "PATCH")  # Lamassu's clients use either
        ),
        Route("DELETE", ONE_DMS, delete, may_delete, "Delete a profile", DMS_TAG, status=204),
        Route(
            "POST",
            ONE_DMS + "/webhook-secret",
            new_webhook_secret,
            may_update,
            "Make a new secret for a profile's webhook",
            DMS_TAG,
            answers=ShownWebhookSecret,
            status=201,
        ),
    ]


def binding_routes(service: ProfileService) -> list[Route]:
    """Return the routes of what devices are bound to."""

    def bound_device(call: Call, action: Action) -> str:
        identifier = device_identifier(call.path["deviceIdentifier"])
        call.require_device(action, Resource.EST_PROFILES, identifier)
        return identifier

    async def bind(call: Call) -> Answer:
        body: BindingBody = call.body
        await service.bind(call.caller.access, call.tenant, bound_device(call, Action.UPDATE), body.binding)
        return Answer(204)

    async def get_binding(call: Call) -> Answer:
        return Answer(content=_show_binding(await service.binding(call.tenant, bound_device(call, Action.READ))))

    async def unbind(call: Call) -> Answer:
        await service.unbind(call.caller.access, call.tenant, bound_device(call, Action.UPDATE))
        return Answer(204)

    may_read, may_update = (Needs(action, Resource.EST_PROFILES) for action in (Action.READ, Action.UPDATE))
    return [
        Route(
            "PUT",
            _BINDING,
            bind,
            may_update,
            "Bind a registered device to its bootstrap certificate",
            DMS_TAG,
            body=BindingBody,
            status=204,
        ),
        Route("GET", _BINDING, get_binding, may_read, "Get what a device is bound to", DMS_TAG, answers=ShownBinding),
        Route("DELETE", _BINDING, unbind, may_update, "Take a device's binding away", DMS_TAG, status=204),
    ]


def identity_routes(service: IdentityBinder, authorities: Authorities) -> list[Route]:
    """Return the route that makes a certificate a device's identity."""

    async def bind_identity(call: Call) -> Answer:
        body: BindIdentity = call.body
        identifier = str(device_identifier(body.device_id))
        call.require_device(Action.CREATE, Resource.EST_ENROLMENTS, identifier)
        name = None if body.dms_id is None else label(body.dms_id)
        serial = stored_serial(int(body.certificate_serial_number.replace("-", "").replace(":", ""), 16))
        device, certificate, profile = await service.bind(call.caller.access, call.tenant, identifier, serial, name)
        shown = BoundCertificate(
            serial_number=certificate.serial.hex(),
            status=certificate.status,
            valid_from=certificate.not_before,
            valid_to=certificate.not_after,
            certificate=write_certificates([read_certificate(certificate.der)]).decode(),
        )
        owner = BoundDevice(
            id=device.identifier, status=device.status, identity=device.identity, dms_owner=device.enrolment_profile
        )
        return Answer(
            content=ShownIdentity(certificate=shown, dms=_show(authorities, call.tenant, profile), device=owner)
        )

    return [
        Route(
            "POST",
            DMS + "/bind-identity",
            bind_identity,
            Needs(Action.CREATE, Resource.EST_ENROLMENTS),
            "Make a certificate that was issued here the identity of a device",
            DMS_TAG,
            body=BindIdentity,
            answers=ShownIdentity,
        )
    ]


def named_label(call: Call) -> str:
    """Return the label in the path, checked."""
    return label(call.path["label"])


def _patched(shown: ShownDms, operations: Sequence[Operation]) -> DmsFields:
    """Return what a label is to say after a patch of what it shows; raise `Refused` (invalid) if none can say that."""
    document = shown.model_dump(mode="json", include={"name", "metadata", "settings"})
    outcome = apply_patch(document, operations, size_maximum=JSON_LIMIT_BYTES)
    try:
        return parsed(DmsFields, outcome)
    except Refused as refused:
        raise Refused(Kind.INVALID, "The outcome of the patch is no profile.", fields=refused.fields) from refused


def _check_usable(
    authorities: Authorities, call: Call, wanted: Mapping[str, Any], known: EnrolmentProfile | None = None
) -> None:
    """Check that the caller may use the authority for the tenant's devices; what a label says already stays."""
    authority = wanted["authority"]
    if known is None or known.authority != authority:
        authorities.usable(call.tenant, call.caller.access.tenant, str(authority))


def _show(authorities: Authorities, tenant: Tenant, profile: EnrolmentProfile, secret: str | None = None) -> ShownDms:
    return ShownDms(
        id=profile.name,
        name=profile.title,
        metadata=dict(profile.metadata),
        creation_ts=profile.created,
        settings=shown_settings(profile, authorities, tenant),
        webhook_secret=secret,
    )


def _show_binding(binding: BootstrapBinding) -> ShownBinding:
    named = binding.certificate
    return ShownBinding(
        public_key_sha256=binding.spki_sha256.hex() if binding.spki_sha256 else None,
        serial=named.serial.hex() if named else None,
        issuer_public_key_sha256=named.issuer_spki_sha256.hex() if named else None,
    )
