"""How who enrols proves himself, by real TLS with curl: secrets, our tokens, an operator's decision, and all of it."""

import asyncio
from base64 import b64decode, b64encode
from datetime import timedelta
from hashlib import sha256
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from est.authentication.asking import Evidence
from est.authentication.secret import read_basic
from est.http import credentials
from est.profiles import Approval, EnrolmentMode, ServerKey, Settings, Way
from est.refusals import Refusal, Wait
from est.server_keys import KeyAndCertificate
from iam.errors import Refused
from iam.guard import Route
from iam.passwords import PasswordHasher
from tests.ca.world import serving
from tests.est.world import DAY, Answer, EstWorld, Holder, b64, only, request

ALL = '[{"resource": "*", "actions": ["create", "read", "update", "delete"]}]'
ENROLMENTS = '[{"resource": "est.enrolments", "actions": ["create"]}]'
PATH = "/api/dmsmanager/v1/dms/meters"
BY_SECRET = Settings(ways=(Way.SECRET,))
BY_TOKEN = Settings(ways=(Way.TOKEN,))
BY_OPERATOR = Settings(ways=(Way.APPROVAL,))


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def csr_for(identifier: str, key: ec.EllipticCurvePrivateKey | None = None) -> bytes:
    return b64(request(key or new_key(), identifier))


def certificate_in(answer: Answer) -> x509.Certificate:
    assert answer.status == 200, answer.body
    return only(b64decode(answer.body))


def all_routes(est: EstWorld) -> list[Route]:
    return [*credentials.secret_routes(est.secrets), *credentials.approval_routes(est.approvals)]


def basic(username: str, secret: str) -> Evidence:
    return Evidence("Basic " + b64encode(f"{username}:{secret}".encode()).decode(), "192.0.2.7")


async def enrol(
    est: EstWorld, body: bytes, *arguments: str, holder: Holder | None = None, label: str = "meters"
) -> Answer:
    headers = ("-H", "Content-Type: application/pkcs10")
    return await est.curl(f"/{label}/simpleenroll", *headers, *arguments, holder=holder, body=body)


async def make(est: EstWorld, body: dict[str, Any], status: int = 201) -> dict[str, Any]:
    headers = await est.world.identity(est.world.system.id, ALL)
    async with serving(est.world, all_routes(est)) as client:
        answer = await client.post(f"{PATH}/secrets", headers=headers, json=body)
        found: dict[str, Any] = await answer.json()
        assert answer.status == status, found
        return found


async def refusal_of(est: EstWorld, evidence: Evidence, body: bytes, label: str = "meters") -> str:
    """Enrol below the wire, see it refused and nothing written, and return the log's word for it."""
    before = await est.written()
    with pytest.raises(Refused) as refused:
        await est.service.enrol(label, (), body, evidence=evidence)
    assert await est.written() == before
    return refused.value.reason.partition(":")[0]


# --- Secrets --------------------------------------------------------------------------------------------------------


async def test_a_secret_enrols_the_device_it_is_bound_to_once(est: EstWorld) -> None:
    await est.label("meters", settings=BY_SECRET)
    made = await make(est, {"device_identifier": "meter-001"})
    csr = csr_for("meter-001")
    asked = await enrol(est, csr)
    assert (asked.status, asked.headers["WWW-Authenticate"]) == (401, 'Basic realm="doorward"')
    wrong = await enrol(est, csr, "-u", "meters:wrong")
    assert (wrong.status, wrong.body) == (401, b"The enrolment secret was not accepted.\n")
    credentials_ = ("-u", f"meters:{made['secret']}")
    other = await enrol(est, csr_for("meter-002"), *credentials_)
    assert (other.status, b"does not entitle" in other.body) == (403, True)
    first = certificate_in(await enrol(est, csr, *credentials_))
    assert certificate_in(await enrol(est, csr, *credentials_)) == first  # the answer may have been lost
    spent = await enrol(est, csr_for("meter-001"), *credentials_)
    assert (spent.status, spent.body) == (403, b"The enrolment secret was used up.\n")
    assert await est.world.value("SELECT uses FROM enrolment_secret") == 1


