"""A token that hangs: who waits how long, what is refused at once, what goes on. SoftHSM behind a module that hangs."""

import asyncio
import logging
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from os import urandom
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pkcs11
import pytest

from ca.administration import AuthorityAdministration
from ca.authorities import Authorities
from ca.http import authority_signatures, keys
from ca.intake import AuthorityIntake
from ca.keystore import Backend, Keystore
from ca.kms import Description, KeyService
from ca.pkcs11 import Pkcs11Token
from ca.register import AuthorityRegister
from ca.signers import in_turn
from ca.signing import Message, SigningAlgorithm
from ca.token_thread import TokenThread
from ca.wishes import KeyWish, Wish
from certs.keys import KeyAlgorithm
from doorward.database import Pool
from iam.errors import Kind, Refused
from iam.listing import ListQuery
from tests.ca.hanging_module import HangingModule, needs_compiler
from tests.ca.softhsm import LABEL, PIN, make_token, needs_softhsm
from tests.ca.test_keys import ALL, Kms
from tests.ca.world import BASE_URL, EVERYTHING, MASTER_KEY, World, serving

pytestmark = needs_softhsm

DEADLINE = 0.5
ECDSA = SigningAlgorithm.ECDSA_SHA_256
SAID = Description("", (), {})


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HangingModule:
    needs_compiler()
    return HangingModule(tmp_path, make_token(tmp_path / "hsm", monkeypatch), monkeypatch)


@pytest.fixture
def token(module: HangingModule) -> Iterator[Pkcs11Token]:
    opened = Pkcs11Token(module.path, LABEL, PIN, deadline=DEADLINE, making_deadline=4 * DEADLINE)
    yield opened
    token_answers(opened)
    opened.close()


@pytest.fixture
async def one_connection(world: World) -> AsyncIterator[Pool]:
    """A pool that a single waiting transaction would empty."""
    pool = await Pool.connect(world.url, world.clock, urandom, size=1)
    yield pool
    await pool.close()


def is_unavailable(error: BaseException | object) -> bool:
    return isinstance(error, Refused) and error.kind is Kind.UNAVAILABLE


async def test_whoever_waits_is_refused_at_the_deadline_and_all_others_at_once_until_it_answers(
    token: Pkcs11Token, module: HangingModule, caplog: pytest.LogCaptureFixture
) -> None:
    identifier = uuid4()
    signer = token.signer(identifier, token.make(identifier, KeyAlgorithm.P256, 256).result())
    with module.hanging():
        began = time.monotonic()
        waiting = [asyncio.create_task(in_turn([signer], signer.sign, b"a list")) for _ in range(20)]
        ticks = 0
        while not all(one.done() for one in waiting):
            await asyncio.sleep(0.02)
            ticks += 1
        took = time.monotonic() - began
        assert DEADLINE <= took < 3 * DEADLINE
        assert ticks > 10, "the loop stood still"
        assert all(is_unavailable(one.exception()) for one in waiting)
        assert "hanging.so hangs" in caplog.text

        began = time.monotonic()
        for _ in range(50):
            with pytest.raises(Refused) as refused:
                await in_turn([signer], signer.sign, b"a list")
            assert "hanging.so could not sign" in refused.value.reason
            assert refused.value.retry_after == 1
        with pytest.raises(Refused):
            signer.sign(b"a list")  # as a thread does it
        with pytest.raises(Refused):
            token.check()
        assert time.monotonic() - began < DEADLINE
    async with asyncio.timeout(5):
        while True:
            try:
                assert await in_turn([signer], signer.sign, b"a list")
                break
            except Refused:
                await asyncio.sleep(0.02)
    assert "hanging.so answers again" in caplog.text
    assert PIN not in caplog.text


async def test_what_waited_in_line_in_vain_is_not_done_later(token: Pkcs11Token, module: HangingModule) -> None:
    identifier = uuid4()
    signer = token.signer(identifier, token.make(identifier, KeyAlgorithm.P256, 256).result())
    done: list[str] = []

    def noted(name: str) -> bytes:
        done.append(name)
        return signer.sign(b"a list")

    with module.hanging():
        first, second = (asyncio.create_task(in_turn([signer], noted, name)) for name in ("first", "second"))
        third = asyncio.create_task(in_turn([signer], noted, "third"))
        await asyncio.sleep(DEADLINE / 5)
        third.cancel()
        assert all(map(is_unavailable, await asyncio.gather(first, second, return_exceptions=True)))
    token_answers(token)
    assert done == ["first"]


