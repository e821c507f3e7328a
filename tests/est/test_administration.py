"""Enrolment profiles over REST, behind the guard, on a real store."""

import asyncio
import json
import tomllib
from copy import deepcopy
from dataclasses import replace
from datetime import timedelta
from importlib.resources import files
from os import urandom
from typing import Any
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ca.intake import Offer
from ca.inventory import AuthorityKind, CertificateStatus, StoredCertificate
from ca.record_keeping import RecordKeeping
from ca.store.certificates import insert_certificate
from certs.duration import write_duration
from certs.pem import write_certificates
from certs.pkcs7 import parse_certs_only
from est.authentication.forwarded import spki_sha256
from est.durations import duration
from est.http import dms
from est.identities import IdentityBinder
from est.profiles import EnrolmentMode
from iam.errors import Refused
from iam.guard import Route
from tests.ca.test_intake import Maker
from tests.ca.world import World, serving
from tests.est.world import EstWorld, Holder, b64, only, request

ALL = '[{"resource": "*", "actions": ["create", "read", "update", "delete"]}]'
PROFILES = '[{"resource": "est.profiles", "actions": ["create", "read", "update", "delete"]}]'
PATH = "/api/dmsmanager/v1/dms"


def all_routes(est: EstWorld) -> list[Route]:
    return [*dms.profile_routes(est.profiles, est.world.authorities), *dms.binding_routes(est.profiles)]


def anchors(world: World, name: str = "factory") -> str:
    return write_certificates([world.authorities.by_name(name).certificate]).decode()


def meters(anchor: str = "factory", **enrolment: Any) -> dict[str, Any]:
    """Return a profile to make, by certificates of an authority."""
    est = {"client_certificate_settings": {"validation_cas": [anchor]}}
    return {"id": "meters", "settings": {"enrollment_settings": {"est_rfc7030_settings": est, **enrolment}}}


async def test_a_profile_from_its_making_to_its_end(est: EstWorld) -> None:
    headers = await est.world.identity(est.world.system.id, ALL)
    body = meters(anchors(est.world), identifier_pattern="meter-*") | {"name": "Meters", "metadata": {"site": "north"}}
    async with serving(est.world, all_routes(est)) as client:
        made = await client.post(PATH, headers=headers, json=body)
        assert (made.status, made.headers["Location"]) == (201, f"{PATH}/meters"), await made.text()
        shown = await made.json()
        enrolment = shown["settings"]["enrollment_settings"]
        assert (shown["id"], shown["name"], shown["metadata"]) == ("meters", "Meters", {"site": "north"})
        assert (enrolment["registration_mode"], enrolment["est_rfc7030_settings"]["auth_mode"]) == (
            "JITP",
            "CLIENT_CERTIFICATE",
        )
        assert await (await client.get(f"{PATH}/meters", headers=headers)).json() == shown
        batch = await est.bootstrap("batch")
        csr = b64(request(ec.generate_private_key(ec.SECP256R1()), "meter-001"))
        assert only(await est.service.enrol("meters", (batch.der,), csr))
        del enrolment["identifier_pattern"]
        changed = await client.put(f"{PATH}/meters", headers=headers, json=shown)
        assert await changed.json() == shown
        listed = await (await client.get(PATH, headers=headers)).json()
        assert [one["id"] for one in listed["list"]] == ["default", "meters"]
        counted = await (await client.get("/api/dmsmanager/v1/stats", headers=headers)).json()
        assert counted == {"total": 2}
        assert (await client.post(PATH, headers=headers, json=body)).status == 409
        assert (await client.delete(f"{PATH}/meters", headers=headers)).status == 204
        assert (await client.get(f"{PATH}/meters", headers=headers)).status == 404
        assert (await client.delete(f"{PATH}/default", headers=headers)).status == 409