async def test_the_store_has_no_secret_and_the_audit_names_it_only(est: EstWorld) -> None:
    await est.label("meters", settings=BY_SECRET)
    made = await make(est, {"device_identifier": "meter-001"})
    await est.service.enrol("meters", (), csr_for("meter-001"), evidence=basic("meters", made["secret"]))
    dumped = "SELECT string_agg(s::text, '') || (SELECT string_agg(a::text, '') FROM audit_pending a) FROM {} s"
    text = await est.world.value(dumped.format("enrolment_secret"))
    assert made["secret"] not in text
    assert f"secret {made['id']}" in text
    assert len(made["secret"]) >= 43  # 256 bits


async def test_a_hundred_at_once_with_a_secret_for_one_use_give_one_certificate(est: EstWorld) -> None:
    await est.label("meters", settings=BY_SECRET, identifier_pattern="meter-*")
    made = await make(est, {})
    evidence = basic("meters", made["secret"])
    answers = await asyncio.gather(
        *(est.service.enrol("meters", (), csr_for(f"meter-{number}"), evidence=evidence) for number in range(100)),
        return_exceptions=True,
    )
    lost = [one.reason.partition(":")[0] for one in answers if isinstance(one, Refused)]
    assert lost == [Refusal.SECRET_SPENT.name] * 99
    assert await est.world.value("SELECT count(*) FROM certificate WHERE profile = 'device'") == 1
    assert await est.world.value("SELECT uses FROM enrolment_secret") == 1


async def test_what_is_refused_takes_no_use(est: EstWorld) -> None:
    await est.label("meters", settings=BY_SECRET, role_name="no-such-role")
    made = await make(est, {"device_identifier": "meter-001"})
    assert await refusal_of(est, basic("meters", made["secret"]), csr_for("meter-001")) == Refusal.NO_ROLE.name
    assert await est.world.value("SELECT uses FROM enrolment_secret") == 0


async def test_a_secret_for_many_uses_enrols_what_the_pattern_covers(est: EstWorld) -> None:
    await est.label("meters", settings=BY_SECRET, identifier_pattern="meter-*")
    made = await make(est, {"max_uses": 2})
    evidence = basic("meters", made["secret"])
    assert await refusal_of(est, evidence, csr_for("pump-001")) == Refusal.SECRET_NOT_NAMED.name
    for name in ("meter-001", "meter-002"):
        assert await est.service.enrol("meters", (), csr_for(name), evidence=evidence)
    assert await refusal_of(est, evidence, csr_for("meter-003")) == Refusal.SECRET_SPENT.name


async def test_a_secret_for_one_device_enrols_no_other_that_the_pattern_covers(est: EstWorld) -> None:
    await est.label("meters", settings=BY_SECRET, identifier_pattern="meter-*")
    made = await make(est, {"device_identifier": "meter-001"})
    evidence = basic("meters", made["secret"])
    assert await refusal_of(est, evidence, csr_for("meter-002")) == Refusal.SECRET_NOT_NAMED.name


async def test_a_token_reaches_no_further_for_a_pattern(est: EstWorld) -> None:
    await est.label("meters", settings=BY_TOKEN, identifier_pattern="meter-*")
    held = await est.world.identity(est.world.system.id, ENROLMENTS, ["meter-001"])
    evidence = Evidence(held["Authorization"])
    assert await refusal_of(est, evidence, csr_for("meter-002")) == Refusal.TOKEN_NOT_NAMED.name


async def test_a_secret_without_a_bound_on_uses_says_so(est: EstWorld) -> None:
    await est.label("meters", settings=BY_SECRET, identifier_pattern="meter-*")
    made = await make(est, {"max_uses": None})
    assert "max_uses" not in made
    for number in range(3):
        evidence = basic("meters", made["secret"])
        assert await est.service.enrol("meters", (), csr_for(f"meter-{number}"), evidence=evidence)


