"""A device with a key in a token, from its enrolment on: renewing with the same key and with new ones, and moving."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from est.client import (
    EstFailure,
    Failure,
    FolderUnusable,
    KeyKind,
    KeyUnusable,
    Server,
    Token,
    TokenKey,
    Wish,
    renew,
)
from est.client import token as tokens
from est.client.keys import kind_of
from est.client.own import key_fits
from est.profiles import ProofOfPossession
from tests.ca.softhsm import PIN, needs_softhsm
from tests.est.test_authentication import BY_OPERATOR, decide, waiting
from tests.est.tokens import NAME, Device, factory_new, soft_token
from tests.est.world import EstWorld

pytestmark = needs_softhsm
AWAY = "https://127.0.0.1:9"


@pytest.fixture
async def device(est: EstWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Device]:
    with soft_token(tmp_path / "softhsm", monkeypatch) as soft:
        (tmp_path / "device").mkdir()
        yield Device(est, await factory_new(est, tmp_path / "device"), soft)


@pytest.fixture(params=["1.2", "1.3"])
def version(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the transport speak one version of TLS alone."""
    from est.client import token_tls  # noqa: PLC0415 - where there is a token

    offered = {"1.2": (3, 3), "1.3": (3, 4)}[request.param]
    made = token_tls._settings

    def settings() -> Any:
        found = made()
        found.minVersion = found.maxVersion = offered
        found.versions = [offered]
        return found

    monkeypatch.setattr(token_tls, "_settings", settings)


@pytest.mark.usefixtures("version")
@pytest.mark.parametrize("kind", [KeyKind.P256, KeyKind.P384, KeyKind.P521, KeyKind.RSA2048, KeyKind.RSA3072])
async def test_it_enrols_and_renews_and_proves_possession(device: Device, kind: KeyKind) -> None:
    await device.est.label("linked", proof_of_possession=ProofOfPossession.REQUIRED)
    device.server = replace(device.server, label="linked")
    await device.enrol(replace(device.wish, kind=kind))
    first, serial = device.key(), device.serial()
    await device.renew()
    assert (device.key(), device.serial() != serial) == (first, True)
    serial = device.serial()
    await device.renew(rekey=True)
    second = device.key()
    device.assert_has_only(second)
    assert (second.identifier != first.identifier, device.serial() != serial) == (True, True)
    present = device.folder.certificate()
    assert present is not None
    assert kind_of(present.public_key()) is kind
    await device.renew()
    with pytest.raises(EstFailure) as failed:
        await device.renew(Wish(proves_possession=False))
    assert failed.value.status == 403