EVERYTHING: dict[str, Any] = {
    "enrollment_settings": {
        "protocol": "EST_RFC7030",
        "registration_mode": "PRE_REGISTRATION",
        "certificate_profile": "device",
        "identifier_pattern": "meter-*",
        "enable_replaceable_enrollment": False,
        "est_rfc7030_settings": {
            "auth_mode": "CLIENT_CERTIFICATE_AND_JWT",
            "additional_auth_modes": ["ENROLLMENT_SECRET", "EXTERNAL_WEBHOOK", "MANUAL_APPROVAL"],
            "client_certificate_settings": {
                "chain_level_validation": 2,
                "allow_expired": True,
                "trusted_proxies": ["client-cert:" + "ab" * 32, "xfcc:" + "cd" * 32],
            },
            "jwt_settings": {
                "issuer": "https://id.example",
                "audience": "doorward",
                "jwks_uri": "https://id.example/keys",
                "algorithms": ["ES256", "EdDSA"],
                "device_template": "meter-${serial}",
            },
            "external_webhook": {
                "name": "stock",
                "url": "https://stock.example/enrol?a=b",
                "config": {"call_timeout": "3s"},
            },
            "manual_approval": {"expires_after": "2d", "retry_after": 30, "max_pending": 7},
            "proof_of_possession": "required",
            "csr_attributes": "template",
        },
        "device_provisioning_profile": {
            "icon": "meter",
            "icon_color": "#00ff00",
            "tags": ["north"],
            "labels": {"site": "n1"},
            "metadata": {"floor": 3, "note": None},
            "role": "device",
        },
    },
    "reenrollment_settings": {
        "reenrollment_delta": "60d",
        "preventive_delta": "45d",
        "critical_delta": "5d12h",
        "enable_expired_renewal": True,
        "allow_same_key": False,
        "allow_new_key": True,
        "revoke_on_reenrollment": True,
        "grace_period": 3600,
    },
    "ca_distribution_settings": {"include_enrollment_ca": True, "include_system_ca": True},
    "server_keygen_settings": {"enabled": True, "key": {"type": "RSA", "bits": 3072}, "encrypted_only": True},
}


async def test_every_setting_is_shown_as_it_was_sent_and_may_be_sent_back(est: EstWorld) -> None:
    headers = await est.world.identity(est.world.system.id, ALL)
    factory, root = est.world.authorities.by_name("factory"), est.world.authorities.by_name("root")
    foreign = write_certificates([est.signed_by(est.authority(factory.kind), "ca", is_authority=True).certificate])
    everything = deepcopy(EVERYTHING)
    certificate = everything["enrollment_settings"]["est_rfc7030_settings"]["client_certificate_settings"]
    certificate["validation_cas"] = [str(factory.id), foreign.decode()]
    everything["enrollment_settings"]["enrollment_ca"] = str(est.world.authorities.by_name("issuing").id)
    everything["reenrollment_settings"]["additional_validation_cas"] = [str(factory.id)]
    everything["ca_distribution_settings"]["managed_cas"] = [str(root.id)]
    async with serving(est.world, all_routes(est)) as client:
        answer = await client.post(PATH, headers=headers, json={"id": "meters", "settings": everything})
        made = await answer.json()
        assert answer.status == 201, made
        assert made["settings"] == everything
        assert made.pop("webhook_secret").startswith("whsec_")
        assert await (await client.get(f"{PATH}/meters", headers=headers)).json() == made
        again = await (await client.put(f"{PATH}/meters", headers=headers, json=made)).json()
        assert again == made  # and no secret: the webhook keeps the one that it has
        fresh = await client.post(f"{PATH}/meters/webhook-secret", headers=headers)
        assert (fresh.status, (await fresh.json())["secret"][:6]) == (201, "whsec_")
        other = await client.post(f"{PATH}/default/webhook-secret", headers=headers)
        assert other.status == 409


