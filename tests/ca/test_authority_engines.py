"""Where an authority's key is made: in the store, or in a hardware token, where its next one lies too; on SoftHSM."""

from os import urandom
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ca.administration import AuthorityAdministration
from ca.authorities import Authorities
from ca.authority import AuthorityStep
from ca.intake import AuthorityIntake
from ca.inventory import RevocationReason
from ca.keystore import Backend, Keystore
from ca.kms import KeyService
from ca.pkcs11 import Pkcs11Token
from ca.wishes import KeyWish, Wish
from certs.keys import KeyAlgorithm
from iam.errors import Refused
from iam.listing import ListQuery
from tests.ca.softhsm import needs_softhsm
from tests.ca.test_authorities_http import CAS, all_routes, caller
from tests.ca.test_hierarchies import made
from tests.ca.test_intake import Maker, taken
from tests.ca.test_pkcs11 import module, second, token  # noqa: F401 - fixtures
from tests.ca.test_rollover import leaf_of
from tests.ca.world import BASE_URL, MASTER_KEY, World, serving

IN_TOKEN = KeyWish(KeyAlgorithm.P256, engine="pkcs11")


class WithToken:
    """What makes authorities on a node that has a token."""

    def __init__(self, world: World, hardware: Pkcs11Token) -> None:
        keystore = Keystore(world.keys, MASTER_KEY, urandom, {"pkcs11": hardware})
        self.world = world
        self.authorities = Authorities(world.pool, keystore, world.clock, urandom, base_url=BASE_URL)
        self.administration = AuthorityAdministration(
            world.pool, self.authorities, keystore, world.clock, urandom, world.publication, base_url=BASE_URL
        )
        self.intake = AuthorityIntake(
            world.pool, self.authorities, self.administration, keystore, world.clock, urandom, world.publication
        )
        self.keys = KeyService(world.pool, keystore, world.clock, urandom)

    async def names(self) -> list[str]:
        """The names of the keys in the token."""
        page = await self.keys.page(self.world.system.id, ListQuery(filter=["engine_id[eq]pkcs11"]))
        return sorted(one.name for one in page.items)


@needs_softhsm
async def test_an_authority_is_made_in_the_token_and_its_next_key_lies_there_too(
    world: World,
    token: Pkcs11Token,  # noqa: F811 - the fixture
) -> None:
    node, access = WithToken(world, token), await world.access(world.system.id)
    one = await node.administration.create(access, world.system, Wish({"common_name": "Plant"}, "plant", key=IN_TOKEN))
    assert one.engine == "pkcs11"
    new = await node.administration.roll_over(access, world.system, "plant", None, None)
    assert (new.engine, await node.names()) == ("pkcs11", ["plant", "plant.2"])
    template = node.authorities.template(node.authorities.issuer(one.id), "device")
    assert template is not None
    software = await node.administration.roll_over(
        access, world.system, "plant", KeyWish(KeyAlgorithm.P256, engine="sealed"), None
    )
    assert software.engine == "sealed"
    asked = await node.intake.request(access, world.system, "asked", {"common_name": "Asked"}, IN_TOKEN, {})
    assert asked.key.backend is Backend.PKCS11


@needs_softhsm
async def test_a_key_whose_authority_is_not_made_is_not_left_in_the_token(
    world: World,
    token: Pkcs11Token,  # noqa: F811 - the fixture
) -> None:
    node, access = WithToken(world, token), await world.access(world.system.id)
    with pytest.raises(Refused, match="The name issuing is taken"):
        await node.administration.create(access, world.system, Wish({"common_name": "x"}, "issuing", key=IN_TOKEN))
    await node.intake.request(access, world.system, "asked", {"common_name": "Asked"}, KeyWish(), {})
    with pytest.raises(Refused, match="taken"):
        await node.intake.request(access, world.system, "asked", {"common_name": "Asked"}, IN_TOKEN, {})
    assert await node.names() == []


@pytest.mark.parametrize("engine", ["pkcs11", "file"])
async def test_where_no_key_is_made_no_authority_is(world: World, engine: str) -> None:
    async with serving(world, all_routes(world)) as client:
        call = await caller(world, client)
        body = {"id": "plant", "subject": {"common_name": "Plant"}, "engine_id": engine}
        for path in (CAS, f"{CAS}/requests"):
            status, refused = await call("POST", path, body)
            assert (status, refused["detail"]) == (422, f"Keys are not made in {engine} here; they are in sealed.")
        assert (await call("POST", CAS, {**body, "engine_id": "cloud"}))[0] == 422
        rollover = {"key_metadata": {"type": "ECDSA", "bits": 256}, "engine_id": engine}
        assert (await call("POST", f"{CAS}/issuing/rollover", rollover))[0] == 422
        assert (await call("POST", f"{CAS}/issuing/rollover", {"engine_id": "sealed"}))[0] == 400
        assert (await call("POST", CAS, {**body, "engine_id": "sealed"}))[0] == 201
    assert await world.value("SELECT count(*) FROM kms_key") == 4