async def test_a_secret_ends(est: EstWorld) -> None:
    await est.label("meters", settings=BY_SECRET)
    made = await make(est, {"device_identifier": "meter-001", "expires_in": "1d"})
    est.world.clock.move(DAY + timedelta(seconds=1))
    evidence = basic("meters", made["secret"])
    assert await refusal_of(est, evidence, csr_for("meter-001")) == Refusal.SECRET_REFUSED.name
    est.world.clock.move(31 * DAY)
    assert await est.secrets.purge() == 1


async def test_a_secret_of_another_label_or_name_is_none(est: EstWorld) -> None:
    await est.label("meters", settings=BY_SECRET)
    await est.label("pumps", settings=BY_SECRET)
    made = await make(est, {"device_identifier": "meter-001"})
    for evidence, label in ((basic("meters", made["secret"]), "pumps"), (basic("root", made["secret"]), "meters")):
        assert await refusal_of(est, evidence, csr_for("meter-001"), label) == Refusal.SECRET_REFUSED.name


async def test_a_withdrawn_secret_enrols_nothing_more(est: EstWorld) -> None:
    await est.label("meters", settings=BY_SECRET)
    made = await make(est, {"device_identifier": "meter-001"})
    headers = await est.world.identity(est.world.system.id, ALL)
    async with serving(est.world, all_routes(est)) as client:
        where = f"{PATH}/secrets/{made['id']}"
        assert (await client.delete(where, headers=headers)).status == 204
        assert (await client.delete(where, headers=headers)).status == 404
        shown = await (await client.get(where, headers=headers)).json()
        assert ("revoked_at" in shown, "secret" in shown) == (True, False)
        listed = await (await client.get(f"{PATH}/secrets?filter=username[eq]meters", headers=headers)).json()
        assert [one["id"] for one in listed["list"]] == [made["id"]]
    evidence = basic("meters", made["secret"])
    assert await refusal_of(est, evidence, csr_for("meter-001")) == Refusal.SECRET_REFUSED.name


async def test_a_chosen_secret_is_kept_as_a_password_and_throttled_as_a_login(est: EstWorld) -> None:
    await est.label("meters", settings=BY_SECRET)
    chosen = "a long walk by the sea 7"
    body = {"username": "line-7", "device_identifier": "meter-001", "secret": chosen}
    assert "secret" not in await make(est, body)
    await make(est, body, 409)
    await make(est, body | {"username": "line-8", "secret": "password1234"}, 400)
    stored = await est.world.value("SELECT password_hash FROM enrolment_secret")
    assert stored.startswith("$argon2id$")
    for _ in range(5):
        wrong = basic("line-7", "a long walk by the sea 8")
        assert await refusal_of(est, wrong, csr_for("meter-001")) == Refusal.SECRET_REFUSED.name
    await est.service.enrol("meters", (), csr_for("meter-001"), evidence=basic("line-7", chosen))
    for _ in range(7):
        with pytest.raises(Refused) as refused:
            await est.service.enrol("meters", (), csr_for("meter-001"), evidence=wrong)
    assert (refused.value.kind.value, refused.value.retry_after is not None) == ("throttled", True)


async def test_a_right_secret_is_not_held_up_by_others_wrong_ones(est: EstWorld) -> None:
    await est.label("meters", settings=BY_SECRET)
    made = await make(est, {"device_identifier": "meter-001"})
    for _ in range(8):
        with pytest.raises(Refused):
            await est.service.enrol("meters", (), csr_for("meter-001"), evidence=basic("meters", "wrong"))
    assert await est.service.enrol("meters", (), csr_for("meter-001"), evidence=basic("meters", made["secret"]))