async def test_metadata_is_patched_whole_or_not_at_all(est: EstWorld) -> None:
    headers = await est.world.identity(est.world.system.id, ALL)
    patch = {"patches": [{"op": "add", "path": "/site", "value": "north"}]}
    async with serving(est.world, all_routes(est)) as client:
        for method in ("PUT", "PATCH"):
            answer = await client.request(method, f"{PATH}/default/metadata", headers=headers, json=patch)
            assert (answer.status, (await answer.json())["metadata"]) == (200, {"site": "north"})
        patch["patches"].append({"op": "remove", "path": "/nowhere"})
        patch["patches"][0]["value"] = "south"
        assert (await client.patch(f"{PATH}/default/metadata", headers=headers, json=patch)).status == 409
        found = await (await client.get(f"{PATH}/default", headers=headers)).json()
        assert found["metadata"] == {"site": "north"}


WAYS = "/settings/enrollment_settings/est_rfc7030_settings"


async def test_one_setting_is_changed_and_all_else_stays(est: EstWorld) -> None:
    headers = await est.world.identity(est.world.system.id, ALL)
    body = meters(anchors(est.world), identifier_pattern="meter-*") | {"name": "Meters", "metadata": {"site": "north"}}
    async with serving(est.world, all_routes(est)) as client:
        made = await (await client.post(PATH, headers=headers, json=body)).json()

        async def patched(*operations: dict[str, Any]) -> tuple[int, Any]:
            answer = await client.patch(f"{PATH}/meters", headers=headers, json={"patches": list(operations)})
            return answer.status, await answer.json()

        expected = deepcopy(made)
        expected["settings"]["reenrollment_settings"]["grace_period"] = 3600
        grace = "/settings/reenrollment_settings/grace_period"
        assert await patched({"op": "replace", "path": grace, "value": 3600}) == (200, expected)
        assert await (await client.get(f"{PATH}/meters", headers=headers)).json() == expected

        # What is not said is null, and can be replaced; a webhook's secret is shown by the answer that made it.
        webhook = {"op": "replace", "path": f"{WAYS}/external_webhook", "value": {"url": "https://stock.example/ask"}}
        modes = {"op": "replace", "path": f"{WAYS}/auth_mode", "value": "EXTERNAL_WEBHOOK"}
        status, shown = await patched({"op": "test", "path": f"{WAYS}/external_webhook", "value": None}, webhook, modes)
        assert status == 200, shown
        assert shown["webhook_secret"].startswith("whsec_")
        assert "webhook_secret" not in (await patched({"op": "replace", "path": "/name", "value": "All"}))[1]
        removed = await patched({"op": "remove", "path": "/settings/enrollment_settings/identifier_pattern"})
        assert "identifier_pattern" not in removed[1]["settings"]["enrollment_settings"]

        before = await (await client.get(f"{PATH}/meters", headers=headers)).json()
        for status, operation in (
            (409, {"op": "test", "path": grace, "value": 1}),
            (409, {"op": "replace", "path": "/settings/nothing/of/it", "value": 1}),
            (422, {"op": "replace", "path": grace, "value": -1}),
            (422, {"op": "add", "path": "/settings/unknown", "value": 1}),
            (422, {"op": "replace", "path": "/settings/enrollment_settings", "value": []}),
            (422, {"op": "replace", "path": "", "value": {"settings": 1}}),
            (400, {"op": "add", "path": "/id", "value": "another"}),
            (400, {"op": "replace", "path": "settings", "value": 1}),
            (400, {"op": "sing", "path": grace}),
            (400, {"op": "replace", "path": f"{WAYS}/client_certificate_settings/chain_level_validation", "value": 0}),
            (404, {"op": "replace", "path": "/settings/enrollment_settings/enrollment_ca", "value": "nowhere"}),
            (
                404,
                {
                    "op": "replace",
                    "path": "/settings/enrollment_settings/device_provisioning_profile/role",
                    "value": "nobody",
                },
            ),
        ):
            answer = await patched({"op": "replace", "path": "/name", "value": "half of it"}, operation)
            assert answer[0] == status, (operation, answer)
        wrong = await patched({"op": "replace", "path": grace, "value": -1})
        assert wrong[1]["errors"][0]["field"] == "settings.reenrollment_settings.grace_period"
        assert await (await client.get(f"{PATH}/meters", headers=headers)).json() == before
        reader = await est.world.identity(est.world.system.id, '[{"resource": "*", "actions": ["read"]}]')
        assert (await client.patch(f"{PATH}/meters", headers=reader, json={"patches": []})).status == 403
        theirs = await est.world.identity(await est.world.tenant("acme"), ALL)
        assert (await client.patch(f"{PATH}/meters", headers=theirs, json={"patches": []})).status == 404
    assert await est.world.value("SELECT count(*) FROM audit_pending WHERE kind = 'enrolment_profile.updated'") == 4


