"""serverkeygen over real TLS: curl asks, openssl opens; what is kept, what a lost answer costs, what is refused."""

import asyncio
import logging
import subprocess
import threading
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from email import message_from_bytes
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)
from OpenSSL import SSL

from ca.inventory import AuthorityKind, RevocationReason
from certs.der import CONTEXT_0, SEQUENCE, encode, encode_object_identifier, read_elements
from est import server_keys
from est.decryption_keys import DecryptionKey
from est.profiles import ProofOfPossession, Renewal, ServerKey, Settings, Way
from est.refusals import Refusal
from est.secrets import NewSecret
from est.server_keys import REDELIVERY, KeyPart, MadeKey
from est.store.decryption_keys import KeyHolder
from iam.errors import Refused
from iam.store.database import EVERYWHERE
from tests.ca.world import StoreGate
from tests.certs.requests import (
    AES_128_WRAP,
    AES_256_CBC,
    AES_256_GCM,
    AES_256_WRAP,
    ECDH_SHA256,
    OAEP,
    RSA_V15,
    alternative_names,
    capabilities,
    challenge_password,
    keyless_request,
    named_key,
)
from tests.certs.test_cms import certificate
from tests.est.wire import Raw, TlsClient, on_connection
from tests.est.world import Answer, EstWorld, Holder, b64, only

P256 = ServerKey.P256
SECRET = bytes(range(32))
LINE = named_key(b"line-7")