def token_answers(token: Pkcs11Token) -> None:
    deadline = time.monotonic() + 5
    while True:
        try:
            token.check()
        except Refused:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        else:
            return


async def test_requests_wait_for_the_token_without_a_connection_and_get_503(
    world: World, token: Pkcs11Token, module: HangingModule, one_connection: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    service = KeyService(
        one_connection, Keystore(world.keys, MASTER_KEY, urandom, {"pkcs11": token}), world.clock, urandom
    )
    async with serving(world, keys.routes(service)) as client:
        kms = Kms(client, await world.identity(world.system.id, ALL))
        made = await kms.make("ECDSA", 256, engine_id="pkcs11", name="in the token")
        leaving = await kms.make("ECDSA", 256, engine_id="pkcs11", name="to be deleted")
        sealed = await kms.make("ECDSA", 256, name="sealed")
        body = {"message": "YQ==", "message_type": "RAW", "algorithm": "ECDSA_SHA_256"}
        path = f"/api/kms/v1/keys/{made['key_id']}"
        with module.hanging(), caplog.at_level(logging.INFO):
            waiting = [
                asyncio.create_task(client.post(f"{path}/sign", headers=kms.headers, json=body)) for _ in range(5)
            ]
            await asyncio.sleep(DEADLINE / 5)
            deleting = asyncio.create_task(client.delete(f"/api/kms/v1/keys/{leaving['key_id']}", headers=kms.headers))
            await asyncio.sleep(DEADLINE / 5)
            assert not any(one.done() for one in (*waiting, deleting))
            assert (await one_connection.statement("SELECT 1 AS one", changes=lambda _: ()))["one"] == 1
            assert await kms.sign(sealed["key_id"], "ECDSA_SHA_256", b"a message")
            for one in (*waiting, deleting):
                answer = await one
                assert (answer.status, (await answer.json())["detail"]) == (
                    503,
                    "The hardware token does not answer now.",
                )
            assert answer.headers["Retry-After"] == "1"
        assert "could not sign in 0.5 s" in caplog.text
    assert await world.value("SELECT count(*) FROM outbox WHERE kind = 'key.used'") == 1  # that of the sealed one
    assert await world.value("SELECT count(*) FROM outbox WHERE kind = 'key.deleted'") == 0


async def test_what_is_being_deleted_signs_nothing_and_is_deleted_when_the_token_answers(
    world: World, token: Pkcs11Token, module: HangingModule
) -> None:
    service = KeyService(world.pool, Keystore(world.keys, MASTER_KEY, urandom, {"pkcs11": token}), world.clock, urandom)
    system = world.system.id
    made = await service.create(system, KeyAlgorithm.P256, 256, Backend.PKCS11, SAID, actor="test")
    token.close()  # so that a session has to be opened
    with module.hanging(), pytest.raises(Refused) as refused:
        await service.delete(system, str(made.id), actor="test")
    assert refused.value.kind is Kind.UNAVAILABLE
    token_answers(token)
    with pytest.raises(Refused, match="being deleted") as refused:
        await service.sign(system, str(made.id), ECDSA, Message(b"a message"), actor="test")
    assert refused.value.kind is Kind.CONFLICT
    assert keys.show_key(await service.key(system, str(made.id))).deleting_since is not None
    await service.delete(system, str(made.id), actor="test")
    assert await world.value("SELECT count(*) FROM kms_key WHERE id = $1", made.id) == 0
    assert objects(token, module, made.id) == 0


async def test_a_signature_is_on_record_before_it_leaves_and_so_is_that_the_key_signs(
    world: World, token: Pkcs11Token, module: HangingModule
) -> None:
    service = KeyService(world.pool, Keystore(world.keys, MASTER_KEY, urandom, {"pkcs11": token}), world.clock, urandom)
    system = world.system.id
    made = await service.create(system, KeyAlgorithm.P256, 256, Backend.PKCS11, SAID, actor="test")
    with module.hanging(), pytest.raises(Refused):
        await service.sign(system, str(made.id), ECDSA, Message(b"a message"), actor="test")
    # Nobody knows whether the token has signed: such a key is no authority's any more.
    assert await world.value("SELECT signed_raw_at FROM kms_key WHERE id = $1", made.id) is not None
    token_answers(token)
    await service.sign(system, str(made.id), ECDSA, Message(b"a message"), actor="test")
    assert await world.value("SELECT count(*) FROM audit_pending WHERE kind = 'key.used'") == 1


@pytest.mark.parametrize("how", ["late", "cancelled"])
async def test_a_key_that_was_made_for_nobody_any_more_is_destroyed(
    world: World, token: Pkcs11Token, module: HangingModule, how: str
) -> None:
    service = KeyService(world.pool, Keystore(world.keys, MASTER_KEY, urandom, {"pkcs11": token}), world.clock, urandom)
    with module.making_slowly():
        making = asyncio.create_task(
            service.create(world.system.id, KeyAlgorithm.P256, 256, Backend.PKCS11, SAID, actor="test")
        )
        if how == "cancelled":
            await asyncio.sleep(DEADLINE / 2)
            making.cancel()
        began = time.monotonic()
        (error,) = await asyncio.gather(making, return_exceptions=True)
        if how == "late":
            assert is_unavailable(error)
            assert time.monotonic() - began >= 3 * DEADLINE, "a key may take longer than a signature"
    token_answers(token)
    assert objects(token, module) == 0
    assert await world.value("SELECT count(*) FROM kms_key WHERE backend = 'pkcs11'") == 0


def objects(token: Pkcs11Token, module: HangingModule, identifier: UUID | None = None) -> int:
    token.close()
    session = pkcs11.lib(str(module.path)).get_token(token_label=LABEL).open(user_pin=PIN)
    wanted = {} if identifier is None else {pkcs11.Attribute.ID: identifier.bytes}
    found = len(list(session.get_objects(wanted)))
    session.close()
    return found


def test_a_process_ends_while_the_module_hangs(module: HangingModule) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom ca.pkcs11 import Pkcs11Token\nfrom iam.errors import Refused\n"
        f"token = Pkcs11Token(Path(sys.argv[1]), {LABEL!r}, {PIN!r}, deadline=0.3)\n"
        "try:\n    token.check()\nexcept Refused as refused:\n    print(refused.reason)\n"
    )
    with module.hanging():
        ended = subprocess.run(
            [sys.executable, "-c", program, str(module.path)],
            check=True,
            capture_output=True,
            text=True,
            timeout=10,
            env=dict(os.environ),
        )
    assert "could not be reached in 0.3 s" in ended.stdout