async def test_a_root_in_a_file_is_followed_by_one_in_a_file_or_where_it_is_said(world: World) -> None:
    access = await world.access(world.system.id)
    for wish, lies in ((None, "file"), (KeyWish(engine="sealed"), "sealed")):
        new = await world.administration.roll_over(access, world.system, "root", wish, None)
        assert new.engine == lies
        assert leaf_of(world, world.authorities.with_root_key(new))


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({}, 201),
        ({"ca_type": "EXTERNAL", "engine_id": "sealed", "parent_id": "top"}, 422),
        ({"ca_type": "IMPORTED", "parent_id": "top"}, 201),
        ({"ca_type": "IMPORTED", "parent_id": "root"}, 422),
        ({"parent_id": "nobody"}, 404),
        ({"engine_id": "pkcs11"}, 400),
        ({"ca_type": "OTHER"}, 400),
    ],
)
async def test_what_is_brought_is_what_it_is_taken_to_be(world: World, more: dict[str, Any], status: int) -> None:
    top = Maker(world, "Top")
    below = Maker(world, "Below", top)
    await taken(world, certificate=top.certificate, key=top.key, line="top")
    key = below.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    body = {"id": "below", "ca": below.certificate.public_bytes(Encoding.PEM).decode(), "private_key": key, **more}
    async with serving(world, all_routes(world)) as client:
        call = await caller(world, client)
        code, shown = await call("POST", f"{CAS}/import", body)
    assert code == status, shown
    assert await world.value("SELECT count(*) FROM authority") == (5 if status == 201 else 4)


async def test_authorities_are_found_by_what_their_certificates_say(world: World) -> None:
    one = await made(world, "plant", "root")
    await taken(world, certificate=Maker(world, "Maker", named=False).certificate, line="maker")
    async with serving(world, all_routes(world)) as client:
        call = await caller(world, client)
        _, shown = await call("GET", f"{CAS}/plant")
        for name, value in (
            ("serial_number", shown["serial_number"]),
            ("subject_key_id", shown["certificate"]["subject_key_id"]),
        ):
            _, found = await call("GET", CAS, filter=f"{name}[eq]{value}")
            assert [each["id"] for each in found["list"]] == ["plant"], name
        begins = one.certificate.not_valid_before_utc.isoformat().replace("+00:00", "Z")
        _, found = await call("GET", CAS, filter=f"valid_from[bf]{begins}", sort_by="valid_from")
        assert "maker" in [each["id"] for each in found["list"]]
        _, again = await call("POST", f"{CAS}/plant/reissue", {})
        _, found = await call("GET", CAS, filter=f"serial_number[eq]{again['serial_number']}")
        assert [each["id"] for each in found["list"]] == ["plant"]


async def test_authorities_are_found_by_when_and_why_they_were_revoked(world: World) -> None:
    access = await world.access(world.system.id)
    for name, reason in (("one", RevocationReason.KEY_COMPROMISE), ("other", RevocationReason.SUPERSEDED)):
        await made(world, name)
        await world.administration.set_status(access, world.system, name, AuthorityStep.REVOKE, reason)
    async with serving(world, all_routes(world)) as client:
        call = await caller(world, client)
        _, found = await call("GET", CAS, filter="revocation_reason[eq]KeyCompromise")
        assert [one["id"] for one in found["list"]] == ["one"]
        for operator, names in (("af", ["one", "other"]), ("bf", [])):
            _, found = await call(
                "GET",
                CAS,
                filter=f"revocation_timestamp[{operator}]2020-01-01T00:00:00Z",
                sort_by="revocation_timestamp",
            )
            assert [one["id"] for one in found["list"]] == names


@needs_softhsm
async def test_of_two_tokens_the_next_key_lies_in_that_of_the_one_before(
    world: World,
    token: Pkcs11Token,  # noqa: F811 - the fixture
    second: Pkcs11Token,  # noqa: F811 - the fixture
) -> None:
    keystore = Keystore(world.keys, MASTER_KEY, urandom, {"pkcs11": token, "vault": second})
    authorities = Authorities(world.pool, keystore, world.clock, urandom, base_url=BASE_URL)
    administration = AuthorityAdministration(
        world.pool, authorities, keystore, world.clock, urandom, world.publication, base_url=BASE_URL
    )
    access, wish = await world.access(world.system.id), KeyWish(KeyAlgorithm.P256, engine="vault")
    plant = await administration.create(access, world.system, Wish({"common_name": "Plant"}, "plant", key=wish))
    assert plant.engine == "vault"
    await administration.roll_over(access, world.system, "plant", None, None)
    rows = await world.rows("SELECT token FROM kms_key WHERE backend = 'pkcs11'")
    assert [one["token"] for one in rows] == ["vault", "vault"]
    async with serving(world, all_routes(world)) as client:
        call = await caller(world, client)
        assert (await call("GET", f"{CAS}/plant"))[1]["certificate"]["engine_id"] == "vault"
        listed = (await call("GET", CAS, filter="engine_id[eq]vault"))[1]["list"]
        assert [one["id"] for one in listed] == ["plant"]
        counted = (await call("GET", "/api/ca/v1/stats"))[1]["cas"]["engine_distribution"]
        assert counted["vault"] == 1
    second.close()