async def test_an_unknown_name_costs_the_same_work_as_a_wrong_secret(
    est: EstWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await est.label("meters", settings=BY_SECRET)
    compared, verify = [], PasswordHasher.verify

    async def noted(self: PasswordHasher, password: str, stored: str | None) -> Any:
        compared.append(stored)
        return await verify(self, password, stored)

    monkeypatch.setattr(PasswordHasher, "verify", noted)
    assert await refusal_of(est, basic("nobody", "a wrong one"), csr_for("meter-001")) == Refusal.SECRET_REFUSED.name
    assert compared == [None]


async def test_a_registered_device_is_bound_by_its_secret(est: EstWorld) -> None:
    await est.label("meters", settings=BY_SECRET, mode=EnrolmentMode.PRE_REGISTERED)
    made = await make(est, {"device_identifier": "meter-001"})
    evidence = basic("meters", made["secret"])
    assert await refusal_of(est, evidence, csr_for("meter-001")) == Refusal.NOT_REGISTERED.name
    await est.world.device("meter-001", est.world.system.id)
    await est.world.execute(
        "INSERT INTO bootstrap_binding (device_identifier, tenant_id, spki_sha256) VALUES ('meter-001', $1, '\\x00')",
        est.world.system.id,
    )
    assert await refusal_of(est, evidence, csr_for("meter-001")) == Refusal.NOT_BOUND.name
    await est.world.execute("DELETE FROM bootstrap_binding")
    assert await est.service.enrol("meters", (), csr_for("meter-001"), evidence=evidence)


async def test_who_makes_secrets_reaches_the_devices(est: EstWorld) -> None:
    await est.label("meters", settings=BY_SECRET)
    limited = await est.world.identity(est.world.system.id, ALL, ["meter-002"])
    made = await make(est, {"device_identifier": "meter-001"})
    async with serving(est.world, all_routes(est)) as client:
        for body, status in (
            ({}, 403),
            ({"device_identifier": "meter-001"}, 404),
            ({"device_identifier": "meter-002"}, 201),
        ):
            assert (await client.post(f"{PATH}/secrets", headers=limited, json=body)).status == status
        where = f"{PATH}/secrets/{made['id']}"
        assert (await client.get(where, headers=limited)).status == 404
        assert (await client.delete(where, headers=limited)).status == 404
        listed = await (await client.get(f"{PATH}/secrets", headers=limited)).json()
        assert [one["device_identifier"] for one in listed["list"]] == ["meter-002"]


@pytest.mark.parametrize(
    "body",
    [
        {"expires_in": "0s"},
        {"expires_in": "6y"},
        {"max_uses": 0},
        {"username": "a:b"},
        {"device_identifier": "a/b"},
        {"device_identifier": ""},
        {"secret": "short"},
    ],
)
async def test_bodies_that_are_no_secret(est: EstWorld, body: dict[str, Any]) -> None:
    await est.label("meters", settings=BY_SECRET)
    await make(est, body, 400)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Basic",
        "Basic !!!!",
        "Basic " + b64encode(b"no colon").decode(),
        "Basic " + b64encode(b"a:\xff").decode(),
        "Basic " + b64encode(b"a:b\x00").decode(),
        "Basic " + b64encode(b"a:" + b"b" * 2000).decode(),
        "Bearer x",
    ],
)
def test_headers_that_are_no_basic_credentials(header: str) -> None:
    assert read_basic(header) is None


# --- Tokens of ours -------------------------------------------------------------------------------------------------


async def test_our_token_enrols_the_devices_that_its_holder_reaches(est: EstWorld) -> None:
    await est.label("meters", settings=BY_TOKEN)
    headers = await est.world.identity(est.world.system.id, ENROLMENTS, ["meter-001"])
    bearer = ("-H", f"Authorization: {headers['Authorization']}")
    assert (await enrol(est, csr_for("meter-001"))).status == 401
    refused = await enrol(est, csr_for("meter-001"), "-H", "Authorization: Bearer nobody")
    assert (refused.status, refused.body) == (401, b"The token was not accepted.\n")
    assert (await enrol(est, csr_for("meter-002"), *bearer)).status == 403
    assert certificate_in(await enrol(est, csr_for("meter-001"), *bearer))