async def test_two_who_change_one_label_at_once_lose_nothing(est: EstWorld) -> None:
    headers = await est.world.identity(est.world.system.id, ALL)
    async with serving(est.world, all_routes(est)) as client:
        assert (await client.post(PATH, headers=headers, json=meters(anchors(est.world)))).status == 201
        tags = "/settings/enrollment_settings/device_provisioning_profile/tags/-"

        async def add(tag: str) -> int:
            patches = [{"op": "add", "path": tags, "value": tag}]
            return (await client.patch(f"{PATH}/meters", headers=headers, json={"patches": patches})).status

        assert await asyncio.gather(*(add(f"tag-{number}") for number in range(12))) == [200] * 12
        shown = await (await client.get(f"{PATH}/meters", headers=headers)).json()
    found = shown["settings"]["enrollment_settings"]["device_provisioning_profile"]["tags"]
    assert sorted(found) == sorted(f"tag-{number}" for number in range(12))


def _at(path: str, value: Any) -> dict[str, Any]:
    """Return a profile in which something is otherwise."""
    body = meters()
    *above, last = path.split(".")
    place = body["settings"]
    for name in above:
        place = place.setdefault(name, {})
    place[last] = value
    return body


EST = "enrollment_settings.est_rfc7030_settings"


@pytest.mark.parametrize(
    "body",
    [
        meters() | {"id": "cacerts"},
        meters() | {"id": "a/b"},
        meters() | {"id": None},
        meters() | {"unknown": 1},
        meters("no PEM"),
        meters("-----BEGIN CERTIFICATE-----\n"),
        {"id": "meters"},
        _at("enrollment_settings.identifier_pattern", "(a+)+"),
        _at("enrollment_settings.registration_mode", "ANYONE"),
        _at("enrollment_settings.certificate_profile", "server"),
        _at("enrollment_settings.certificate_profile", "../../etc"),
        _at("enrollment_settings.protocol", "SCEP"),
        _at("enrollment_settings.enrollment_ca", "factory"),  # what it issues lets others in elsewhere
        _at("enrollment_settings.enrollment_ca", "root"),
        _at(f"{EST}.auth_mode", "NO_AUTH"),
        _at(f"{EST}.auth_mode", "EXTERNAL_WEBHOOK"),
        _at(f"{EST}.additional_auth_modes", ["EXTERNAL_WEBHOOK"]),
        _at(f"{EST}.client_certificate_settings.chain_level_validation", 0),
        _at(f"{EST}.client_certificate_settings.trusted_proxies", ["client-cert:" + "AB" * 32]),
        _at(f"{EST}.client_certificate_settings.trusted_proxies", ["ab" * 32]),
        _at(f"{EST}.client_certificate_settings.trusted_proxies", ["forwarded:" + "ab" * 32]),
        _at(f"{EST}.external_webhook", {"url": "http://stock.example/"}),
        _at(f"{EST}.external_webhook", {"url": "https://user:secret@stock.example/"}),
        _at(f"{EST}.external_webhook", {"url": "https://stock.example/", "config": {"call_timeout": "1h"}}),
        _at(f"{EST}.external_webhook", {"url": "https://stock.example/", "config": {"ca": "none"}}),
        _at(f"{EST}.jwt_settings", {"issuer": "http://id.example", "audience": "a"}),
        _at(f"{EST}.jwt_settings", {"issuer": "https://id.example", "audience": "a", "algorithms": ["HS256"]}),
        _at(f"{EST}.jwt_settings", {"issuer": "https://id.example", "audience": "a", "algorithms": ["none"]}),
        _at(f"{EST}.jwt_settings", {"issuer": "https://id.example", "audience": "a", "device_template": "meter-1"}),
        _at("reenrollment_settings.grace_period", -1),
        _at("reenrollment_settings.grace_period", 10**12),
        _at("reenrollment_settings.preventive_delta", "soon"),
        _at("reenrollment_settings.critical_delta", "31d"),
        _at("reenrollment_settings.reenrollment_delta", "6d"),
        _at("reenrollment_settings", {"allow_same_key": False, "allow_new_key": False}),
        _at("ca_distribution_settings", {"include_enrollment_ca": False}),
        _at("server_keygen_settings", {"enabled": True, "key": {"type": "RSA", "bits": 1024}}),
    ],
)
async def test_bodies_that_are_no_profile(est: EstWorld, body: dict[str, Any]) -> None:
    headers = await est.world.identity(est.world.system.id, ALL)
    async with serving(est.world, all_routes(est)) as client:
        answer = await client.post(PATH, headers=headers, json=body)
        assert answer.status == 400, await answer.text()
    assert await est.world.value("SELECT count(*) FROM enrolment_profile") == 1


