"""Keys in a hardware token, on SoftHSM: made and used there, and not to be had out of it."""

import asyncio
import base64
import hashlib
import json
import logging
import os
import subprocess
import threading
from collections.abc import Awaitable, Iterator
from datetime import UTC, datetime
from os import urandom
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pkcs11
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca.administration import AuthorityAdministration
from ca.authorities import Authorities
from ca.certification import Certification
from ca.http import keys
from ca.intake import AuthorityIntake
from ca.issue import Template, authority, device, encoded_key
from ca.keystore import Backend, Keystore, StoredKey
from ca.kms import Description, KeyService
from ca.pkcs11 import Pkcs11Token
from ca.request import build_request
from ca.responders import Responders, ResponderTerms
from ca.signers import SoftwareSigner, in_turn, make_private_key
from ca.signing import WAYS, Message, SigningAlgorithm, verify_message
from ca.wishes import KeyWish, Wish
from certs.chain import Anchor, Purpose, validate_chain
from certs.keys import KeyAlgorithm, PublicKey
from certs.names import device_identifier, device_subject
from certs.profile import load_profile
from doorward.commands.check import check
from doorward.config import Configuration, NodeSection, Pkcs11Section, load_configuration
from doorward.keys import tokens as configured_tokens
from iam.errors import Kind, Refused
from tests.ca.softhsm import LABEL, PIN, make_token, needs_softhsm
from tests.ca.test_keys import ALL, Kms
from tests.ca.world import BASE_URL, MASTER_KEY, World, serving

pytestmark = needs_softhsm

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
KINDS = [
    (KeyAlgorithm.P256, 256),
    (KeyAlgorithm.P384, 384),
    (KeyAlgorithm.P521, 521),
    (KeyAlgorithm.RSA, 2048),
    (KeyAlgorithm.RSA, 3072),
    (KeyAlgorithm.RSA, 4096),
]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_token(tmp_path / "hsm", monkeypatch)


@pytest.fixture
def token(module: Path) -> Iterator[Pkcs11Token]:
    opened = Pkcs11Token(module, LABEL, PIN)
    yield opened
    opened.close()


def service_with(world: World, token: Pkcs11Token) -> KeyService:
    return KeyService(world.pool, Keystore(world.keys, MASTER_KEY, urandom, {"pkcs11": token}), world.clock, urandom)


@pytest.mark.parametrize(("algorithm", "bits"), KINDS)
def test_a_key_of_the_token_is_an_authoritys(
    token: Pkcs11Token, algorithm: KeyAlgorithm, bits: int, tmp_path: Path
) -> None:
    identifier = uuid4()
    signer = token.signer(identifier, token.make(identifier, algorithm, bits).result())
    root_template = Template(load_profile("root"), None, signer, None)
    root = x509.load_der_x509_certificate(
        root_template.issue(authority("Root", encoded_key(signer.public_key)), NOW, b"\x01" * 16).der
    )
    key = encoded_key(make_private_key(KeyAlgorithm.P256).public_key())
    template = Template(load_profile("device"), root, signer, None)
    leaf = x509.load_der_x509_certificate(
        template.issue(device(device_identifier("meter-001"), key), NOW, b"\x02" * 16).der
    )
    assert validate_chain(leaf, [], [Anchor.from_certificate(root)], NOW, purpose=Purpose.CLIENT_AUTH)
    for name, certificate in (("root.pem", root), ("leaf.pem", leaf)):
        (tmp_path / name).write_bytes(certificate.public_bytes(Encoding.PEM))
    command = ["openssl", "verify", "-attime", str(int(NOW.timestamp())), "-CAfile", "root.pem", "leaf.pem"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=True).stdout == b"leaf.pem: OK\n"
    software = SoftwareSigner(make_private_key(algorithm, bits))
    assert signer.algorithm == software.algorithm


