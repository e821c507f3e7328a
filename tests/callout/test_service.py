"""The answer to a request: who is believed, what the answer says, and that nothing makes it fail loudly."""

import asyncio
import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callout.claims import ConnectionType
from callout.nkeys import (
    Prefix,
    SealingKey,
    SigningKey,
    decode_public_key,
    verify,
)
from callout.service import CalloutLimits, CalloutService, is_bound
from iam.access import Access, Authenticated
from iam.errors import Refused
from iam.topics import access_control_list
from tests.callout.brokers import ISSUER_SEED, START, XKEY_SEED, access, allow, deny, identity, tenant
from tests.callout.requests import HEADER, USER_KEY, Asking, base64url, claims_of

NOW = START
SESSION = UUID("01a2019d-2b60-74fe-8298-07e0a501a040")
OURS = SealingKey.from_seed(XKEY_SEED)
RULES = [allow("all", "${tenant}/a/#")]


@dataclass
class Prover:
    """Proves anybody to be this one."""

    who: Access
    expires: datetime = NOW + timedelta(minutes=5)
    session: UUID | None = SESSION
    fault: Exception | None = None
    delay: float = 0
    tokens: int = 0
    chains: int = 0

    async def token(self, _: str) -> Authenticated:
        self.tokens += 1
        return await self._proved()

    async def chain(self, _: Sequence[bytes]) -> Authenticated:
        self.chains += 1
        return await self._proved()

    async def _proved(self) -> Authenticated:
        await asyncio.sleep(self.delay)
        if self.fault is not None:
            raise self.fault
        return Authenticated(self.who, self.expires, self.session, ("test",))


def service(prover: Prover, **limits: Any) -> CalloutService:
    return CalloutService(
        prover.token,
        prover.chain,
        issuer=ISSUER_SEED,
        xkey=XKEY_SEED,
        clock=lambda: NOW,
        random=os.urandom,
        limits=CalloutLimits(**limits),
    )


@pytest.fixture
def server() -> Asking:
    return Asking()


@pytest.fixture
def prover() -> Prover:
    return Prover(access(RULES))


async def asked(prover: Prover, server: Asking, claims: object, **limits: object) -> bytes:
    return await answered(service(prover, **limits), server.sealed(server.signed(claims), OURS), server.xkey.public)


async def answered(service: CalloutService, sealed: bytes, key: str) -> bytes:
    """Give the answer, at once or when it comes."""
    answer = service.answer(sealed, key)
    return answer if isinstance(answer, bytes) else await answer


def client(kind: str = "Client", **info: object) -> dict[str, object]:
    return {"host": "127.0.0.1", "id": 9, "kind": kind, "type": "nats", "mqtt_id": ""} | info


PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