async def test_cacerts_shows_what_the_label_says_each_up_to_its_root(est: EstWorld) -> None:
    headers = await est.world.identity(est.world.system.id, ALL)
    body = meters() | {"id": "wide"}
    body["settings"]["ca_distribution_settings"] = {"include_enrollment_ca": False, "managed_cas": ["factory"]}
    async with serving(est.world, all_routes(est)) as client:
        answer = await client.post(PATH, headers=headers, json=body)
        assert answer.status == 201, await answer.text()
    for label, names in (("default", ["issuing", "root"]), ("wide", ["factory", "root"])):
        shown = {one.subject for one in parse_certs_only(await est.service.cacerts(label))}
        assert shown == {est.world.authorities.by_name(name).certificate.subject for name in names}


async def test_a_device_that_is_registered_by_its_enrolment_begins_with_the_labels_defaults(est: EstWorld) -> None:
    headers = await est.world.identity(est.world.system.id, ALL)
    defaults = {"labels": {"site": "north"}, "metadata": {"floor": 3}}
    async with serving(est.world, all_routes(est)) as client:
        body = meters(device_provisioning_profile=defaults)
        assert (await client.post(PATH, headers=headers, json=body)).status == 201
    await est.enrolled("meter-001", label="meters")
    (found,) = await est.world.rows("SELECT labels, metadata FROM device")
    assert found == {"labels": '{"site": "north"}', "metadata": '{"floor": 3}'}