async def test_our_token_needs_the_permission_in_the_labels_group(est: EstWorld) -> None:
    acme = await est.world.tenant("acme")
    await est.label("meters", settings=BY_TOKEN)
    await est.label("acme-meters", acme, settings=BY_TOKEN)
    reader = await est.world.identity(
        est.world.system.id, '[{"resource": "est.enrolments", "actions": ["read"]}]', ["meter-001"]
    )
    stranger, above = (
        await est.world.identity(acme, ENROLMENTS),
        await est.world.identity(est.world.system.id, ENROLMENTS),
    )
    for who, label in ((reader, "meters"), (stranger, "meters")):
        evidence = Evidence(who["Authorization"])
        assert await refusal_of(est, evidence, csr_for("meter-001"), label) == Refusal.TOKEN_NOT_NAMED.name
    assert await est.service.enrol("acme-meters", (), csr_for("m-1"), evidence=Evidence(above["Authorization"]))


async def test_certificate_and_token_are_both_needed(est: EstWorld) -> None:
    await est.label("meters", settings=Settings(ways=(Way.CERTIFICATE, Way.TOKEN)))
    headers = await est.world.identity(est.world.system.id, ENROLMENTS, ["meter-001", "meter-002"])
    bearer, bootstrap = ("-H", f"Authorization: {headers['Authorization']}"), await est.bootstrap("meter-001")
    assert (await enrol(est, csr_for("meter-001"), *bearer)).body == b"Present a client certificate.\n"
    assert (await enrol(est, csr_for("meter-001"), holder=bootstrap)).body == b"Present a bearer token.\n"
    assert (await enrol(est, csr_for("meter-002"), *bearer, holder=bootstrap)).status == 403
    assert certificate_in(await enrol(est, csr_for("meter-001"), *bearer, holder=bootstrap))
    (event,) = await est.world.rows("SELECT data->>'credentials' AS by FROM outbox WHERE kind = 'device.enrolled'")
    assert "certificate" in event["by"]
    assert "token of idt-" in event["by"]


# --- An operator's decision -----------------------------------------------------------------------------------------


async def decide(est: EstWorld, verb: str, approval: str, status: int = 200) -> dict[str, Any]:
    headers = await est.world.identity(est.world.system.id, ALL)
    async with serving(est.world, all_routes(est)) as client:
        answer = await client.post(f"{PATH}/approvals/{approval}/{verb}", headers=headers, json={"reason": "seen"})
        found: dict[str, Any] = await answer.json()
        assert answer.status == status, found
        return found


async def waiting(est: EstWorld, query: str = "") -> list[dict[str, Any]]:
    headers = await est.world.identity(est.world.system.id, ALL)
    async with serving(est.world, all_routes(est)) as client:
        listed: list[dict[str, Any]] = (await (await client.get(f"{PATH}/approvals{query}", headers=headers)).json())[
            "list"
        ]
        return listed


async def test_a_device_waits_until_an_operator_has_decided(est: EstWorld) -> None:
    await est.label("meters", settings=BY_OPERATOR)
    key = new_key()
    for _ in range(2):  # signed anew each time, and the same request all the same
        answer = await enrol(est, csr_for("meter-001", key))
        assert (answer.status, answer.headers["Retry-After"]) == (202, "60")
        assert answer.headers["Content-Type"].startswith("text/plain")
    (asked,) = await waiting(est, "?filter=state[eq]pending")
    assert (asked["device_identifier"], asked["requester"], asked["address"]) == ("meter-001", "anyone", "127.0.0.1")
    assert x509.load_pem_x509_csr(asked["csr"].encode()).public_key() == key.public_key()
    assert (await decide(est, "approve", asked["id"]))["state"] == "approved"
    await decide(est, "approve", asked["id"], 409)
    assert certificate_in(await enrol(est, csr_for("meter-001", key)))
    assert (await enrol(est, csr_for("meter-001"))).status == 202  # another key is another request
    kinds = "SELECT kind FROM audit_pending WHERE kind LIKE 'enrolment.%' ORDER BY id"
    assert [row["kind"] for row in await est.world.rows(kinds)] == [
        "enrolment.requested",
        "enrolment.approved",
        "enrolment.requested",
    ]


