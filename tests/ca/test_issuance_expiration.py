"""How long what an authority issues lasts at the most; and what else of Lamassu's paths authorities answer to."""

from datetime import datetime, timedelta
from os import urandom
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca.authorities import Authorities
from tests.ca.test_authorities_http import CAS, READ, Caller, all_routes, caller, pem_of, request_for
from tests.ca.test_hierarchies import made
from tests.ca.test_intake import Maker, taken
from tests.ca.test_rollover import leaf_of
from tests.ca.world import BASE_URL, EVERYTHING, World, serving

PLANT = {"id": "plant", "parent_id": "root", "subject": {"common_name": "Plant"}}
LIMIT = f"{CAS}/plant/issuance-expiration"
INDEFINITE = {"type": "Date", "time": "9999-12-31T23:59:59.999Z"}
BACKDATE = timedelta(minutes=5)
KEY_IS_ELSEWHERE = "Its key is not here: whoever has it certifies it anew. Bring that certificate."


async def server_certificate(call: Caller) -> x509.Certificate:
    body = {"csr": request_for(x509.DNSName("gateway.local")), "profile_id": "server"}
    status, made = await call("POST", f"{CAS}/plant/certificates/sign", body)
    assert status == 201, made
    return pem_of(made["certificate"])


def lasts(certificate: x509.Certificate) -> timedelta:
    return certificate.not_valid_after_utc - certificate.not_valid_before_utc - BACKDATE


async def test_what_an_authority_issues_lasts_no_longer_than_it_says(world: World) -> None:
    async with serving(world, all_routes(world)) as client:
        call = await caller(world, client)
        _, shown = await call("POST", CAS, PLANT)
        assert "issuance_expiration" not in shown
        by_profile = lasts(await server_certificate(call))
        status, shown = await call("PUT", LIMIT, {"type": "Duration", "duration": "36h"})
        assert (status, shown["issuance_expiration"]) == (200, {"type": "Duration", "duration": "1d12h"})
        assert lasts(await server_certificate(call)) == timedelta(hours=36)
        ends = (world.clock() + timedelta(days=3)).replace(microsecond=0)
        status, shown = await call("PUT", LIMIT, {"type": "Time", "time": ends.isoformat()})
        assert datetime.fromisoformat(shown["issuance_expiration"]["time"]) == ends
        assert (await server_certificate(call)).not_valid_after_utc == ends
        for longer in ({"type": "Duration", "duration": "20y"}, INDEFINITE):  # the profile has its say, too
            assert (await call("PUT", LIMIT, longer))[0] == 200
            assert lasts(await server_certificate(call)) == by_profile
        assert (await call("PUT", LIMIT, {"type": "Duration", "duration": "36h"}))[0] == 200
        assert (await call("POST", f"{CAS}/plant/rollover", {}))[1]["issuance_expiration"]["duration"] == "1d12h"
        assert lasts(await server_certificate(call)) == timedelta(hours=36)
        _, read = await call("GET", f"{CAS}/plant")
        assert read["issuance_expiration"]["duration"] == "1d12h"
    events = await world.rows("SELECT kind FROM outbox WHERE kind = 'authority.described' AND subject = 'plant'")
    assert len(events) == 5
    second = Authorities(world.pool, world.keystore, world.clock, urandom, base_url=BASE_URL)
    await second.refresh()
    assert second.find("plant").issuance == timedelta(hours=36)
    assert lasts(leaf_of(world, world.authorities.find("plant"))) == timedelta(hours=36)  # a device's


async def test_a_limit_comes_with_the_authority(world: World) -> None:
    limit = {"type": "Duration", "duration": "1h"}
    pem = Maker(world, "Maker").certificate.public_bytes(Encoding.PEM).decode()
    async with serving(world, all_routes(world)) as client:
        call = await caller(world, client)
        assert (await call("POST", CAS, {**PLANT, "issuance_expiration": limit}))[0] == 201
        assert lasts(await server_certificate(call)) == timedelta(hours=1)
        status, shown = await call("POST", f"{CAS}/import", {"id": "maker", "ca": pem, "issuance_expiration": limit})
        assert (status, shown.get("issuance_expiration")) == (201, None)  # it issues nothing here


async def test_neither_an_authority_below_nor_the_responder_is_bound_by_it(world: World) -> None:
    await made(world, "plant", path_length=1, issuance=timedelta(hours=1))
    below = await made(world, "below", "plant")
    assert lasts(below.certificate) > timedelta(days=300)
    ends = await world.value("SELECT min(not_after) FROM certificate WHERE profile = 'responder'")
    assert ends > world.clock() + timedelta(days=6)