async def test_a_binding_lets_one_bootstrap_certificate_enrol_a_device(est: EstWorld) -> None:
    headers = await est.world.identity(est.world.system.id, ALL)
    await est.label("strict", mode=EnrolmentMode.PRE_REGISTERED)
    await est.world.device("meter-001", est.world.system.id)
    bootstrap, path = await est.bootstrap("batch"), "/api/dmsmanager/v1/bindings/meter-001"
    limited = await est.world.identity(est.world.system.id, ALL, ["meter-002"])
    stranger = await est.world.identity(await est.world.tenant("acme"), ALL)
    issuer = {"issuer_public_key_sha256": est.world.authorities.by_name("factory").spki_sha256.hex()}
    async with serving(est.world, all_routes(est)) as client:
        for who, where, body, status in (
            (headers, path, {}, 400),
            (headers, path, {"serial": "xyz", **issuer}, 400),
            (headers, path, {"serial": "01"}, 400),
            (headers, path, issuer, 400),
            (headers, path.replace("001", "009"), {"serial": "01", **issuer}, 404),
            (limited, path, {"serial": "01", **issuer}, 404),
            (stranger, path, {"serial": "01", **issuer}, 404),
            (headers, path, {"serial": "01", **issuer}, 204),
            (headers, path, {"serial": bootstrap.serial.hex(), **issuer}, 204),
        ):
            assert (await client.put(where, headers=who, json=body)).status == status, body
        shown = await (await client.get(path, headers=headers)).json()
        assert shown == {"serial": bootstrap.serial.hex(), **issuer}
        for who in (limited, stranger):
            assert (await client.get(path, headers=who)).status == 404
            assert (await client.delete(path, headers=who)).status == 404
        csr = b64(request(ec.generate_private_key(ec.SECP256R1()), "meter-001"))
        assert only(await est.service.enrol("strict", (bootstrap.der,), csr))
        assert (await client.delete(path, headers=headers)).status == 204
        assert (await client.get(path, headers=headers)).status == 404


async def test_an_anchor_that_is_no_authority(est: EstWorld) -> None:
    headers = await est.world.identity(est.world.system.id, ALL)
    leaf = write_certificates([(await est.bootstrap("meter-001")).certificate]).decode()
    async with serving(est.world, all_routes(est)) as client:
        assert (await client.post(PATH, headers=headers, json=meters(leaf))).status == 400


async def test_nobody_gives_devices_what_he_does_not_hold(est: EstWorld) -> None:
    headers = await est.world.identity(est.world.system.id, PROFILES)
    body = meters(device_provisioning_profile={"role": "root"})
    changed = {name: value for name, value in body.items() if name != "id"}
    async with serving(est.world, all_routes(est)) as client:
        assert (await client.post(PATH, headers=headers, json=body)).status == 403
        assert (await client.put(f"{PATH}/default", headers=headers, json=changed)).status == 403
        body = meters(device_provisioning_profile={"role": "no-such"})
        assert (await client.post(PATH, headers=headers, json=body)).status == 404
    assert await est.world.value("SELECT role_name FROM enrolment_profile") == "device"


async def test_another_tenants_profiles_are_not_there(est: EstWorld) -> None:
    headers = await est.world.identity(await est.world.tenant("acme"), ALL)
    async with serving(est.world, all_routes(est)) as client:
        assert (await (await client.get(PATH, headers=headers)).json())["list"] == []
        assert (await client.get(f"{PATH}/default", headers=headers)).status == 404
        changed = {"settings": meters()["settings"]}
        assert (await client.put(f"{PATH}/default", headers=headers, json=changed)).status == 404
        assert (await client.post(PATH, headers=headers, json=meters() | {"id": "default"})).status == 409


async def test_a_label_names_authorities_of_its_group_or_above_and_certificate_profiles_of_its_own(
    est: EstWorld,
) -> None:
    acme, other = await est.world.tenant("acme"), await est.world.tenant("other")
    theirs = await est.world.identity(other, ALL)
    settings = tomllib.loads((files("certs") / "profiles" / "device.toml").read_text())
    await est.world.execute(
        "INSERT INTO issuance_profile (id, tenant_id, name, description, settings, created_at)"
        " VALUES ($1, $2, 'strange', '', $3, now())",
        stored := uuid4(),
        acme,
        json.dumps(settings),
    )
    await est.world.execute(
        "UPDATE authority_standing SET tenant_id = $1 WHERE authority_id = $2",
        acme,
        est.world.authorities.by_name("issuing").id,
    )
    est.world.authorities._fingerprint = None
    await est.world.authorities.refresh()
    wanted = (
        meters("issuing"),
        _at("ca_distribution_settings.managed_cas", ["issuing"]),
        meters(certificate_profile=str(stored)),
    )
    async with serving(est.world, all_routes(est)) as client:
        for body in wanted:
            answer = await client.post(PATH, headers=theirs, json=body)
            assert answer.status in (400, 404), await answer.text()
        own = await est.world.identity(acme, ALL)
        for number, body in enumerate(wanted):
            answer = await client.post(PATH, headers=own, json=body | {"id": f"acme-{number}"})
            assert answer.status == 201, await answer.text()