def test_who_has_waited_in_line_for_his_whole_deadline_is_refused_though_nothing_hangs() -> None:
    thread = TokenThread("a module")
    long = thread.begin("make a key", lambda: time.sleep(0.6) or "made", deadline=5)
    began = time.monotonic()
    with pytest.raises(Refused) as refused:
        thread.call("sign", lambda: "signed", deadline=0.2)
    assert 0.2 <= time.monotonic() - began < 0.5
    assert "it was to make a key 0." in refused.value.reason
    assert thread.begin("sign", lambda: "signed", deadline=5).result() == "signed"  # it does not hang: it is in line
    assert long.result() == "made"


async def test_operators_wait_for_an_authoritys_key_without_a_connection(
    world: World, token: Pkcs11Token, module: HangingModule, one_connection: Pool
) -> None:
    keystore = Keystore(world.keys, MASTER_KEY, urandom, {"pkcs11": token})
    service = KeyService(one_connection, keystore, world.clock, urandom)
    authorities = Authorities(one_connection, keystore, world.clock, urandom, base_url=BASE_URL)
    await authorities.ensure()
    administration = AuthorityAdministration(
        one_connection, authorities, keystore, world.clock, urandom, world.publication, base_url=BASE_URL
    )
    intake = AuthorityIntake(
        one_connection, authorities, administration, keystore, world.clock, urandom, world.publication
    )
    access, system = await world.access(world.system.id), world.system

    async def key() -> KeyWish:
        made = await service.create(system.id, KeyAlgorithm.P256, 256, Backend.PKCS11, SAID, actor="test")
        return KeyWish(existing=made.id)

    first = Wish({"common_name": "Acme"}, line="acme", key=await key())
    await administration.create(access, system, first)
    wishes = [await key() for _ in range(3)]
    with module.hanging():
        waiting: list[Awaitable[object]] = [
            administration.create(access, system, Wish({"common_name": "Other"}, line="other", key=wishes[0])),
            administration.reissue(access, system, "acme", None),
            administration.roll_over(access, system, "acme", wishes[1], None),
            intake.request(access, system, "asked", {"common_name": "asked"}, wishes[2], {}),
        ]
        tasks = [asyncio.ensure_future(one) for one in waiting]
        await asyncio.sleep(DEADLINE / 2)
        assert not any(one.done() for one in tasks)
        async with asyncio.timeout(DEADLINE / 4):
            await service.page(system.id, ListQuery())
        assert all(map(is_unavailable, await asyncio.gather(*tasks, return_exceptions=True)))
    assert [one.name for one in authorities.all if one.line in ("acme", "other")] == ["acme"]
    token_answers(token)
    await administration.roll_over(access, system, "acme", wishes[1], None)
    await intake.request(access, system, "asked", {"common_name": "asked"}, wishes[2], {})