class TestAtOnce:
    """What memory can prove waits for nothing, and takes no place among those that wait (rule 6)."""

    def answering(self, who: Access, *, expires: datetime, **limits: Any) -> CalloutService:
        proved = Authenticated(who, expires, SESSION, ("test",))
        return CalloutService(
            lambda _: proved,
            lambda _: proved,
            issuer=ISSUER_SEED,
            xkey=XKEY_SEED,
            clock=lambda: NOW,
            random=os.urandom,
            limits=CalloutLimits(**limits),
        )

    def test_it_is_answered_without_a_loop(self, server: Asking) -> None:
        service = self.answering(access(RULES), expires=NOW + timedelta(minutes=5), at_once=1)
        for _ in range(3):
            answer = service.answer(server.sealed(server.signed(server.claims(NOW)), OURS), server.xkey.public)
            assert isinstance(answer, bytes)
            assert claims_of(server.opened(answer, OURS))["nats"]["jwt"]

    def test_it_is_refused_by_the_same_rules(self, server: Asking, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO")
        service = self.answering(access(RULES), expires=NOW)
        assert service.answer(server.sealed(server.signed(server.claims(NOW)), OURS), server.xkey.public) == b""
        assert "has expired" in caplog.text


class TestAnswer:
    async def test_what_it_says(self, prover: Prover, server: Asking) -> None:
        answer = await asked(prover, server, server.claims(NOW))
        response = server.opened(answer, OURS)
        envelope = claims_of(response)
        issuer = SigningKey.from_seed(ISSUER_SEED).public
        assert (envelope["iss"], envelope["sub"], envelope["aud"]) == (issuer, USER_KEY, server.id)
        assert envelope["nats"]["type"] == "authorization_response"
        token = envelope["nats"]["jwt"].encode()
        user = claims_of(token)
        assert (user["iss"], user["sub"], user["aud"]) == (issuer, USER_KEY, "APP")
        acl = access_control_list(prover.who)
        assert user["name"] == f"{prover.who.identity.id}.{acl.digest}.s{SESSION.hex}"
        assert user["exp"] == int(prover.expires.timestamp())
        for signed in (response, token):
            message, _, signature = signed.rpartition(b".")
            raw = base64.urlsafe_b64decode(signature + b"==")
            assert verify(decode_public_key(Prefix.ACCOUNT, issuer), message, raw)

    @pytest.mark.parametrize("connection", list(ConnectionType))
    async def test_pitfall_1_all_four_lists_are_always_there(self, server: Asking, connection: ConnectionType) -> None:
        for rules in ([], [allow("publish", "${tenant}/a")], [allow("subscribe", "${tenant}/a")], [deny("all", "#")]):
            prover = Prover(access(rules))
            info = client(type=connection, mqtt_id=prover.who.identity.id)
            answer = await asked(prover, server, server.claims(NOW, client_info=info))
            user = claims_of(claims_of(server.opened(answer, OURS))["nats"]["jwt"].encode())["nats"]
            for direction in ("pub", "sub"):
                assert user[direction]["allow"] or user[direction]["deny"] == [">"]
                assert user[direction]["deny"]

    async def test_a_certificate_of_ten_thousand_years_is_given_one(self, prover: Prover, server: Asking) -> None:
        prover.expires = datetime(9999, 12, 31, tzinfo=NOW.tzinfo)
        answer = await asked(prover, server, server.claims(NOW))
        user = claims_of(claims_of(server.opened(answer, OURS))["nats"]["jwt"].encode())
        assert user["exp"] == int((NOW + timedelta(days=365)).timestamp())

    async def test_one_key_is_not_anothers(self, prover: Prover, server: Asking) -> None:
        answer = await asked(prover, server, server.claims(NOW))
        with pytest.raises(Refused):
            Asking(2).opened(answer, OURS)


class TestWhatCounts:
    @pytest.mark.parametrize("options", [{"pass": "t"}, {"auth_token": "t"}, {"user": "x", "pass": "t"}])
    async def test_a_token(self, prover: Prover, server: Asking, options: dict[str, str]) -> None:
        assert await asked(prover, server, server.claims(NOW, connect_opts=options))
        assert prover.tokens == 1

    @pytest.mark.parametrize(
        "options", [{}, {"user": "idt-x"}, {"jwt": "t"}, {"nkey": "t", "sig": "t"}, {"pass": "", "auth_token": ""}]
    )
    async def test_nothing_else(self, prover: Prover, server: Asking, options: dict[str, str]) -> None:
        assert await asked(prover, server, server.claims(NOW, connect_opts=options)) == b""
        assert prover.tokens == 0

    async def test_a_certificate_over_mqtt_that_the_broker_verified(self, prover: Prover, server: Asking) -> None:
        info = client(type="mqtt", mqtt_id=prover.who.identity.id)
        claims = server.claims(NOW, client_info=info, connect_opts={}, client_tls={"verified_chains": [[PEM, PEM]]})
        assert await asked(prover, server, claims)
        assert prover.chains == 1

    @pytest.mark.parametrize("connection", ["nats", "websocket"])
    async def test_pitfall_2_a_certificate_counts_nowhere_else(
        self, prover: Prover, server: Asking, connection: str
    ) -> None:
        claims = server.claims(
            NOW, client_info=client(type=connection), connect_opts={}, client_tls={"verified_chains": [[PEM]]}
        )
        assert await asked(prover, server, claims) == b""
        assert prover.chains == 0

    @pytest.mark.parametrize(
        "tls",
        [
            {"certs": [PEM]},
            {"verified_chains": []},
            {"verified_chains": [[]]},
            {"verified_chains": [["x"]]},
            {"verified_chains": "x"},
            {"verified_chains": [PEM]},
            {"verified_chains": [[PEM] * 11]},
            {"verified_chains": [[PEM + "x"]]},
            "x",
            None,
        ],
    )
    async def test_a_certificate_that_nobody_verified(self, prover: Prover, server: Asking, tls: object) -> None:
        info = client(type="mqtt", mqtt_id=prover.who.identity.id)
        claims = server.claims(NOW, client_info=info, connect_opts={}, client_tls=tls)
        assert await asked(prover, server, claims) == b""
        assert prover.chains == 0

    async def test_who_sends_a_password_is_judged_by_it(self, prover: Prover, server: Asking) -> None:
        info = client(type="mqtt", mqtt_id=prover.who.identity.id)
        assert await asked(
            prover, server, server.claims(NOW, client_info=info, client_tls={"verified_chains": [[PEM]]})
        )
        assert (prover.tokens, prover.chains) == (1, 0)

    async def test_who_is_proved_by_nothing_that_ends(self, prover: Prover, server: Asking) -> None:
        """Nobody could cut him: there is nothing to be revoked."""
        prover.session = None
        assert await asked(prover, server, server.claims(NOW)) == b""

    @pytest.mark.parametrize("expires", [timedelta(0), timedelta(seconds=-1)])
    async def test_an_expired_credential(self, prover: Prover, server: Asking, expires: timedelta) -> None:
        prover.expires = NOW + expires
        assert await asked(prover, server, server.claims(NOW)) == b""

    @pytest.mark.parametrize(
        ("name", "bound"),
        [
            ("{id}", True),
            ("{id}/x", True),
            ("{id}/", True),
            ("{id}/" + "x" * 32, True),
            ("{id}/" + "x" * 33, False),
            ("meter-1/" + "x" * 33, False),
            ("meter-1", True),
            ("meter-1/a/b", True),
            ("", False),
            ("/", False),
            ("/{id}", False),
            ("{id}x", False),
            ("meter-10", False),
            ("meter-1.x", False),
            ("None", False),
            ("someone", False),
        ],
    )
    def test_pitfall_3_whose_client_identifier_it_is(self, name: str, bound: bool) -> None:
        who = identity(tenant("acme"), device="meter-1")
        assert is_bound(name.format(id=who.id), who) is bound
        assert not is_bound("None", identity(tenant("acme")))


class TestForgery:
    @pytest.mark.parametrize(
        "change",
        [
            {"aud": "other"},
            {"iss": Asking(2).id},
            {"iss": ""},
            {"iss": 7},
            {"exp": int(NOW.timestamp()) - 6, "iat": int(NOW.timestamp()) - 8},
            {"iat": int(NOW.timestamp()) + 6},
            {"iat": None},
            {"exp": "soon"},
            {"nats": None},
            {"nats": {}},
        ],
    )
    async def test_claims(self, prover: Prover, server: Asking, change: dict[str, object]) -> None:
        assert await asked(prover, server, server.claims(NOW) | change) == b""
        assert prover.tokens == 0

    @pytest.mark.parametrize(
        "change",
        [
            {"type": "user"},
            {"user_nkey": "UAAA"},
            {"user_nkey": Asking().id},
            {"user_nkey": None},
            {"server_id": {"id": Asking(2).id, "xkey": Asking().xkey.public}},
            {"server_id": {"id": Asking().id, "xkey": Asking(2).xkey.public}},
            {"server_id": {"id": Asking().id}},
            {"client_info": client(kind="Leafnode")},
            {"client_info": client(type="unknown")},
            {"client_info": client(id="x")},
            {"client_info": client(type=["mqtt"])},
            {"client_info": None},
            {"connect_opts": {"pass": 7}},
            {"connect_opts": []},
        ],
    )
    async def test_what_is_asked(self, prover: Prover, server: Asking, change: dict[str, object]) -> None:
        assert await asked(prover, server, server.claims(NOW, **change)) == b""
        assert prover.tokens == 0

    @pytest.mark.parametrize("header", [{"alg": "none"}, HEADER | {"alg": "HS256"}, {}, {"alg": "ed25519-nkey"}])
    async def test_algorithms(self, prover: Prover, server: Asking, header: dict[str, str]) -> None:
        token = server.signed(server.claims(NOW), header)
        assert await answered(service(prover), server.sealed(token, OURS), server.xkey.public) == b""

    async def test_signatures(self, prover: Prover, server: Asking) -> None:
        token = server.signed(server.claims(NOW))
        other = Asking(2).signed(server.claims(NOW))
        body, _, _ = token.rpartition(b".")
        for forged in (
            body,
            body + b".",
            other,
            body + b"." + base64url(b"\0" * 64),
            token + b".x",
            b"",
            b"..",
            b"x.y.z",
        ):
            assert await answered(service(prover), server.sealed(forged, OURS), server.xkey.public) == b""
        assert prover.tokens == 0

    async def test_a_known_server_is_known_by_its_seal_and_no_other(self, prover: Prover, server: Asking) -> None:
        """Once its signature held, its curve key speaks for it; a stranger's key does not."""
        answering, stranger = service(prover), Asking(2)
        claims = server.claims(NOW)
        assert await answered(answering, server.sealed(server.signed(claims), OURS), server.xkey.public)
        body, _, _ = server.signed(server.claims(NOW)).rpartition(b".")
        unsigned = body + b"." + base64url(b"\0" * 64)
        assert await answered(answering, server.sealed(unsigned, OURS), server.xkey.public)
        for forged in (claims, stranger.claims(NOW) | {"iss": server.id}):
            forged["nats"]["server_id"] = {"id": server.id, "xkey": stranger.xkey.public}
            message = stranger.sealed(stranger.signed(forged), OURS)
            assert await answered(answering, message, stranger.xkey.public) == b""
            assert await answered(answering, message, server.xkey.public) == b""

    async def test_a_server_that_was_not_believed_is_not_remembered(self, prover: Prover, server: Asking) -> None:
        answering = service(prover)
        late = server.signed(server.claims(NOW - timedelta(minutes=1)))
        assert await answered(answering, server.sealed(late, OURS), server.xkey.public) == b""
        body, _, _ = server.signed(server.claims(NOW)).rpartition(b".")
        unsigned = body + b"." + base64url(b"\0" * 64)
        assert await answered(answering, server.sealed(unsigned, OURS), server.xkey.public) == b""

    async def test_seals(self, prover: Prover, server: Asking) -> None:
        token = server.signed(server.claims(NOW))
        sealed, answering = server.sealed(token, OURS), service(prover)
        for message, key in (
            (token, server.xkey.public),
            (sealed, Asking(2).xkey.public),
            (sealed, ""),
            (sealed, "X" * 56),
            (sealed, server.id),
            (sealed[:-1], server.xkey.public),
            (sealed[:20], server.xkey.public),
            (b"xkv1", server.xkey.public),
            (b"", server.xkey.public),
        ):
            assert await answered(answering, message, key) == b""
        assert prover.tokens == 0

    @given(st.binary(max_size=200), st.text(max_size=60))
    async def test_nothing_makes_it_raise(self, message: bytes, key: str) -> None:
        prover, server = Prover(access(RULES)), Asking()
        answering = service(prover)
        assert await answered(answering, message, key) == b""
        assert await answered(answering, server.sealed(message, OURS), server.xkey.public) == b""
        assert await answered(answering, server.sealed(server.signed(key), OURS), server.xkey.public) == b""


class TestLimits:
    async def test_a_fault_of_our_own_refuses_this_one_and_no_other(self, prover: Prover, server: Asking) -> None:
        answering = service(prover)
        message = server.sealed(server.signed(server.claims(NOW)), OURS)
        prover.fault = RuntimeError("broken")
        assert await answered(answering, message, server.xkey.public) == b""
        prover.fault = None
        assert await answered(answering, message, server.xkey.public)

    async def test_pitfall_11_what_is_too_much_is_refused_at_once(self, prover: Prover, server: Asking) -> None:
        prover.delay = 0.2
        answering = service(prover, at_once=3)
        message = server.sealed(server.signed(server.claims(NOW)), OURS)
        answers = await asyncio.gather(*(answered(answering, message, server.xkey.public) for _ in range(5)))
        assert [bool(answer) for answer in answers] == [True] * 3 + [False] * 2
        assert await answered(answering, message, server.xkey.public)

    async def test_pitfall_9_what_takes_too_long_is_refused(self, prover: Prover, server: Asking) -> None:
        prover.delay = 5
        assert await asked(prover, server, server.claims(NOW), seconds=0.05) == b""

    async def test_an_answer_that_no_broker_would_take(self, server: Asking) -> None:
        devices = [f"meter-{number}" for number in range(3000)]
        prover = Prover(access([allow("all", "${tenant}/devices/${device}/#")], devices))
        assert await asked(prover, server, server.claims(NOW))
        assert await asked(prover, server, server.claims(NOW), answer_bytes=100_000) == b""