async def test_after_its_end_nothing_is_issued(world: World) -> None:
    async with serving(world, all_routes(world)) as client:
        call = await caller(world, client)
        await call("POST", CAS, PLANT)
        ends = world.clock() + timedelta(hours=1)
        assert (await call("PUT", LIMIT, {"type": "Time", "time": ends.isoformat()}))[0] == 200
        world.clock.move(timedelta(hours=2))
        before = await world.value("SELECT count(*) FROM certificate")
        body = {"csr": request_for(x509.DNSName("gateway.local")), "profile_id": "server"}
        status, refused = await call("POST", f"{CAS}/plant/certificates/sign", body)
        assert (status, refused["detail"]) == (503, "The authority issues nothing any more.")
        assert await world.value("SELECT count(*) FROM certificate") == before


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"type": "Duration", "duration": "soon"}, 400),
        ({"type": "Duration"}, 400),
        ({"type": "Time", "time": "2040-01-01T00:00:00"}, 400),
        ({"type": "Time"}, 400),
        ({"type": "Date", "time": "2001-01-01T00:00:00Z"}, 422),
        ({"type": "Time", "time": "9999-12-31T23:59:59-14:00"}, 400),
        ({"type": "Never"}, 400),
    ],
)
async def test_limits_that_make_no_sense_change_nothing(world: World, body: dict[str, Any], status: int) -> None:
    async with serving(world, all_routes(world)) as client:
        call = await caller(world, client)
        await call("POST", CAS, PLANT)
        assert (await call("PUT", LIMIT, body))[0] == status
        assert (await call("GET", f"{CAS}/plant"))[1].get("issuance_expiration") is None


async def test_who_may_not_say_it(world: World) -> None:
    limit = {"type": "Duration", "duration": "1h"}
    acme = await world.tenant("acme")
    await taken(world, certificate=Maker(world, "Maker").certificate, line="maker")
    async with serving(world, all_routes(world)) as client:
        call = await caller(world, client)
        await call("POST", CAS, PLANT)
        status, refused = await call("PUT", f"{CAS}/maker/issuance-expiration", limit)
        assert (status, "where the key is" in refused["detail"]) == (409, True)
        assert (await (await caller(world, client, EVERYTHING, acme))("PUT", LIMIT, limit))[0] == 404
        assert (await (await caller(world, client, READ))("PUT", LIMIT, limit))[0] == 403


# --- Further of Lamassu's ways ----------------------------------------------------------------------------------------


async def test_nothing_is_deleted_with_what_it_issued(world: World) -> None:
    async with serving(world, all_routes(world)) as client:
        call = await caller(world, client)
        await call("POST", CAS, PLANT)
        await call("POST", f"{CAS}/plant/status", {"status": "REVOKED"})
        assert (await call("DELETE", f"{CAS}/plant", cascade_delete="true"))[0] == 403
        assert (await call("GET", f"{CAS}/plant"))[0] == 200
        assert (await call("DELETE", f"{CAS}/plant", cascade_delete="false"))[0] == 204


async def test_an_authority_that_has_ended_is_deleted(world: World) -> None:
    await made(world, "plant", "root", period=timedelta(hours=1))
    async with serving(world, all_routes(world)) as client:
        call = await caller(world, client)
        status, refused = await call("DELETE", f"{CAS}/plant")
        assert (status, "can be deleted" in refused["detail"]) == (409, True)
        world.clock.move(timedelta(hours=2))
        assert (await call("GET", f"{CAS}/plant"))[1]["status"] == "EXPIRED"
        assert (await call("DELETE", f"{CAS}/plant"))[0] == 204
    assert await world.value("SELECT count(*) FROM distrusted_key") == 0


async def test_reissuing_without_saying_how(world: World) -> None:
    async with serving(world, all_routes(world)) as client:
        call = await caller(world, client)
        await call("POST", CAS, PLANT)
        headers = {**await world.identity(world.system.id, EVERYTHING), "Content-Type": "application/json"}
        answer = await client.post(f"{CAS}/plant/reissue", data=b"null", headers=headers)
        assert answer.status == 200


async def test_an_external_authority_is_certified_where_its_key_is(world: World) -> None:
    await taken(world, certificate=Maker(world, "Maker").certificate, line="maker")
    async with serving(world, all_routes(world)) as client:
        call = await caller(world, client)
        for name in ("reissue", "rollover"):
            status, refused = await call("POST", f"{CAS}/maker/{name}", {})
            assert (status, refused["detail"]) == (409, KEY_IS_ELSEWHERE)


async def test_the_requests_for_an_authority(world: World) -> None:
    async with serving(world, all_routes(world)) as client:
        call = await caller(world, client)
        for name in ("ours", "other"):
            body = {"id": name, "subject": {"common_name": name}}
            assert (await call("POST", f"{CAS}/requests", body))[0] == 201
        _, listed = await call("GET", f"{CAS}/ours/requests")
        assert [one["ca_id"] for one in listed["list"]] == ["ours"]
        _, listed = await call("GET", f"{CAS}/ours/requests", filter="status[eq]ISSUED")
        assert listed["list"] == []