async def test_a_rejected_request_is_told(est: EstWorld) -> None:
    await est.label("meters", settings=BY_OPERATOR)
    key = new_key()
    assert isinstance(await est.service.enrol("meters", (), csr_for("meter-001", key)), Wait)
    (asked,) = await waiting(est)
    assert (await decide(est, "reject", asked["id"]))["reason"] == "seen"
    answer = await enrol(est, csr_for("meter-001", key))
    assert (answer.status, answer.body) == (403, b"An operator has rejected this request.\n")
    await decide(est, "approve", asked["id"])
    assert certificate_in(await enrol(est, csr_for("meter-001", key)))


async def test_requests_and_decisions_expire(est: EstWorld) -> None:
    await est.label("meters", settings=Settings(ways=(Way.APPROVAL,), approval=Approval(expires_after=DAY)))
    key = new_key()
    await est.service.enrol("meters", (), csr_for("meter-001", key))
    est.world.clock.move(DAY + timedelta(seconds=1))
    assert await waiting(est) == []
    await est.service.enrol("meters", (), csr_for("meter-001", key))
    (asked,) = await waiting(est)
    await decide(est, "approve", asked["id"])
    est.world.clock.move(DAY + timedelta(seconds=1))
    assert isinstance(await est.service.enrol("meters", (), csr_for("meter-001", key)), Wait)
    est.world.clock.move(2 * DAY)
    assert await est.approvals.purge() == 1


async def test_the_queue_is_bounded_by_label_and_by_address(est: EstWorld) -> None:
    await est.label("meters", settings=Settings(ways=(Way.APPROVAL,), approval=Approval(most_waiting=70)))
    answers = await asyncio.gather(
        *(
            est.service.enrol("meters", (), csr_for(f"meter-{number}"), evidence=Evidence(address="192.0.2.1"))
            for number in range(70)
        ),
        return_exceptions=True,
    )
    assert sum(isinstance(one, Wait) for one in answers) == 64
    refused = {one.reason.partition(":")[0] for one in answers if isinstance(one, Refused)}
    assert refused == {Refusal.TOO_MANY_WAIT.name}
    for number in range(6):
        await est.service.enrol("meters", (), csr_for(f"pump-{number}"), evidence=Evidence(address="192.0.2.2"))
    with pytest.raises(Refused) as full:
        await est.service.enrol("meters", (), csr_for("pump-7"), evidence=Evidence(address="192.0.2.2"))
    assert (full.value.kind.value, full.value.retry_after) == ("throttled", 60)


async def test_an_approval_is_the_requesters_and_the_keys(est: EstWorld) -> None:
    await est.label("meters", settings=Settings(ways=(Way.CERTIFICATE, Way.APPROVAL)), identifier_pattern="meter-*")
    one, other, key = await est.bootstrap("one"), await est.bootstrap("other"), new_key()
    assert isinstance(await est.service.enrol("meters", (one.der,), csr_for("meter-001", key)), Wait)
    (asked,) = await waiting(est)
    assert asked["requester"] == f"certificate {sha256(one.der).hexdigest()}"
    await decide(est, "approve", asked["id"])
    assert isinstance(await est.service.enrol("meters", (other.der,), csr_for("meter-001", key)), Wait)
    assert isinstance(await est.service.enrol("meters", (one.der,), csr_for("meter-002", key)), Wait)
    assert isinstance(await est.service.enrol("meters", (one.der,), csr_for("meter-001", key)), bytes)


async def test_an_approval_of_a_key_that_nobody_proved_is_for_that_operation_alone(est: EstWorld) -> None:
    """RFC 7030 4.4 has the signature ignored: whoever knows a device's public key could have asked by it."""
    await est.label("meters", settings=BY_OPERATOR, server_key_generation=ServerKey.P256)
    key = new_key()  # the device's; the stranger knows its public half
    genuine = csr_for("meter-001", key)
    forged = bytearray(b64decode(genuine))
    forged[-1] ^= 1
    unsigned = b64(bytes(forged))
    assert isinstance(await est.service.generate("meters", (), unsigned), Wait)
    (asked,) = await waiting(est)
    assert (asked["operation"], asked.keys() & {"public_key_sha256", "csr"}) == ("serverkeygen", set())
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    by_key = f"?filter=public_key_sha256[eq]{sha256(public).hexdigest()}"
    assert await waiting(est, by_key) == []
    assert isinstance(await est.service.enrol("meters", (), genuine), Wait)
    (proved,) = await waiting(est, by_key)
    assert proved["operation"] == "simpleenroll"
    assert await waiting(est, "?filter=operation[eq]serverkeygen") == [asked]
    await decide(est, "approve", proved["id"])
    assert isinstance(await est.service.generate("meters", (), unsigned), Wait)
    assert only(await est.service.enrol("meters", (), genuine)).public_key() == key.public_key()