async def test_lists_are_filtered_and_sorted(est: EstWorld) -> None:
    headers = await est.world.identity(est.world.system.id, ALL)
    async with serving(est.world, all_routes(est)) as client:
        for name in ("alpha", "beta"):
            body = meters() | {"id": name, "metadata": {"site": name}}
            assert (await client.post(PATH, headers=headers, json=body)).status == 201
        for query, names in (
            ("sort_by=id&sort_mode=desc&page_size=2", ["default", "beta"]),
            ("filter=id[ct]a&filter=id[ne]default", ["alpha", "beta"]),
            ('filter=metadata[jsonpath]$.site%20==%20"beta"', ["beta"]),
            ("filter=registration_mode[eq]PRE_REGISTRATION", []),
        ):
            listed = await (await client.get(f"{PATH}?{query}", headers=headers)).json()
            assert [one["id"] for one in listed["list"]] == names, query
        assert (await client.get(f"{PATH}?filter=settings[eq]x", headers=headers)).status == 400


@pytest.mark.parametrize(
    ("text", "period"),
    [("90d", timedelta(days=90)), ("1w2d", timedelta(days=9)), ("1h30m", timedelta(minutes=90)), ("0s", timedelta(0))],
)
def test_periods(text: str, period: timedelta) -> None:
    assert duration(text) == period
    assert duration(write_duration(period)) == period


@pytest.mark.parametrize("text", ["", "90", "d", "1h1d", "1d1d", "-1d", "1.5d", "1D", "51y", "9" * 70 + "s", "1d\n"])
def test_periods_that_are_none(text: str) -> None:
    with pytest.raises(Refused):
        duration(text)


# --- Binding identities ---------------------------------------------------------------------------------------------


async def signed_here(est: EstWorld, identifier: str, **columns: Any) -> Holder:
    """Have a certificate that was issued here and proves nobody, as an operator signs one."""
    holder = est.signed_by(est.authority(AuthorityKind.ISSUING), identifier)
    issuing, certificate = est.world.authorities.by_name("issuing"), holder.certificate
    stored = StoredCertificate(
        serial=holder.serial,
        authority=issuing.id,
        tenant=est.world.system.id,
        profile="device",
        device=None,
        identity=None,
        subject=certificate.subject.rfc4514_string(),
        spki_sha256=spki_sha256(certificate),
        request_sha256=None,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        der=holder.der,
        status=CertificateStatus.ACTIVE,
        issued=est.world.clock(),
    )
    async with est.world.pool.transaction(est.world.system.id) as transaction:
        await insert_certificate(transaction, replace(stored, **columns))
    return holder


async def test_a_certificate_that_was_issued_here_becomes_a_devices_identity(est: EstWorld) -> None:
    headers = await est.world.identity(est.world.system.id, ALL)
    await est.world.device("meter-001", est.world.system.id)
    holder = await signed_here(est, "meter-001")
    body = {"device_id": "meter-001", "certificate_serial_number": holder.serial.hex("-")}
    routes = dms.identity_routes(IdentityBinder(est.world.pool, est.world.authorities, urandom), est.world.authorities)
    limited = await est.world.identity(est.world.system.id, ALL, ["meter-002"])
    async with serving(est.world, routes) as client:
        where = f"{PATH}/bind-identity"
        assert (await client.post(where, headers=limited, json=body)).status == 404
        bound = await client.post(where, headers=headers, json=body)
        shown = await bound.json()
        assert (bound.status, shown["device"]["status"], shown["dms"]["id"]) == (200, "ACTIVE", "default"), shown
        assert (await client.post(where, headers=headers, json=body)).status == 409
    assert (await est.world.prover.identity_of_certificate((holder.der,))).identity == shown["device"]["identity"]
    renewed = await est.service.reenrol("default", (holder.der,), b64(request(holder.key, "meter-001")))
    assert only(renewed)
    kinds = await est.world.rows("SELECT kind FROM audit_pending WHERE kind = 'device.identity_bound'")
    assert len(kinds) == 1