@pytest.mark.parametrize("way", [one for one in SigningAlgorithm if one.startswith(("RSA", "ECDSA"))])
def test_each_way_to_sign_verifies(token: Pkcs11Token, way: SigningAlgorithm) -> None:
    identifier = uuid4()
    algorithm, bits = (KeyAlgorithm.RSA, 2048) if way.startswith("RSA") else (KeyAlgorithm.P256, 256)
    signer = token.signer(identifier, token.make(identifier, algorithm, bits).result())
    digest = Message(hashlib.new(f"sha{way[-3:]}", b"a message").digest(), is_digest=True)
    for message in (Message(b"a message"), digest):
        signature = signer.sign_message(way, message)
        assert verify_message(signer.public_key, way, Message(b"a message"), signature)
    with pytest.raises(Refused) as refused:
        signer.sign_message(SigningAlgorithm.ED25519, Message(b""))
    assert refused.value.kind is Kind.INVALID


def test_the_token_gives_no_key_out(token: Pkcs11Token, module: Path) -> None:
    identifiers = {uuid4(): algorithm for algorithm in (KeyAlgorithm.P256, KeyAlgorithm.RSA)}
    for identifier, algorithm in identifiers.items():
        token.make(identifier, algorithm, 2048).result()
    token.close()
    session = pkcs11.lib(str(module)).get_token(token_label=LABEL).open(user_pin=PIN)
    for identifier in identifiers:
        key = session.get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY, id=identifier.bytes)
        for attribute in (pkcs11.Attribute.VALUE, pkcs11.Attribute.PRIVATE_EXPONENT):
            with pytest.raises((pkcs11.exceptions.AttributeSensitive, pkcs11.exceptions.AttributeTypeInvalid)):
                key[attribute]
        assert key[pkcs11.Attribute.NEVER_EXTRACTABLE]
    session.close()


@pytest.mark.parametrize("algorithm", [KeyAlgorithm.ED25519, KeyAlgorithm.ML_DSA_44])
def test_other_kinds_of_keys_are_not_made(token: Pkcs11Token, algorithm: KeyAlgorithm) -> None:
    with pytest.raises(Refused) as refused:
        token.make(uuid4(), algorithm, 256)
    assert refused.value.kind is Kind.INVALID


def test_a_token_that_was_away_serves_again(token: Pkcs11Token, tmp_path: Path) -> None:
    identifier = uuid4()
    signer = token.signer(identifier, token.make(identifier, KeyAlgorithm.P256, 256).result())
    folder = tmp_path / "hsm" / "tokens"
    folder.rename(tmp_path / "away")
    for _ in range(3):
        with pytest.raises(Refused) as refused:
            signer.sign(b"a list")
        assert refused.value.kind is Kind.UNAVAILABLE
        assert PIN not in refused.value.reason
    (tmp_path / "away").rename(folder)
    signature = signer.sign(b"a list")
    assert verify_message(signer.public_key, SigningAlgorithm.ECDSA_SHA_256, Message(b"a list"), signature)


def test_sessions_that_ended_are_opened_again(token: Pkcs11Token, caplog: pytest.LogCaptureFixture) -> None:
    identifier = uuid4()
    signer = token.signer(identifier, token.make(identifier, KeyAlgorithm.RSA, 2048).result())
    token._session.close()
    with caplog.at_level(logging.WARNING):
        assert signer.sign(b"a list")
    assert "is opened anew" in caplog.text
    assert PIN not in caplog.text


def test_a_wrong_pin_is_tried_once(module: Path, token: Pkcs11Token, caplog: pytest.LogCaptureFixture) -> None:
    identifier = uuid4()
    public_key = token.make(identifier, KeyAlgorithm.P256, 256).result()
    token.close()
    wrong = Pkcs11Token(module, LABEL, "wrong-pin")
    for _ in range(10):
        with pytest.raises(Refused) as refused:
            wrong.signer(identifier, public_key).sign(b"x")
        assert refused.value.kind is Kind.UNAVAILABLE
        assert "wrong-pin" not in refused.value.reason + refused.value.detail + caplog.text
    assert token.signer(identifier, public_key).sign(b"x")  # not locked


