"""Issuance profiles over HTTP, in Lamassu's paths and JSON, behind the guard, on a real store."""

from typing import Any
from uuid import uuid4

import pytest
from cryptography import x509

from tests.ca.test_authorities_http import CAS, PROFILES, SHORT, all_routes, caller, pem_of, request_for
from tests.ca.world import World, serving


async def test_profiles_of_an_operator_say_what_certificates_hold(world: World) -> None:
    async with serving(world, all_routes(world)) as client:
        call = await caller(world, client)
        status, made = await call("POST", PROFILES, SHORT)
        assert status == 201, made
        for name, value in SHORT.items():
            if name != "crypto_enforcement":
                assert made[name] == value, name
        assert made["crypto_enforcement"]["allowed_ecdsa_key_sizes"] == [256]
        assert not made["crypto_enforcement"]["allow_rsa_keys"]
        _, listed = await call("GET", PROFILES)
        assert {one["id"] for one in listed["list"]} >= {made["id"], "device", "server", "root", "issuing"}
        body = {"csr": request_for(common_name="door-1"), "profile_id": made["id"]}
        status, issued = await call("POST", f"{CAS}/issuing/certificates/sign", body)
        assert status == 201, issued
        certificate = pem_of(issued["certificate"])
        lasts = certificate.not_valid_after_utc - certificate.not_valid_before_utc
        assert lasts.total_seconds() == 12 * 3600 + 300
        purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert [one.dotted_string for one in purposes][1] == "1.3.6.1.5.5.7.3.17"
        policies = certificate.extensions.get_extension_for_class(x509.CertificatePolicies).value
        assert policies[0].policy_identifier.dotted_string == "1.3.6.1.4.1.99999.1"
        assert (await call("POST", PROFILES, SHORT))[0] == 409
        longer = {**SHORT, "validity": {"type": "Time", "time": "2040-01-01T00:00:00Z"}}
        status, changed = await call("PUT", f"{PROFILES}/{made['id']}", longer)
        assert (status, changed["validity"]) == (200, {"type": "Time", "time": "2040-01-01T00:00:00Z"})
        _, issued = await call(
            "POST", f"{CAS}/issuing/certificates/sign", {**body, "csr": request_for(common_name="door-2")}
        )
        issuer_ends = world.authorities.by_name("issuing").certificate.not_valid_after_utc
        assert pem_of(issued["certificate"]).not_valid_after_utc == issuer_ends  # 2040 is beyond it
        assert (await call("POST", f"{CAS}/issuing/profile", {"profile_id": made["id"]}))[0] == 200
        status, refused = await call("DELETE", f"{PROFILES}/{made['id']}")
        assert (status, refused["detail"]) == (409, "It is used by the authority issuing.")
        other_kind = {**SHORT, "subject": "host", "subject_alternative_name": "hosts"}
        assert (await call("PUT", f"{PROFILES}/{made['id']}", other_kind))[0] == 409
        assert (await call("POST", f"{CAS}/issuing/profile", {"profile_id": "device"}))[0] == 200
        assert (await call("DELETE", f"{PROFILES}/{made['id']}"))[0] == 204
        assert (await call("GET", f"{PROFILES}/{made['id']}"))[0] == 404


async def test_a_profile_that_a_label_uses_stays(world: World) -> None:
    async with serving(world, all_routes(world)) as client:
        call = await caller(world, client)
        _, made = await call("POST", PROFILES, {**SHORT, "subject_alternative_name": "device_uri"})
        await world.execute(
            "INSERT INTO enrolment_profile (id, tenant_id, name, mode, authority_id, certificate_profile,"
            " bootstrap_anchors, role_name, expired_may_renew, previous_grace_seconds, created_at)"
            " VALUES ($1, $2, 'doors', 'jitp', $3, $4, '{}', 'device', false, 0, now())",
            uuid4(),
            world.system.id,
            world.authorities.by_name("issuing").id,
            made["id"],
        )
        status, refused = await call("DELETE", f"{PROFILES}/{made['id']}")
        assert (status, refused["detail"]) == (409, "It is used by the label doors.")


@pytest.mark.parametrize("name", ["device", "root"])
async def test_packaged_profiles_are_read_only(world: World, name: str) -> None:
    async with serving(world, all_routes(world)) as client:
        call = await caller(world, client)
        _, shown = await call("GET", f"{PROFILES}/{name}")
        assert shown["read_only"]
        assert (await call("PUT", f"{PROFILES}/{name}", SHORT))[0] == 409
        assert (await call("DELETE", f"{PROFILES}/{name}"))[0] == 409


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"honor_key_usage": True}, 400),
        ({"honor_extensions": True}, 400),
        ({"validity": {"type": "Duration", "duration": "0s"}}, 400),
        ({"extended_key_usages": []}, 422),
        ({"extended_key_usages": ["2.5.29.37.0"]}, 422),
        ({"extended_key_usages": ["Any"]}, 422),
        ({"key_usage": ["CertSign"]}, 422),
        ({"key_usage": ["DigitalSignature", "KeyEncipherment"]}, 422),
        ({"sign_as_ca": True}, 422),
        ({"subject": "host", "subject_alternative_name": "device_uri"}, 422),
        ({"crypto_enforcement": {"enabled": True}}, 422),
        ({"certificate_policies": ["2.5.29.32.0"]}, 422),
        ({"name": " "}, 400),
        ({"unknown": 1}, 400),
    ],
)
async def test_profiles_that_make_no_sense_are_not_stored(world: World, change: dict[str, Any], status: int) -> None:
    async with serving(world, all_routes(world)) as client:
        call = await caller(world, client)
        assert (await call("POST", PROFILES, {**SHORT, **change}))[0] == status
    assert await world.value("SELECT count(*) FROM issuance_profile") == 0