@dataclass(frozen=True)
class Made:
    """An answer's two parts, decoded."""

    content_type: str
    key: bytes
    certificate: x509.Certificate

    @property
    def private_key(self) -> ec.EllipticCurvePrivateKey:
        key = load_der_private_key(self.key, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return key


def parts_of(answer: Answer) -> Made:
    """Read the answer with the standard library's MIME parser, which knows nothing of ours."""
    assert answer.status == 200, answer.body
    head = f"Content-Type: {answer.headers['Content-Type']}\r\n\r\n".encode()
    message = message_from_bytes(head + answer.body)
    assert message.get_content_type() == "multipart/mixed"
    key, issued = message.get_payload()  # type: ignore[misc]
    for part in (key, issued):
        assert part["Content-Transfer-Encoding"] == "base64"
    assert issued["Content-Type"] == "application/pkcs7-mime; smime-type=certs-only"
    made = only(issued.get_payload(decode=True))  # type: ignore[arg-type]
    return Made(key["Content-Type"], key.get_payload(decode=True), made)  # type: ignore[arg-type]


async def generate(est: EstWorld, holder: Holder | None, *attributes: bytes, device: str = "meter-001") -> Answer:
    csr = keyless_request(device, *attributes)
    return await est.enrol("serverkeygen", holder, b64(csr), label="made")


async def refusal_of(est: EstWorld, holder: Holder | None, *attributes: bytes, device: str = "meter-001") -> Answer:
    before = await est.written()
    answer = await generate(est, holder, *attributes, device=device)
    assert answer.status >= 400
    assert answer.headers["Content-Type"] == "text/plain"
    assert await est.written() == before
    return answer


def said(answer: Answer) -> str:
    return answer.body.decode().strip()


async def register(est: EstWorld, holder: KeyHolder, identifier: bytes, key: DecryptionKey) -> None:
    headers = await est.world.identity(est.world.system.id, "[]")
    caller = await StoreGate(est.world).authenticate(headers["Authorization"])
    await est.decryption_keys.put(caller.access, est.world.system, holder, identifier, key)


def spki(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


async def states(est: EstWorld) -> list[str]:
    rows = await est.world.rows("SELECT status FROM certificate WHERE profile = 'device' ORDER BY issued_at")
    return [row["status"] for row in rows]


async def test_a_device_gets_a_key_and_a_certificate_that_belong_together(est: EstWorld) -> None:
    await est.label("made", server_key_generation=P256)
    made = parts_of(await generate(est, await est.bootstrap("meter-001")))
    assert made.content_type == "application/pkcs8"
    assert made.private_key.public_key() == made.certificate.public_key()
    holder = est.hold([made.certificate], made.private_key)
    assert (await est.world.prover.identity_of_certificate((holder.der,))).serial == holder.serial


async def test_that_a_key_was_made_here_is_on_record(est: EstWorld) -> None:
    await est.label("made", server_key_generation=P256)
    made = parts_of(await generate(est, await est.bootstrap("meter-001")))
    device = est.hold([made.certificate], made.private_key)
    names = alternative_names(x509.UniformResourceIdentifier("urn:doorward:device:meter-001"))
    parts_of(await generate(est, device, names))
    serials = await est.world.rows("SELECT encode(serial, 'hex') AS serial FROM certificate WHERE profile = 'device'")
    for table in ("outbox", "audit_pending"):
        told = await est.world.rows(
            f"SELECT subject, data ->> 'serial' AS serial FROM {table} WHERE kind = 'device.key_generated'"  # noqa: S608 - from the line above
        )
        assert {row["subject"] for row in told} == {"meter-001"}
        assert {row["serial"] for row in told} == {row["serial"] for row in serials}
        assert len(told) == 2


async def test_the_wire_is_as_clients_read_it(est: EstWorld) -> None:
    await est.label("made", server_key_generation=P256)
    bootstrap, csr = await est.bootstrap("meter-001"), b64(keyless_request("meter-001"))
    raw = await on_connection(est, bootstrap, lambda client: client.ask("POST", "/made/serverkeygen", csr))
    (kind,) = raw.header("Content-Type")
    assert kind.startswith("multipart/mixed; boundary=")
    boundary = kind.partition("=")[2].encode()
    assert raw.header("Content-Length") == [str(len(raw.body))]
    assert raw.header("Content-Transfer-Encoding") == raw.header("Transfer-Encoding") == []
    assert raw.body.startswith(b"--" + boundary + b"\r\nContent-Type: application/pkcs8\r\n")
    assert raw.body.endswith(b"\r\n--" + boundary + b"--\r\n")
    assert raw.body.count(b"--" + boundary) == 3
    assert max(map(len, raw.body.split(b"\r\n"))) <= 78


@pytest.mark.parametrize("kind", [ServerKey.P384, ServerKey.P521, ServerKey.ED25519, ServerKey.RSA_2048])
async def test_the_label_says_which_kind_of_key(est: EstWorld, kind: ServerKey) -> None:
    await est.label("made", server_key_generation=kind)
    made = parts_of(await generate(est, await est.bootstrap("meter-001")))
    key = load_der_private_key(made.key, None)
    shown = {"secp384r1": "P-384", "secp521r1": "P-521"}
    match key:
        case ec.EllipticCurvePrivateKey():
            found = shown[key.curve.name]
        case rsa.RSAPrivateKey():
            found = f"RSA-{key.key_size}"
        case _:
            found = type(key).__name__.removesuffix("PrivateKey")
    assert found == kind
    assert key.public_key() == made.certificate.public_key()  # type: ignore[union-attr]


async def test_a_device_renews_with_a_key_that_is_made_for_it(est: EstWorld) -> None:
    await est.label("made", server_key_generation=P256)
    device = await est.enrolled("meter-001", label="made")
    names = alternative_names(x509.UniformResourceIdentifier("urn:doorward:device:meter-001"))
    made = parts_of(await generate(est, device, names))
    assert made.private_key.public_key() != device.key.public_key()
    assert made.certificate.subject == device.certificate.subject
    assert await states(est) == ["superseded", "active"]
    assert said(await refusal_of(est, device)) == Refusal.NAMES_DIFFER.sentence


def written_by_openssl(folder: Path, *blocks: str) -> bytes:
    """Let OpenSSL write a request from the descriptions in docs/est.md, which so stay true."""
    page = (Path(__file__).parents[2] / "docs" / "est.md").read_text(encoding="utf-8")
    after = [page.partition(f"$ cat > pump/{one}.cnf <<'END'\n")[2] for one in blocks]
    described = "\n".join(one.partition("\nEND\n")[0] for one in after)
    (folder / "request.cnf").write_text(described.replace("pump-7", "meter-001"))
    run("asn1parse", "-genconf", folder / "request.cnf", "-noout", "-out", folder / "request.der")
    return (folder / "request.der").read_bytes()


async def test_openssl_and_curl_alone_have_a_key_made(est: EstWorld, tmp_path: Path) -> None:
    await est.label("made", server_key_generation=P256)
    await est.world.device("meter-001", est.world.system.id)
    bootstrap = await est.bootstrap("meter-001")
    csr = b64(written_by_openssl(tmp_path, "request"))
    made = parts_of(await est.enrol("serverkeygen", bootstrap, csr, label="made"))
    assert made.private_key.public_key() == made.certificate.public_key()
    await register(est, KeyHolder(device="meter-001"), b"flash-key", DecryptionKey(secret=SECRET))
    csr = b64(written_by_openssl(tmp_path, "request", "attributes"))
    encrypted = parts_of(await est.enrol("serverkeygen", bootstrap, csr, label="made"))
    opened(encrypted, tmp_path, est, "-secretkey", SECRET.hex(), "-secretkeyid", b"flash-key".hex())


async def test_the_private_key_is_kept_nowhere(est: EstWorld, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await est.label("made", server_key_generation=P256)
    made = parts_of(await generate(est, await est.bootstrap("meter-001")))
    secret = made.private_key.private_numbers().private_value.to_bytes(32)
    for text in (secret.hex(), made.key.hex(), str(int.from_bytes(secret))):
        assert text not in caplog.text
    tables = await est.world.value(
        "SELECT array_agg(table_name::text) FROM information_schema.tables WHERE table_schema = 'public'"
    )
    for table in tables:
        dump = await est.world.value(f"SELECT coalesce(string_agg(t::text, chr(10)), '') FROM \"{table}\" t")  # noqa: S608 - from the catalogue
        assert secret.hex() not in dump, table
    assert secret.hex() not in repr(KeyPart(made.content_type, made.key))


# --- A lost answer --------------------------------------------------------------------------------------------------


async def test_after_a_lost_answer_another_key_is_made_and_the_first_is_revoked(est: EstWorld) -> None:
    await est.label("made", server_key_generation=P256)
    bootstrap = await est.bootstrap("meter-001")
    first = parts_of(await generate(est, bootstrap))
    second = parts_of(await generate(est, bootstrap))
    third = parts_of(await generate(est, bootstrap))
    assert len({spki(one.private_key.public_key()) for one in (first, second, third)}) == 3
    assert await states(est) == ["revoked", "revoked", "active"]
    assert await est.world.value("SELECT count(*) FROM identity WHERE type = 'device'") == 1
    assert await est.world.value("SELECT replacement_allowed FROM device") is False
    revoked = await est.world.value("SELECT count(*) FROM outbox WHERE kind = 'certificate.revoked'")
    assert revoked == 2
    reasons = await est.world.rows("SELECT DISTINCT revocation_reason FROM certificate WHERE status = 'revoked'")
    assert reasons == [{"revocation_reason": "superseded"}]


async def test_the_time_for_that_counts_from_the_first_answer(est: EstWorld) -> None:
    await est.label("made", server_key_generation=P256)
    bootstrap = await est.bootstrap("meter-001")
    parts_of(await generate(est, bootstrap))
    est.world.clock.move(REDELIVERY - timedelta(minutes=1))
    parts_of(await generate(est, bootstrap))
    est.world.clock.move(timedelta(minutes=2))
    assert said(await refusal_of(est, bootstrap)) == Refusal.HAS_IDENTITY.sentence
    assert await est.world.value("SELECT replacement_allowed FROM device") is False


async def test_another_client_certificate_may_not_ask_again(est: EstWorld) -> None:
    await est.label("made", server_key_generation=P256)
    parts_of(await generate(est, await est.bootstrap("meter-001")))
    assert said(await refusal_of(est, await est.bootstrap("meter-001"))) == Refusal.HAS_IDENTITY.sentence


async def test_a_device_with_a_key_of_its_own_is_not_given_another_by_its_bootstrap_certificate(est: EstWorld) -> None:
    await est.label("made", server_key_generation=P256)
    bootstrap = await est.bootstrap("meter-001")
    own = ec.generate_private_key(ec.SECP256R1())
    csr = keyless_request("meter-001", key=own)
    assert (await est.enrol("simpleenroll", bootstrap, b64(csr), label="made")).status == 200
    assert said(await refusal_of(est, bootstrap)) == Refusal.HAS_IDENTITY.sentence


async def test_what_was_delivered_and_renewed_is_not_replaced(est: EstWorld) -> None:
    await est.label("made", server_key_generation=P256)
    bootstrap = await est.bootstrap("meter-001")
    made = parts_of(await generate(est, bootstrap))
    device = est.hold([made.certificate], made.private_key)
    names = alternative_names(x509.UniformResourceIdentifier("urn:doorward:device:meter-001"))
    parts_of(await generate(est, device, names))
    assert said(await refusal_of(est, bootstrap)) == Refusal.HAS_IDENTITY.sentence


async def test_a_renewal_whose_answer_was_lost_is_repeated_by_the_same_certificate(est: EstWorld) -> None:
    await est.label("made", server_key_generation=P256)
    device = await est.enrolled("meter-001", label="made")
    names = alternative_names(x509.UniformResourceIdentifier("urn:doorward:device:meter-001"))
    parts_of(await generate(est, device, names))
    before = await est.world.value("SELECT sum(revocations) FROM authority")
    made = parts_of(await generate(est, device, names))
    assert await states(est) == ["superseded", "revoked", "active"]
    assert await est.world.value("SELECT sum(revocations) FROM authority") == before + 1
    holder = est.hold([made.certificate], made.private_key)
    assert (await est.world.prover.identity_of_certificate((holder.der,))).serial == holder.serial
    est.world.clock.move(REDELIVERY + timedelta(minutes=1))
    assert said(await refusal_of(est, device, names)) == Refusal.SUPERSEDED.sentence


async def test_a_superseded_certificate_gains_nothing_for_an_ordinary_renewal(est: EstWorld) -> None:
    await est.label("made", server_key_generation=P256)
    device = await est.enrolled("meter-001", label="made")
    names = alternative_names(x509.UniformResourceIdentifier("urn:doorward:device:meter-001"))
    parts_of(await generate(est, device, names))
    csr = keyless_request("meter-001", names)
    answer = await est.enrol("simplereenroll", device, b64(csr), label="made")
    assert (answer.status, said(answer)) == (403, Refusal.SUPERSEDED.sentence)


async def test_a_predecessor_that_is_to_be_revoked_stays_for_as_long_as_an_answer_may_be_lost(est: EstWorld) -> None:
    settings = Settings(renewal=Renewal(revokes_previous=True))
    await est.label("made", server_key_generation=P256, settings=settings)
    device = await est.enrolled("meter-001", label="made")
    names = alternative_names(x509.UniformResourceIdentifier("urn:doorward:device:meter-001"))
    parts_of(await generate(est, device, names))
    left = await est.world.value("SELECT revoke_at - superseded_at FROM certificate WHERE status = 'superseded'")
    assert left == REDELIVERY


async def test_a_certificate_that_serves_many_devices_does_not_ask_again(est: EstWorld) -> None:
    await est.label("made", server_key_generation=P256, identifier_pattern="meter-*")
    batch = await est.bootstrap("batch-7")
    parts_of(await generate(est, batch))
    assert said(await refusal_of(est, batch)) == Refusal.HAS_IDENTITY.sentence
    parts_of(await generate(est, batch, device="meter-002"))


async def test_a_key_is_made_for_who_brings_an_enrolment_secret(est: EstWorld) -> None:
    await est.label("made", server_key_generation=P256, settings=Settings(ways=(Way.SECRET,)))
    everything = '[{"resource": "*", "actions": ["create", "read", "update", "delete"]}]'
    headers = await est.world.identity(est.world.system.id, everything)
    caller = await StoreGate(est.world).authenticate(headers["Authorization"])
    await est.world.device("meter-001", est.world.system.id)
    wanted = NewSecret("made", "meter-001", 2, timedelta(hours=1), "", None)
    made = await est.secrets.create(caller.access, est.world.system, "made", wanted)
    csr = b64(keyless_request("meter-001"))
    arguments = ("-H", "Content-Type: application/pkcs10", "-u", f"made:{made.shown}")
    first = parts_of(await est.curl("/made/serverkeygen", *arguments, body=csr))
    second = parts_of(await est.curl("/made/serverkeygen", *arguments, body=csr))
    assert first.certificate != second.certificate
    assert await states(est) == ["revoked", "active"]
    spent = await est.curl("/made/serverkeygen", *arguments, body=csr)
    assert spent.status == 403
    assert (await generate(est, None)).status == 401


async def test_a_key_is_made_once_an_operator_has_approved(est: EstWorld) -> None:
    settings = Settings(ways=(Way.CERTIFICATE, Way.APPROVAL))
    await est.label("made", server_key_generation=P256, settings=settings)
    bootstrap, csr = await est.bootstrap("meter-001"), b64(keyless_request("meter-001"))
    for _ in range(2):
        waiting = await est.enrol("serverkeygen", bootstrap, csr, label="made")
        assert (waiting.status, waiting.headers["Retry-After"]) == (202, "60")
    assert await est.world.value("SELECT count(*) FROM certificate WHERE profile = 'device'") == 0
    assert await est.world.value("SELECT count(*) FROM enrolment_approval") == 1
    await est.world.execute("UPDATE enrolment_approval SET state = 'approved', decided_at = now(), decided_by = 'test'")
    parts_of(await est.enrol("serverkeygen", bootstrap, csr, label="made"))


async def test_many_at_once_leave_one_certificate_active(est: EstWorld) -> None:
    await est.label("made", server_key_generation=P256)
    bootstrap = await est.bootstrap("meter-001")
    answers = await asyncio.gather(*(generate(est, bootstrap) for _ in range(6)))
    made = [parts_of(one) for one in answers if one.status == 200]
    assert made
    assert all(one.status in {200, 503} for one in answers)
    (active,) = await est.world.rows(
        "SELECT certificate FROM certificate WHERE profile = 'device' AND status = 'active'"
    )
    assert active["certificate"] in {one.certificate.public_bytes(Encoding.DER) for one in made}


# --- Encrypted ------------------------------------------------------------------------------------------------------


def opened(made: Made, folder: Path, est: EstWorld, *arguments: str | Path) -> ec.EllipticCurvePrivateKey:
    """Open the key's part by openssl alone: decrypt, verify who made it against the root, take the key out."""
    assert made.content_type == "application/pkcs7-mime; smime-type=server-generated-key"
    envelope, signed, package = folder / "envelope.der", folder / "signed.der", folder / "package.der"
    envelope.write_bytes(made.key)
    run("cms", "-decrypt", "-inform", "DER", "-in", envelope, "-out", signed, *arguments)
    content = signed.read_bytes()
    signed.write_bytes(encode(SEQUENCE, encode_object_identifier("1.2.840.113549.1.7.2"), encode(CONTEXT_0, content)))
    trust = ("-CAfile", est.root_file, "-purpose", "sslserver")
    run("cms", "-verify", "-inform", "DER", "-in", signed, *trust, "-out", package)
    (held,) = read_elements(package.read_bytes())[0].holds(SEQUENCE)
    key = load_der_private_key(held.encoded, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.public_key() == made.certificate.public_key()
    return key


def run(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


@pytest.mark.parametrize("holder", [KeyHolder(label="made"), KeyHolder(device="meter-001")], ids=["label", "device"])
async def test_a_key_is_encrypted_under_a_registered_secret(est: EstWorld, holder: KeyHolder, tmp_path: Path) -> None:
    await est.label("made", server_key_generation=P256)
    await est.world.device("meter-001", est.world.system.id)
    await register(est, holder, b"line-7", DecryptionKey(secret=SECRET))
    answer = await generate(est, await est.bootstrap("meter-001"), LINE, capabilities(AES_256_WRAP, AES_256_CBC))
    arguments = ("-secretkey", SECRET.hex(), "-secretkeyid", b"line-7".hex())
    opened(parts_of(answer), tmp_path, est, *arguments)
    sealed = await est.world.value("SELECT secret_sealed FROM decryption_key")
    assert SECRET not in sealed


@pytest.mark.parametrize(
    ("key", "understood"),
    [
        (rsa.generate_private_key(65537, 2048), (OAEP, AES_256_CBC)),
        (rsa.generate_private_key(65537, 2048), (RSA_V15,)),
        (ec.generate_private_key(ec.SECP256R1()), ((ECDH_SHA256, AES_128_WRAP), AES_256_CBC)),
        (ec.generate_private_key(ec.SECP384R1()), (AES_256_WRAP,)),
    ],
    ids=["OAEP", "PKCS #1 v1.5", "ECDH", "a key wrap alone"],
)
async def test_a_key_is_encrypted_to_a_registered_certificate(
    est: EstWorld,
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey,
    understood: tuple[str | tuple[str, str], ...],
    tmp_path: Path,
) -> None:
    await est.label("made", server_key_generation=P256)
    recipient = certificate(key)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest
    await register(est, KeyHolder(label="made"), identifier, DecryptionKey(certificate=recipient))
    wanted = named_key(identifier, is_asymmetric=True)
    answer = await generate(est, await est.bootstrap("meter-001"), wanted, capabilities(*understood))
    files = tmp_path / "recipient.pem", tmp_path / "recipient.key"
    files[0].write_bytes(recipient.public_bytes(Encoding.PEM))
    files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    opened(parts_of(answer), tmp_path, est, "-recip", files[0], "-inkey", files[1])


async def test_a_key_is_encrypted_to_the_client_certificate_if_that_may_be_used_so(
    est: EstWorld, tmp_path: Path
) -> None:
    await est.label("made", server_key_generation=P256)
    holder = est.signed_by(est.authority(AuthorityKind.FACTORY), "meter-001")  # without a key usage: unrestricted
    public = spki(holder.key.public_key())
    digest = hashes.Hash(hashes.SHA1())  # noqa: S303 - an identifier, by RFC 5280 4.2.1.2
    digest.update(public[-65:])
    wanted = named_key(digest.finalize(), is_asymmetric=True)
    answer = await generate(est, holder, wanted, capabilities(AES_256_WRAP))
    opened(parts_of(answer), tmp_path, est, "-recip", holder.certificate_file, "-inkey", holder.key_file)


async def test_our_own_bootstrap_certificate_signs_only_and_gets_nothing_encrypted(est: EstWorld) -> None:
    await est.label("made", server_key_generation=P256)
    bootstrap = await est.bootstrap("meter-001")
    identifier = bootstrap.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    wanted = named_key(identifier, is_asymmetric=True)
    answer = await refusal_of(est, bootstrap, wanted, capabilities(AES_256_WRAP))
    assert (answer.status, said(answer)) == (403, Refusal.KEY_PROTECTION_NOT_OFFERED.sentence)


async def test_a_devices_own_secret_comes_before_its_labels(est: EstWorld, tmp_path: Path) -> None:
    await est.label("made", server_key_generation=P256)
    await est.world.device("meter-001", est.world.system.id)
    await register(est, KeyHolder(label="made"), b"line-7", DecryptionKey(secret=bytes(32)))
    await register(est, KeyHolder(device="meter-001"), b"line-7", DecryptionKey(secret=SECRET))
    answer = await generate(est, await est.bootstrap("meter-001"), LINE, capabilities(AES_256_WRAP))
    opened(parts_of(answer), tmp_path, est, "-secretkey", SECRET.hex(), "-secretkeyid", b"line-7".hex())


async def test_an_authenticated_envelope_is_given_to_who_lists_it_alone(est: EstWorld) -> None:
    await est.label("made", server_key_generation=P256)
    await register(est, KeyHolder(label="made"), b"line-7", DecryptionKey(secret=SECRET))
    answer = await generate(est, await est.bootstrap("meter-001"), LINE, capabilities(AES_256_WRAP, AES_256_GCM))
    assert encode_object_identifier("1.2.840.113549.1.9.16.1.23") in parts_of(answer).key[:32]


async def nothing(_: EstWorld) -> None:
    pass


async def other_label(est: EstWorld) -> None:
    await est.label("other")
    await register(est, KeyHolder(label="other"), b"line-7", DecryptionKey(secret=SECRET))


async def this_label(est: EstWorld) -> None:
    await register(est, KeyHolder(label="made"), b"line-7", DecryptionKey(secret=SECRET))


UNKNOWN, NOT_OFFERED = Refusal.UNKNOWN_DECRYPTION_KEY, Refusal.KEY_PROTECTION_NOT_OFFERED
ENCRYPTIONS: list[tuple[str, Callable[[EstWorld], object], tuple[bytes, ...], int, Refusal]] = [
    ("unknown", nothing, (LINE, capabilities(AES_256_WRAP)), 400, UNKNOWN),
    ("another label's", other_label, (LINE, capabilities(AES_256_WRAP)), 400, UNKNOWN),
    (
        "a secret as a public key",
        this_label,
        (named_key(b"line-7", is_asymmetric=True), capabilities(OAEP)),
        400,
        UNKNOWN,
    ),
    ("without capabilities", this_label, (LINE,), 400, Refusal.REQUEST_MALFORMED),
    ("another wrap", this_label, (LINE, capabilities(AES_128_WRAP)), 403, NOT_OFFERED),
    ("another cipher", this_label, (LINE, capabilities(AES_256_WRAP, "2.16.840.1.101.3.4.1.22")), 403, NOT_OFFERED),
    ("not at all", nothing, (), 403, Refusal.KEY_MUST_BE_ENCRYPTED),
]


@pytest.mark.parametrize(
    ("prepare", "attributes", "status", "refusal"),
    [one[1:] for one in ENCRYPTIONS],
    ids=[one[0] for one in ENCRYPTIONS],
)
async def test_what_cannot_be_encrypted_as_asked_is_not_made(
    est: EstWorld,
    prepare: Callable[[EstWorld], object],
    attributes: tuple[bytes, ...],
    status: int,
    refusal: Refusal,
) -> None:
    await est.label("made", server_key_generation=P256, encrypted_server_keys_only=True)
    await prepare(est)  # type: ignore[misc]
    answer = await refusal_of(est, await est.bootstrap("meter-001"), *attributes)
    assert (answer.status, said(answer)) == (status, refusal.sentence)


async def test_a_secret_that_does_not_open_makes_no_key(est: EstWorld) -> None:
    """It was sealed under another master key: nothing is issued, and it is not given in the clear instead."""
    await est.label("made", server_key_generation=P256)
    await register(est, KeyHolder(label="made"), b"line-7", DecryptionKey(secret=SECRET))
    await est.world.execute("UPDATE decryption_key SET secret_sealed = set_byte(secret_sealed, 20, 0)")
    answer = await refusal_of(est, await est.bootstrap("meter-001"), LINE, capabilities(AES_256_WRAP))
    assert answer.status == 503


# --- Refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("renews", [True, False])
async def test_no_key_is_made_for_who_is_refused_by_what_is_on_record(
    est: EstWorld, monkeypatch: pytest.MonkeyPatch, *, renews: bool
) -> None:
    await est.label("made", server_key_generation=ServerKey.RSA_4096)
    holder = await (est.enrolled("meter-001", label="made") if renews else est.bootstrap("meter-001"))
    await est.world.revocation.revoke(EVERYWHERE, holder.serial, RevocationReason.KEY_COMPROMISE, actor="test")
    made: list[ServerKey] = []
    monkeypatch.setattr(server_keys, "make_key", made.append)
    names = [alternative_names(x509.UniformResourceIdentifier("urn:doorward:device:meter-001"))] if renews else []
    csr, before = b64(keyless_request("meter-001", *names)), await est.written()
    with pytest.raises(Refused) as refused:
        await est.service.generate("made", (holder.der,), csr)
    assert refused.value.reason.partition(":")[0] == Refusal.REVOKED.name
    assert await est.written() == before
    assert made == []


async def test_where_many_wait_for_a_key_the_next_is_told_to_come_back(
    est: EstWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await est.label("made", server_key_generation=P256)
    may_end, make_key = threading.Event(), server_keys.make_key

    def slowly(kind: ServerKey) -> MadeKey:
        assert may_end.wait(20)
        return make_key(kind)

    monkeypatch.setattr(server_keys, "make_key", slowly)
    monkeypatch.setattr(server_keys, "PENDING_MAXIMUM", 3)
    holders = [await est.bootstrap(f"meter-{number}") for number in range(4)]
    waiting = [
        asyncio.create_task(est.service.generate("made", (one.der,), b64(keyless_request(f"meter-{number}"))))
        for number, one in enumerate(holders[:3])
    ]
    while est.service._server_keys._pending < 3:  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(0.01)
    refused = await generate(est, holders[3], device="meter-3")
    assert (refused.status, refused.headers["Retry-After"]) == (503, "5")
    may_end.set()
    await asyncio.gather(*waiting)
    parts_of(await generate(est, holders[3], device="meter-3"))


async def test_a_label_that_makes_no_keys_says_so(est: EstWorld) -> None:
    await est.label("made")
    answer = await refusal_of(est, await est.bootstrap("meter-001"))
    assert answer.status == 501


async def test_who_asks_is_judged_as_for_an_enrolment(est: EstWorld) -> None:
    await est.label("made", server_key_generation=P256)
    answer = await refusal_of(est, None)
    assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, 'Basic realm="doorward"')
    impostor = est.signed_by(est.impostor(AuthorityKind.FACTORY), "meter-001")
    assert said(await refusal_of(est, impostor)) == Refusal.FOREIGN.sentence
    assert said(await refusal_of(est, await est.bootstrap("meter-002"))) == Refusal.NOT_NAMED.sentence
    revoked = await est.bootstrap("meter-001")
    await est.world.revocation.revoke(EVERYWHERE, revoked.serial, RevocationReason.UNSPECIFIED, actor="test")
    assert said(await refusal_of(est, revoked)) == Refusal.REVOKED.sentence


async def test_the_rest_of_the_request_is_checked(est: EstWorld) -> None:
    await est.label("made", server_key_generation=P256)
    bootstrap = await est.bootstrap("meter-001")
    names = alternative_names(x509.DNSName("meter-001.example"))
    assert said(await refusal_of(est, bootstrap, names)) == Refusal.OTHER_NAMES.sentence
    assert (await refusal_of(est, bootstrap, device="no/device")).status == 400
    answer = await est.enrol("serverkeygen", bootstrap, b"bm8gQ1NS", label="made")
    assert (answer.status, said(answer)) == (400, Refusal.REQUEST_MALFORMED.sentence)


async def test_a_link_is_verified_and_not_demanded_where_the_key_is_made_here(est: EstWorld) -> None:
    await est.label("made", server_key_generation=P256, proof_of_possession=ProofOfPossession.REQUIRED)
    bootstrap = await est.bootstrap("meter-001")
    answer = await refusal_of(est, bootstrap, challenge_password("5f1e0c"))
    assert said(answer) == Refusal.LINKED_ELSEWHERE.sentence

    def talk(client: TlsClient) -> Raw:
        password = challenge_password(b64encode(client.exported).decode())
        return client.ask("POST", "/made/serverkeygen", b64(keyless_request("meter-001", password)))

    assert (await on_connection(est, bootstrap, talk, SSL.TLS1_3_VERSION)).status == 200