async def test_the_answer_to_a_new_key_is_lost(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server has superseded the certificate; the device asks again with the same two keys."""
    await device.enrol()
    old = device.key()

    def lose(*_: object) -> None:
        raise ConnectionError("lost")

    with monkeypatch.context() as patched:
        patched.setattr("est.client.device.DeviceFolder.finish", lose)
        with pytest.raises(ConnectionError):
            await device.renew(rekey=True)
    waiting = device.folder.pending()
    assert isinstance(waiting, TokenKey)
    device.assert_has_only(old, waiting)
    await device.renew()
    assert device.key() == waiting
    device.assert_has_only(waiting)


@pytest.mark.parametrize("stop", range(1, 9))
async def test_a_rekey_that_ends_anywhere_goes_on(device: Device, monkeypatch: pytest.MonkeyPatch, stop: int) -> None:
    """After so many of the steps that write or change the token it ends; no key in use is ever destroyed."""
    await device.enrol()
    old, steps = device.key(), 0
    places = [
        *(f"est.client.folder.{name}" for name in ("write_whole", "remove", "Pair.replace")),
        *(f"est.client.token.{name}" for name in ("_make", "_destroy")),
    ]

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps > stop:
                raise KeyboardInterrupt
            return real(*arguments, **more)

        return call

    with monkeypatch.context() as patched:
        for place in places:
            module, _, name = place.removeprefix("est.client.").partition(".")
            owner = sys.modules[f"est.client.{module}"]
            for part in name.split(".")[:-1]:
                owner = getattr(owner, part)
            real = getattr(owner, name.split(".")[-1])
            patched.setattr(owner, name.split(".")[-1], counted(real))
        try:
            await asyncio.get_running_loop().run_in_executor(None, ended, device)
        except EndedError:
            pass
        else:
            assert stop == 8, steps
    present = device.key()
    assert present.identifier in device.soft.identifiers()
    assert key_fits(device.folder) is True
    await device.renew(rekey=device.folder.pending() is None and present == old)
    assert device.key() != old
    device.assert_has_only(device.key())
    assert {one.name for one in device.folder.path.iterdir()} & {"next.uri", "next.pem", "next.csr"} == set()


class EndedError(Exception):
    """It ended in the middle."""


def ended(device: Device) -> None:
    try:
        renew(device.folder, device.server, Wish(), rekey=True)
    except KeyboardInterrupt as interrupt:
        raise EndedError from interrupt


async def test_an_operators_decision_is_waited_for_with_one_key(device: Device) -> None:
    await device.est.label("meters", settings=BY_OPERATOR)
    device.server = replace(device.server, label="meters")
    for wish in (device.wish, device.wish, Wish()):  # the last without saying again where the key is
        with pytest.raises(EstFailure) as failed:
            await device.enrol(wish)
        assert failed.value.failure is Failure.PENDING
    (request,) = await waiting(device.est, "?filter=state[eq]pending")
    await decide(device.est, "approve", request["id"])
    await device.enrol(Wish())
    device.assert_has_only(device.key())


async def test_a_spent_key_is_destroyed_when_the_token_is_back(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    await device.enrol()
    old = device.key()

    def away(_: TokenKey) -> None:
        raise KeyUnusable("the token is away")

    with monkeypatch.context() as patched:
        patched.setattr(tokens, "destroy_key", away)
        await device.renew(rekey=True)
    device.assert_has_only(old, device.key())
    assert device.folder.spent() == (old,)
    await device.renew()
    device.assert_has_only(device.key())
    assert not (device.folder.path / "spent.uri").exists()


async def test_a_spent_key_is_reached_as_the_present_one_is(
    device: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The PIN's file has moved since: what `spent.uri` says of it is not tried."""
    await device.enrol()
    with monkeypatch.context() as patched:
        patched.setattr("est.client.device.destroy_spent", lambda _: None)
        await device.renew(rekey=True)
    moved = device.soft.pin_file.rename(tmp_path / "elsewhere")
    await device.renew(Wish(token=replace(device.soft.token, pin_file=moved)))
    device.assert_has_only(device.key())


async def test_a_key_that_is_in_use_is_never_spent(device: Device) -> None:
    await device.enrol()
    device.folder._spend(device.key())
    await device.renew()
    device.assert_has_only(device.key())


async def test_a_key_that_was_given_up_is_destroyed(device: Device) -> None:
    await device.enrol()
    with pytest.raises(EstFailure):
        await asyncio.to_thread(renew, device.folder, Server(AWAY), Wish(), rekey=True)
    kept = device.folder.begin_in_token(device.soft.token, f"doorward {NAME}")
    await asyncio.to_thread(tokens.make_key, kept, KeyKind.P256)
    assert device.folder.give_up()
    await device.renew()
    device.assert_has_only(device.key())


async def test_a_key_moves_from_a_file_into_a_token(device: Device) -> None:
    await device.enrol(Wish())
    with pytest.raises(FolderUnusable, match="only --rekey makes one in the token"):
        await device.renew(device.wish)
    await device.renew(device.wish, rekey=True)
    device.assert_has_only(device.key())
    assert not list(device.folder.path.rglob("device.key"))
    await device.renew(rekey=True)
    device.assert_has_only(device.key())


async def test_another_way_to_the_token(device: Device, tmp_path: Path) -> None:
    await device.enrol()
    elsewhere = tmp_path / "elsewhere"
    device.soft.pin_file.rename(elsewhere)
    with pytest.raises(EstFailure, match="the PIN cannot be read") as failed:
        await device.renew()
    assert failed.value.failure is Failure.UNUSABLE
    wrong = replace(device.soft.token, pin_file=tmp_path / "nowhere")
    with pytest.raises(KeyUnusable, match="nowhere"):
        await device.renew(Wish(token=wrong))
    moved = replace(device.soft.token, pin_file=elsewhere)
    await device.renew(Wish(token=moved))
    assert device.key().token == moved
    await device.renew()
    elsewhere.rename(device.soft.pin_file)
    await device.enrol()  # asked again, by the first way
    assert device.key().token == device.soft.token


async def test_a_key_that_its_maker_put_there_is_taken(device: Device) -> None:
    made = TokenKey(device.soft.token, b"maker", f"doorward {NAME}")
    tokens.make_key(made, KeyKind.P384)
    await device.enrol()
    assert device.key() == made
    device.assert_has_only(made)


async def test_a_key_of_somebody_else_is_used_and_never_destroyed(device: Device) -> None:
    """As of a token that gives its keys names of its own."""
    theirs = TokenKey(device.soft.token, b"\2", "Slot 9a")
    tokens.make_key(theirs, KeyKind.P256)
    with pytest.raises(KeyUnusable, match="has no key called Slot 9c"):
        await device.enrol(replace(device.wish, token_key="Slot 9c"))
    assert device.folder.pending() is None
    await device.enrol(replace(device.wish, token_key="Slot 9a"))
    assert device.key() == theirs
    await device.renew()
    device.assert_has_only(theirs)
    await device.renew(rekey=True)
    assert device.key() != theirs
    device.assert_has_only(theirs, device.key())


async def test_two_keys_of_one_name_are_not_guessed_between(device: Device) -> None:
    for identifier in (b"1", b"2"):
        tokens.make_key(TokenKey(device.soft.token, identifier, f"doorward {NAME}"), KeyKind.P256)
    with pytest.raises(KeyUnusable, match="has 2 keys called"):
        await device.enrol()


async def test_what_the_factory_left_in_the_token_enrols(device: Device) -> None:
    """The bootstrap certificate's key is in the token, too."""
    factory = TokenKey(device.soft.token, b"factory", "factory")
    public: Any = load_der_public_key(tokens.make_key(factory, KeyKind.RSA2048).spki)
    made = await device.est.world.service.issue_bootstrap(NAME, public, actor="test")
    device.folder.bootstrap.certificate.write_bytes(made.chain)
    device.folder.bootstrap.key.unlink()
    (device.folder.path / "bootstrap.uri").write_text(factory.uri())
    await device.enrol()
    device.assert_has_only(factory, device.key())


@pytest.mark.parametrize("wrong", ["PIN", "kind"])
async def test_what_cannot_be_made_is_not_begun(device: Device, wrong: str) -> None:
    if wrong == "PIN":
        device.soft.pin_file.write_text("000000")
    wish = replace(device.wish, kind=KeyKind.ED25519 if wrong == "kind" else None)
    with pytest.raises(KeyUnusable):
        await device.enrol(wish)
    assert device.folder.pending() is None
    await device.enrol(Wish())
    assert device.folder.is_pair()


async def test_a_pin_that_was_refused_is_not_tried_again(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    await device.enrol()
    tries: list[str | None] = []
    real = tokens._in_session

    def counted(token: Token, act: Any, pin: str | None, **more: Any) -> Any:
        if pin is not None:
            tries.append(pin)
        return real(token, act, pin, **more)

    monkeypatch.setattr(tokens, "_in_session", counted)
    device.soft.pin_file.write_text("000000\n")
    for words in ("PinIncorrect", "not tried again", "not tried again"):
        with pytest.raises(EstFailure, match=words) as failed:
            await device.renew()
        assert failed.value.failure is Failure.UNUSABLE
        assert "000000" not in str(failed.value)
    assert tries == ["000000"]
    device.soft.pin_file.write_text(PIN)
    await device.renew()


async def test_a_last_try_is_left_to_a_person(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    await device.enrol()
    real = tokens._token

    class LastTry:
        """What no SoftHSM says: that one more wrong PIN locks it."""

        def __init__(self, token: Token) -> None:
            self._token = real(token)
            self.flags = self._token.flags | tokens.TokenFlag.USER_PIN_FINAL_TRY

        def open(self, **how: Any) -> Any:
            assert how["user_pin"] is None
            return self._token.open(**how)

    monkeypatch.setattr(tokens, "_token", LastTry)
    with pytest.raises(EstFailure, match="one more wrong PIN locks it"):
        await device.renew()


def test_threads_stand_in_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that speaks for several devices: the process lives, and every signature is good."""
    with soft_token(tmp_path / "softhsm", monkeypatch) as soft:
        signers = [tokens.make_key(TokenKey(soft.token, bytes([n]), f"doorward {n}"), KeyKind.P256) for n in range(4)]

        def sign(number: int) -> None:
            signer, data = signers[number % 4], bytes([number])
            public: Any = load_der_public_key(signer.spki)
            public.verify(signer.sign(data), data, ec.ECDSA(SHA256()))

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(sign, range(120)))


async def test_a_token_whose_module_was_started_anew_serves_again(device: Device) -> None:
    import pkcs11  # noqa: PLC0415 - where there is a token

    await device.enrol()
    pkcs11.lib(str(device.soft.token.module)).finalize()
    await device.renew()


async def test_a_token_that_would_let_keys_out_is_not_used(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    out = {**tokens._NEVER_OUT, tokens.Attribute.SENSITIVE: False, tokens.Attribute.EXTRACTABLE: True}
    monkeypatch.setattr(tokens, "_NEVER_OUT", out)
    with pytest.raises(KeyUnusable, match="does not say that its keys never leave it"):
        await device.enrol()
    assert device.soft.identifiers() == set()


async def test_a_token_without_the_key_is_named(device: Device) -> None:
    await device.enrol()
    await asyncio.to_thread(tokens.destroy_key, device.key())
    assert key_fits(device.folder) is None
    with pytest.raises(EstFailure, match="is not in the token"):
        await device.renew()


async def test_a_certificate_of_another_key_is_named(device: Device) -> None:
    await device.enrol()
    key = device.key()
    await asyncio.to_thread(tokens.destroy_key, key)
    tokens.make_key(key, KeyKind.P256)
    assert key_fits(device.folder) is False
    with pytest.raises(FolderUnusable, match=r"is not the certificate of .*device\.uri"):
        await device.renew()