async def test_a_key_that_signs_for_a_caller_meanwhile_becomes_no_authoritys(
    world: World, token: Pkcs11Token, module: HangingModule
) -> None:
    keystore = Keystore(world.keys, MASTER_KEY, urandom, {"pkcs11": token})
    service = KeyService(world.pool, keystore, world.clock, urandom)
    made = await service.create(world.system.id, KeyAlgorithm.P256, 256, Backend.PKCS11, SAID, actor="test")
    administration = AuthorityAdministration(
        world.pool, world.authorities, keystore, world.clock, urandom, world.publication, base_url=BASE_URL
    )
    access = await world.access(world.system.id)
    with module.hanging():
        wish = Wish({"common_name": "Other"}, line="other", key=KeyWish(existing=made.id))
        creating = asyncio.create_task(administration.create(access, world.system, wish))
        await asyncio.sleep(DEADLINE / 4)
        signing = asyncio.create_task(
            service.sign(world.system.id, str(made.id), ECDSA, Message(b"a certificate"), actor="test")
        )
        await asyncio.sleep(DEADLINE / 4)
        assert not creating.done()
    assert await signing
    with pytest.raises(Refused, match="has signed messages"):
        await creating
    assert await world.value("SELECT count(*) FROM authority WHERE name = 'other'") == 0


async def test_a_message_that_an_authority_signs_keeps_the_loop_from_nothing(
    world: World, token: Pkcs11Token, module: HangingModule
) -> None:
    keystore = Keystore(world.keys, MASTER_KEY, urandom, {"pkcs11": token})
    service = KeyService(world.pool, keystore, world.clock, urandom)
    authorities = Authorities(world.pool, keystore, world.clock, urandom, base_url=BASE_URL)
    await authorities.ensure()
    administration = AuthorityAdministration(
        world.pool, authorities, keystore, world.clock, urandom, world.publication, base_url=BASE_URL
    )
    made = await service.create(world.system.id, KeyAlgorithm.P256, 256, Backend.PKCS11, SAID, actor="test")
    wish = Wish({"common_name": "Acme"}, line="acme", key=KeyWish(existing=made.id))
    await administration.create(await world.access(world.system.id), world.system, wish)
    nothing: Any = None
    register = AuthorityRegister(world.pool, authorities, world.clock)
    async with serving(world, authority_signatures.routes(authorities, administration, register, nothing)) as client:
        asked = client.post(
            "/api/ca/v1/cas/acme/signature/sign",
            headers=await world.identity(world.system.id, EVERYTHING),
            json={"message": "YQ==", "signature_algorithm": "ECDSA_SHA_256"},
        )
        with module.hanging():
            waiting = asyncio.ensure_future(asked)
            ticks = 0
            while not waiting.done():
                await asyncio.sleep(0.01)
                ticks += 1
            assert (await waiting).status == 503
        assert ticks > 20, "the loop stood still"
    assert await world.value("SELECT count(*) FROM outbox WHERE kind = 'authority.signed'") == 0