async def test_a_key_that_is_made_here_is_not_had_by_knowing_the_key_in_the_request(est: EstWorld) -> None:
    await est.label("meters", settings=BY_OPERATOR, server_key_generation=ServerKey.P256)
    key = new_key()
    forged = bytearray(b64decode(csr_for("meter-001", key)))
    forged[-1] ^= 1
    assert isinstance(await est.service.generate("meters", (), csr_for("meter-001", key)), Wait)
    (asked,) = await waiting(est)
    await decide(est, "approve", asked["id"])
    assert isinstance(await est.service.generate("meters", (), b64(bytes(forged))), Wait)
    given = await est.service.generate("meters", (), csr_for("meter-001", key))  # signed anew, as 3.5 wants it
    assert isinstance(given, KeyAndCertificate)


async def test_certificates_of_two_issuers_by_one_serial_number_are_two_requesters(est: EstWorld) -> None:
    makers = []
    for name in ("North", "South"):
        key, subject = new_key(), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        makers.append(est.signed_by((subject, key), name, is_authority=True, usage=None, key=key))
    await est.label(
        "meters",
        settings=Settings(ways=(Way.CERTIFICATE, Way.APPROVAL)),
        identifier_pattern="meter-*",
        bootstrap_anchors=tuple(maker.der for maker in makers),
    )
    one, other = (est.signed_by((maker.certificate.subject, maker.key), "any", serial=7) for maker in makers)
    csr = csr_for("meter-001")
    assert isinstance(await est.service.enrol("meters", (one.der,), csr), Wait)
    (asked,) = await waiting(est)
    await decide(est, "approve", asked["id"])
    assert isinstance(await est.service.enrol("meters", (other.der,), csr), Wait)
    assert isinstance(await est.service.enrol("meters", (one.der,), csr), bytes)


async def test_operators_see_and_decide_on_devices_they_reach(est: EstWorld) -> None:
    await est.label("meters", settings=BY_OPERATOR)
    await est.service.enrol("meters", (), csr_for("meter-001"))
    (asked,) = await waiting(est)
    limited = await est.world.identity(est.world.system.id, ALL, ["meter-002"])
    stranger = await est.world.identity(await est.world.tenant("acme"), ALL)
    async with serving(est.world, all_routes(est)) as client:
        assert (await (await client.get(f"{PATH}/approvals", headers=limited)).json())["list"] == []
        for who in (limited, stranger):
            where = f"{PATH}/approvals/{asked['id']}/approve"
            assert (await client.post(where, headers=who, json={})).status == 404
        assert (await client.get(f"{PATH}/approvals", headers=stranger)).status == 404


async def test_what_a_label_does_not_ask_for_is_not_looked_at(est: EstWorld) -> None:
    await est.label("meters", settings=BY_SECRET)
    csr = csr_for("meter-001")
    assert await refusal_of(est, Evidence("Bearer x"), csr) == Refusal.NO_SECRET.name
    stranger = est.signed_by((x509.Name([]), new_key()), "meter-001")
    made = await make(est, {"device_identifier": "meter-001"})
    evidence = basic("meters", made["secret"])
    assert await est.service.enrol("meters", (stranger.der,), csr, evidence=evidence)


async def test_nobody_learns_by_a_request_that_cannot_be_read(est: EstWorld) -> None:
    """Credentials come first: who has none is told so, whatever he sent."""
    await est.label("meters", settings=BY_SECRET)
    assert (await enrol(est, b"rubbish")).status == 401
    tampered = request(new_key(), "meter-001")[:-1]
    assert (await enrol(est, b64(tampered))).status == 401