async def test_certificates_and_devices_that_do_not_fit(est: EstWorld) -> None:
    headers = await est.world.identity(est.world.system.id, ALL)
    for name in ("meter-001", "meter-002"):
        await est.world.device(name, est.world.system.id)
    enrolled = await est.enrolled("meter-003")
    factory = est.world.authorities.by_name("factory")
    ended = await signed_here(est, "meter-001", not_after=est.world.clock() - timedelta(seconds=1))
    before = await est.written()
    routes = dms.identity_routes(IdentityBinder(est.world.pool, est.world.authorities, urandom), est.world.authorities)
    async with serving(est.world, routes) as client:
        for device, holder, status in (
            ("meter-002", enrolled, 409),
            ("meter-003", await signed_here(est, "meter-003"), 409),
            ("meter-002", await signed_here(est, "meter-001"), 409),
            ("meter-001", await signed_here(est, "meter-001", authority=factory.id), 409),
            ("meter-001", ended, 409),
            ("meter-009", await signed_here(est, "meter-009"), 404),
            ("meter-001", await est.bootstrap("meter-001"), 409),
        ):
            body = {"device_id": device, "certificate_serial_number": holder.serial.hex()}
            answer = await client.post(f"{PATH}/bind-identity", headers=headers, json=body)
            assert answer.status == status, (device, await answer.text())
        missing = {"device_id": "meter-001", "certificate_serial_number": "00" * 16}
        assert (await client.post(f"{PATH}/bind-identity", headers=headers, json=missing)).status == 404
    assert (await est.written())[:4] == before[:4]


async def test_a_device_of_an_authority_that_came_from_elsewhere_goes_on_by_the_certificate_that_it_has(
    est: EstWorld,
) -> None:
    headers, system = await est.world.identity(est.world.system.id, ALL), est.world.system
    top = Maker(est.world, "Top")
    old = Maker(est.world, "Old works", top)
    offer = Offer(certificate=old.certificate, chain=(top.certificate,), key=old.key, line="old")
    await est.world.intake.take_in(await est.world.access(system.id), system, offer)
    assert isinstance(old.key, ec.EllipticCurvePrivateKey)
    holder = est.signed_by((old.name, old.key), "meter-001")
    await est.world.device("meter-001", system.id)
    keeping = RecordKeeping(est.world.pool, est.world.authorities, est.world.clock)
    taken = await keeping.take_in(system, write_certificates([holder.certificate]).decode(), {}, actor="test")
    routes = [
        *all_routes(est),
        *dms.identity_routes(IdentityBinder(est.world.pool, est.world.authorities, urandom), est.world.authorities),
    ]
    async with serving(est.world, routes) as client:
        label = meters(enrollment_ca="old") | {"id": "old"}
        assert (await client.post(PATH, headers=headers, json=label)).status == 201
        body = {"device_id": "meter-001", "certificate_serial_number": taken.serial.hex(), "dms_id": "old"}
        bound = await client.post(f"{PATH}/bind-identity", headers=headers, json=body)
        shown = await bound.json()
        assert (bound.status, shown["device"]["status"]) == (200, "ACTIVE"), shown
    proved = await est.world.prover.identity_of_certificate((holder.der, old.certificate.public_bytes(Encoding.DER)))
    assert proved.identity == shown["device"]["identity"]
    renewed = only(await est.service.reenrol("old", (holder.der,), b64(request(holder.key, "meter-001"))))
    renewed.verify_directly_issued_by(old.certificate)
    assert await est.world.value("SELECT status FROM certificate WHERE serial = $1", taken.serial) == "superseded"