def test_many_threads_at_once_do_no_harm(token: Pkcs11Token) -> None:
    identifier = uuid4()
    signer = token.signer(identifier, token.make(identifier, KeyAlgorithm.P256, 256).result())
    signatures: list[bytes] = []

    def sign() -> None:
        signatures.extend(signer.sign(b"x") for _ in range(50))

    threads = [threading.Thread(target=sign) for _ in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(signatures) == 300
    assert all(
        verify_message(signer.public_key, SigningAlgorithm.ECDSA_SHA_256, Message(b"x"), one) for one in signatures
    )


@pytest.mark.parametrize(("algorithm", "size"), [("ECDSA", 256), ("ECDSA", 384), ("RSA", 2048)])
async def test_the_kms_makes_keys_in_the_token(world: World, token: Pkcs11Token, algorithm: str, size: int) -> None:
    async with serving(world, keys.routes(service_with(world, token))) as client:
        kms = Kms(client, await world.identity(world.system.id, ALL))
        engines = await (await client.get("/api/kms/v1/engines", headers=kms.headers)).json()
        made = await kms.make(algorithm, size, engine_id="pkcs11", name="in the token")
        way = "ECDSA_SHA_256" if algorithm == "ECDSA" else "RSASSA_PSS_SHA_256"
        signature = await kms.sign(made["key_id"], way, b"a message")
        assert await kms.verifies(made["key_id"], way, b"a message", signature)
        row = (await world.rows("SELECT backend, sealed FROM kms_key WHERE id = $1", UUID(made["key_id"])))[0]
        await kms.call("POST", "", {"algorithm": "Ed25519", "engine_id": "pkcs11"}, status=422)
        await kms.call("DELETE", f"/{made['key_id']}")
    assert [one["id"] for one in engines] == ["sealed", "pkcs11"]
    assert engines[1]["supported_key_types"][0] == {"type": "RSA", "sizes": [2048, 3072, 4096]}
    assert (made["engine_id"], row) == ("pkcs11", {"backend": "pkcs11", "sealed": None})
    public = base64.b64decode(made["public_key"])
    assert public.startswith(b"-----BEGIN PUBLIC KEY-----")
    with pytest.raises(Refused):
        await asyncio.to_thread(token.sign_hash, UUID(made["key_id"]), WAYS[SigningAlgorithm(way)], bytes(32))


async def test_an_authority_has_its_key_in_the_token(world: World, token: Pkcs11Token, tmp_path: Path) -> None:
    keystore = Keystore(world.keys, MASTER_KEY, urandom, {"pkcs11": token})
    service = KeyService(world.pool, keystore, world.clock, urandom)
    authorities = Authorities(world.pool, keystore, world.clock, urandom, base_url=BASE_URL)
    await authorities.ensure()
    administration = AuthorityAdministration(
        world.pool, authorities, keystore, world.clock, urandom, world.publication, base_url=BASE_URL
    )
    said = Description("for Acme", (), {})
    key = await service.create(world.system.id, KeyAlgorithm.P384, 384, Backend.PKCS11, said, actor="test")
    access = await world.access(world.system.id)
    wish = Wish(subject={"common_name": "Acme Hardware"}, line="acme", key=KeyWish(existing=key.id))
    made = await administration.create(access, world.system, wish)
    assert made.is_self_signed
    spki = encoded_key(make_private_key(KeyAlgorithm.P256).public_key())
    holder = device(device_identifier("meter-001"), spki)

    second = Authorities(world.pool, keystore, world.clock, urandom, base_url=BASE_URL)  # as at another start
    await second.ensure()
    template = second.template(second.by_name("acme"), "device")
    leaf = x509.load_der_x509_certificate(template.issue(holder, world.clock(), urandom(16)).der)
    validate_chain(leaf, [], [made.anchor], world.clock(), purpose=Purpose.CLIENT_AUTH)
    with pytest.raises(Refused) as refused:
        message = Message(b"a certificate")
        await service.sign(world.system.id, str(key.id), SigningAlgorithm.ECDSA_SHA_384, message, actor="test")
    assert refused.value.kind is Kind.FORBIDDEN

    (tmp_path / "hsm" / "tokens").rename(tmp_path / "away")
    token.close()
    with pytest.raises(Refused) as refused:
        template.issue(holder, world.clock(), urandom(16))
    assert refused.value.kind is Kind.UNAVAILABLE
    without = Authorities(world.pool, world.keystore, world.clock, urandom, base_url=BASE_URL)
    await without.ensure()  # a node without the token starts, and does everything else
    assert without.by_name("acme").signer is None
    assert without.by_name("issuing").signer is not None


async def test_while_a_key_is_made_the_loop_goes_on_and_what_signs_waits_in_line(
    world: World, token: Pkcs11Token, monkeypatch: pytest.MonkeyPatch
) -> None:
    keystore = Keystore(world.keys, MASTER_KEY, urandom, {"pkcs11": token})
    service = KeyService(world.pool, keystore, world.clock, urandom)
    authorities = Authorities(world.pool, keystore, world.clock, urandom, base_url=BASE_URL)
    await authorities.ensure()
    administration = AuthorityAdministration(
        world.pool, authorities, keystore, world.clock, urandom, world.publication, base_url=BASE_URL
    )
    certification = Certification(world.pool, authorities, administration, world.clock, urandom)
    intake = AuthorityIntake(world.pool, authorities, administration, keystore, world.clock, urandom, world.publication)
    responders = Responders(world.pool, authorities, keystore, world.clock, urandom, ResponderTerms())
    access, system, said = await world.access(world.system.id), world.system, Description("", (), {})

    async def key() -> StoredKey:
        return await service.create(system.id, KeyAlgorithm.P256, 256, Backend.PKCS11, said, actor="test")

    async def wish(name: str) -> Wish:
        return Wish({"common_name": name}, line=name, key=KeyWish(existing=(await key()).id), profile="bootstrap")

    await administration.create(access, system, await wish("acme"))
    await world.execute("DELETE FROM status_responder")  # so that there is one to make
    holder = SoftwareSigner(make_private_key(KeyAlgorithm.P256))
    asked = build_request(device_subject(device_identifier("meter-001")), holder)
    one, next_key, asked_key = await key(), KeyWish(existing=(await key()).id), KeyWish(existing=(await key()).id)
    other = await wish("other")
    message = Message(b"a message")

    is_making, may_end = threading.Event(), threading.Event()
    make = token._make

    def slowly(*arguments: Any) -> PublicKey:
        is_making.set()
        assert may_end.wait(20)
        return make(*arguments)

    async def stands_in_line(act: Awaitable[object]) -> None:
        is_making.clear()
        may_end.clear()
        making = asyncio.create_task(key())
        assert await asyncio.to_thread(is_making.wait, 20)
        end = threading.Timer(5, may_end.set)  # for a loop that waits too
        end.start()
        acting = asyncio.ensure_future(act)
        await asyncio.sleep(0.3)
        assert not may_end.is_set(), "the loop waited for the token"
        assert not acting.done()
        end.cancel()
        may_end.set()
        await acting
        await making

    monkeypatch.setattr(token, "_make", slowly)
    await stands_in_line(responders.renew())
    await stands_in_line(certification.certify(access, system, "acme", asked, None))
    await stands_in_line(administration.create(access, system, other))
    await stands_in_line(administration.roll_over(access, system, "acme", next_key, None))
    await stands_in_line(intake.request(access, system, "asked", {"common_name": "asked"}, asked_key, {}))
    await stands_in_line(service.sign(system.id, str(one.id), SigningAlgorithm.ECDSA_SHA_256, message, actor="test"))
    await stands_in_line(service.delete(system.id, str(one.id), actor="test"))


async def test_the_threads_that_others_share_are_free_while_the_token_is_busy(token: Pkcs11Token) -> None:
    identifier = uuid4()
    signer = token.signer(identifier, token.make(identifier, KeyAlgorithm.P256, 256).result())
    may_end = threading.Event()
    busy = token._thread.begin("be busy", lambda: may_end.wait(20), deadline=20)
    waiting = [asyncio.create_task(in_turn([signer], signer.sign, b"a list")) for _ in range(64)]
    assert await asyncio.wait_for(asyncio.to_thread(lambda: "free"), 5) == "free"
    assert not any(one.done() for one in waiting)
    may_end.set()
    assert busy.result()
    await asyncio.gather(*waiting)


async def test_nothing_is_left_in_the_token_when_the_store_says_no(
    world: World, token: Pkcs11Token, module: Path
) -> None:
    service = service_with(world, token)
    nobody = uuid4()  # no such tenant: the row cannot be written
    said = Description("", (), {})
    with pytest.raises(Exception, match="violates"):
        await service.create(nobody, KeyAlgorithm.P256, 256, Backend.PKCS11, said, actor="test")
    token.close()
    session = pkcs11.lib(str(module)).get_token(token_label=LABEL).open(user_pin=PIN)
    assert list(session.get_objects()) == []
    session.close()


async def test_a_token_that_is_away_keeps_the_key_on_record(world: World, token: Pkcs11Token, tmp_path: Path) -> None:
    service = service_with(world, token)
    said = Description("", (), {})
    made = await service.create(world.system.id, KeyAlgorithm.P256, 256, Backend.PKCS11, said, actor="test")
    other = await service.create(world.system.id, KeyAlgorithm.P256, 256, Backend.PKCS11, said, actor="test")
    (tmp_path / "hsm" / "tokens").rename(tmp_path / "away")
    with pytest.raises(Refused) as refused:
        await service.delete(world.system.id, str(made.id), actor="test")
    assert refused.value.kind is Kind.UNAVAILABLE
    assert (await service.key(world.system.id, str(made.id))).id == made.id
    without = KeyService(world.pool, world.keystore, world.clock, urandom)
    with pytest.raises(Refused) as refused:
        await without.sign(world.system.id, str(other.id), SigningAlgorithm.ECDSA_SHA_256, Message(b"x"), actor="test")
    assert refused.value.kind is Kind.UNAVAILABLE


def test_the_token_is_configured_and_its_pin_is_not_shown(
    module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    section = Pkcs11Section(module=module, token=LABEL)
    configuration = Configuration(node=NodeSection(data=tmp_path / "data"), pkcs11=section)
    with pytest.raises(Refused, match="PIN"):
        configured_tokens(configuration)
    monkeypatch.setenv("DOORWARD_PKCS11_PIN", PIN)
    assert PIN not in repr(load_configuration(None, os.environ))
    found = configured_tokens(configuration)
    assert list(found) == ["pkcs11"]
    assert LABEL in found["pkcs11"].check()
    (tmp_path / "pin").write_text(PIN + "\n")
    monkeypatch.setenv("DOORWARD_PKCS11_PIN", "another")
    section = Pkcs11Section(module=module, token=LABEL, pin_file=tmp_path / "pin")
    configuration = Configuration(node=NodeSection(data=tmp_path / "data"), pkcs11=section)
    check(configuration, as_json=False)
    said = capsys.readouterr().out
    assert f"ok     hardware token: {LABEL} by SoftHSM" in said
    assert PIN not in said
    with pytest.raises(Refused, match="belong together"):
        load_configuration(None, {"DOORWARD_PKCS11_TOKEN": LABEL})
    nowhere = Pkcs11Token(Path("/nowhere/module.so"), LABEL, PIN)
    with pytest.raises(Refused) as refused:
        nowhere.check()
    assert refused.value.kind is Kind.UNAVAILABLE


@pytest.fixture
def second(module: Path, token: Pkcs11Token) -> Pkcs11Token:
    """Another token of the same module."""
    token.close()
    options = ["--init-token", "--free", "--label", "vault", "--pin", "771122", "--so-pin", "99887766"]
    subprocess.run(["softhsm2-util", *options], check=True, capture_output=True)
    return Pkcs11Token(module, "vault", "771122")


async def test_keys_lie_in_the_token_that_is_named(world: World, token: Pkcs11Token, second: Pkcs11Token) -> None:
    keystore = Keystore(world.keys, MASTER_KEY, urandom, {"pkcs11": token, "vault": second})
    async with serving(world, keys.routes(KeyService(world.pool, keystore, world.clock, urandom))) as client:
        kms = Kms(client, await world.identity(world.system.id, ALL))
        engines = await (await client.get("/api/kms/v1/engines", headers=kms.headers)).json()
        assert [one["id"] for one in engines] == ["sealed", "pkcs11", "vault"]
        made = {one: await kms.make("ECDSA", 256, engine_id=one, name=one) for one in ("pkcs11", "vault")}
        for _ in range(3):  # by turns, and neither loses its session by the other
            for name, one in made.items():
                assert one["engine_id"] == name
                signature = await kms.sign(one["key_id"], "ECDSA_SHA_256", b"a message")
                assert await kms.verifies(one["key_id"], "ECDSA_SHA_256", b"a message", signature)
        listed = await client.get("/api/kms/v1/keys?filter=engine_id[eq]vault", headers=kms.headers)
        assert [one["name"] for one in (await listed.json())["list"]] == ["vault"]
        counted = await (await client.get("/api/kms/v1/stats", headers=kms.headers)).json()
        assert (
            counted["keys_distribution_per_engine"] | {"pkcs11": 1, "vault": 1}
            == (counted["keys_distribution_per_engine"])
        )
        await kms.call("POST", "", {"algorithm": "ECDSA", "size": 256, "engine_id": "nowhere"}, status=422)
        rows = await world.rows("SELECT name, token FROM kms_key WHERE backend = 'pkcs11' ORDER BY name")
        assert [(one["name"], one["token"]) for one in rows] == [("pkcs11", None), ("vault", "vault")]
        session = token._session
        await kms.call("DELETE", f"/{made['vault']['key_id']}")
        await kms.sign(made["pkcs11"]["key_id"], "ECDSA_SHA_256", b"a message")
        assert token._session is session
    without = KeyService(world.pool, Keystore(world.keys, MASTER_KEY, urandom, {"vault": second}), world.clock, urandom)
    with pytest.raises(Refused) as refused:
        await without.sign(
            world.system.id, made["pkcs11"]["key_id"], SigningAlgorithm.ECDSA_SHA_256, Message(b"x"), actor="test"
        )
    assert "pkcs11 is not configured" in refused.value.reason
    second.close()


def test_when_one_token_is_opened_anew_the_other_opens_another_session(
    token: Pkcs11Token, second: Pkcs11Token, caplog: pytest.LogCaptureFixture
) -> None:
    signers = []
    for one in (token, second):
        identifier = uuid4()
        signers.append(one.signer(identifier, one.make(identifier, KeyAlgorithm.P256, 256).result()))
    token._session.close()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            for signer in signers:
                assert signer.sign(b"a list")
    assert caplog.text.count("is opened anew") == 1
    second.close()


def test_further_tokens_are_configured_by_name(
    module: Path, second: Pkcs11Token, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pin").write_text("771122\n")
    file = tmp_path / "doorward.toml"
    place = f'module = "{module}"\ntoken = "vault"\npin_file = "{tmp_path / "pin"}"\n'
    file.write_text(f'[node]\ndata = "{tmp_path / "data"}"\n[pkcs11]\ndeadline = 5\n[pkcs11.tokens.vault]\n{place}')
    configuration = load_configuration(file, {})
    assert list(configured_tokens(configuration)) == ["vault"]
    check(configuration, as_json=False)
    said = capsys.readouterr().out
    assert "ok     hardware token vault: vault by SoftHSM" in said
    assert "771122" not in said
    as_json = json.dumps({"vault": {"module": str(module), "token": "vault", "pin_file": str(tmp_path / "pin")}})
    assert load_configuration(None, {"DOORWARD_PKCS11_TOKENS": as_json}).pkcs11.tokens == configuration.pkcs11.tokens
    for wrong in (
        place.replace("token =", "label ="),
        place.replace("pin_file", "pin_fiel"),
        place.partition("pin_file")[0],
    ):
        file.write_text(f"[pkcs11.tokens.vault]\n{wrong}")
        with pytest.raises(Refused, match="configuration is wrong"):
            load_configuration(file, {})
    for name in ("sealed", "pkcs11", "file", "Vault", "a.b"):
        file.write_text(f'[pkcs11.tokens."{name}"]\n{place}')
        with pytest.raises(Refused, match="configuration is wrong"):
            load_configuration(file, {})
    with pytest.raises(Refused, match="configuration is wrong"):
        load_configuration(None, {"DOORWARD_PKCS11_TOKENS": "vault"})
    second.close()


def test_a_public_half_is_the_tokens_own(token: Pkcs11Token) -> None:
    one, other = uuid4(), uuid4()
    public_key = token.make(one, KeyAlgorithm.P256, 256).result()
    assert token.make(other, KeyAlgorithm.P256, 256).result() != public_key
    der = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert der == encoded_key(public_key)
