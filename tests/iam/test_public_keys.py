"""Public keys in every notation become one key; bad points, foreign algorithms and loose signatures are refused."""

import base64
import subprocess
from pathlib import Path
from shutil import which
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from iam.errors import Kind, Refused
from iam.model import IdentityType, KeyAlgorithm
from iam.public_keys import (
    VALID,
    Invalid,
    PublicKey,
    check_key_type,
    decode_base64,
    load_private_key,
    parse_public_key,
    verify,
)

ED = ed25519.Ed25519PrivateKey.generate()
P256 = ec.generate_private_key(ec.SECP256R1())
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

needs_ssh_keygen = pytest.mark.skipif(which("ssh-keygen") is None, reason="ssh-keygen is not installed")


def written(key: ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey) -> dict[str, bytes]:
    """Return every notation of a key, before base64."""
    line = key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    notations = {
        "SPKI": key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "PEM": key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "OpenSSH line": line,
        "OpenSSH line with a comment": line + b" alice@host and more\n",
        "OpenSSH blob": base64.b64decode(line.split(b" ")[1]),
    }
    if isinstance(key, ed25519.Ed25519PublicKey):
        return notations | {"raw": key.public_bytes(Encoding.Raw, PublicFormat.Raw)}
    return notations | {
        "uncompressed point": key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint),
        "compressed point": key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint),
    }


def spellings(encoded: bytes) -> list[str]:
    standard, url_safe = base64.b64encode(encoded).decode(), base64.urlsafe_b64encode(encoded).decode()
    return [standard, standard.rstrip("="), url_safe, url_safe.rstrip("="), f"  {standard}\n"]


@pytest.mark.parametrize("private", [ED, P256], ids=["Ed25519", "P-256"])
def test_every_notation_is_one_key(private: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> None:
    public = private.public_key()
    algorithm = KeyAlgorithm.ED25519 if private is ED else KeyAlgorithm.P256
    expected = PublicKey(algorithm, public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    for name, encoded in written(public).items():
        for text in spellings(encoded):
            assert parse_public_key(text) == expected, (name, text)
        if name in ("PEM", "OpenSSH line", "OpenSSH line with a comment"):
            assert parse_public_key(encoded.decode()) == expected, name


@given(st.integers(1, ORDER - 1), st.binary(min_size=32, max_size=32))
def test_every_raw_key_is_read_as_itself(scalar: int, seed: bytes) -> None:
    point = ec.derive_private_key(scalar, ec.SECP256R1()).public_key()
    for encoded in written(point).values():
        key = parse_public_key(base64.urlsafe_b64encode(encoded).decode())
        assert key.spki == point.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    public = ed25519.Ed25519PrivateKey.from_private_bytes(seed).public_key()
    raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    assert parse_public_key(base64.b64encode(raw).decode()).spki.endswith(raw)


SMALL_ORDER = [  # the points whose order divides eight, and other spellings of some of them
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
]
OFF_CURVE = "0200000000000000000000000000000000000000000000000000000000000000"


def mixed_order() -> bytes:
    """Return an honest point with the point of order two added to it: on the curve, canonical, in the wrong group."""
    prime = 2**255 - 19
    encoded = int.from_bytes(ED.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw), "little")
    y, sign = encoded & (1 << 255) - 1, encoded >> 255
    return ((prime - y) | (1 - sign) << 255).to_bytes(32, "little")  # (x, y) + (0, -1) = (-x, -y)


@pytest.mark.parametrize("point", [*SMALL_ORDER, OFF_CURVE, mixed_order().hex()], ids=lambda _: "point")
def test_a_bad_ed25519_point_is_refused_in_every_notation(point: str) -> None:
    raw = bytes.fromhex(point)
    blob = b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + raw
    spki = bytes.fromhex("302a300506032b6570032100") + raw
    pem = b"-----BEGIN PUBLIC KEY-----\n" + base64.b64encode(spki) + b"\n-----END PUBLIC KEY-----\n"
    for encoded in (raw, blob, spki, pem, b"ssh-ed25519 " + base64.b64encode(blob)):
        with pytest.raises(Refused, match=r"not a valid Ed25519|no public key that can be read") as caught:
            parse_public_key(base64.b64encode(encoded).decode())
        assert caught.value.kind is Kind.MALFORMED


def p256_notations(point: bytes) -> list[bytes]:
    kind, curve = b"ecdsa-sha2-nistp256", b"nistp256"
    blob = b"".join(len(part).to_bytes(4) + part for part in (kind, curve, point))
    bits = b"\x03" + bytes([len(point) + 1]) + b"\0" + point
    algorithm = bytes.fromhex("301306072a8648ce3d020106082a8648ce3d030107")
    return [blob, b"\x30" + bytes([len(algorithm + bits)]) + algorithm + bits, kind + b" " + base64.b64encode(blob)]


def test_a_p256_point_off_the_curve_is_refused_in_every_notation() -> None:
    uncompressed = P256.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    moved = uncompressed[:-1] + bytes([uncompressed[-1] ^ 1])
    no_root = next(
        b"\x02" + x.to_bytes(32) for x in range(100) if pow(x**3 - 3 * x + CURVE_B, (PRIME - 1) // 2, PRIME) != 1
    )
    for point in (moved, no_root, b"\x04" + bytes(64), b"\x04" + b"\xff" * 64, b"\x05" + bytes(32)):
        for encoded in (point, *p256_notations(point)):
            with pytest.raises(Refused) as caught:
                parse_public_key(base64.b64encode(encoded).decode())
            assert caught.value.kind is Kind.MALFORMED
    for encoded in p256_notations(b"\0"):  # the point at infinity
        with pytest.raises(Refused):
            parse_public_key(base64.b64encode(encoded).decode())
    for encoded in p256_notations(uncompressed):  # and these notations are right when their point is
        assert parse_public_key(base64.b64encode(encoded).decode()).algorithm is KeyAlgorithm.P256


def test_a_hybrid_point_makes_no_second_key() -> None:
    """X9.62 has a third notation, which RFC 5480 2.2 forbids: it is refused, or read as the same key."""
    uncompressed = P256.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    hybrid = bytes([6 + (uncompressed[-1] & 1)]) + uncompressed[1:]
    blob, spki, line = p256_notations(hybrid)
    for encoded in (hybrid, blob, line):
        with pytest.raises(Refused):
            parse_public_key(base64.b64encode(encoded).decode())
    assert parse_public_key(base64.b64encode(spki).decode()) == public(P256)


PRIME = 2**256 - 2**224 + 2**192 + 2**96 - 1
CURVE_B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B

FOREIGN: dict[str, Any] = {  # their types have no name in common
    "P-384": ec.generate_private_key(ec.SECP384R1()),
    "secp256k1": ec.generate_private_key(ec.SECP256K1()),
    "brainpool": ec.generate_private_key(ec.BrainpoolP256R1()),
    "RSA": rsa.generate_private_key(65537, 2048),
    "Ed448": ed448.Ed448PrivateKey.generate(),
    "X25519": x25519.X25519PrivateKey.generate(),
    "DSA": dsa.generate_private_key(1024),  # noqa: S505 - only to be refused
}


@pytest.mark.parametrize("name", FOREIGN)
def test_another_algorithm_is_refused_and_told_what_is_accepted(name: str) -> None:
    private = FOREIGN[name]
    public = private.public_key()
    encodings = [Encoding.DER, Encoding.PEM]
    notations = [public.public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo) for encoding in encodings]
    if name in ("RSA", "P-384"):
        notations.append(public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
    for encoded in notations:
        with pytest.raises(Refused, match="Accepted are Ed25519 and P-256 keys") as caught:
            parse_public_key(base64.b64encode(encoded).decode())
        assert caught.value.kind is Kind.MALFORMED
    with pytest.raises(Refused, match="Accepted are Ed25519 and P-256 keys"):
        load_private_key(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def ssh(*parts: bytes) -> str:
    return base64.b64encode(b"".join(len(part).to_bytes(4) + part for part in parts)).decode()


RAW = ED.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
LINE = ED.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "hello",
        "not base64!",
        "A",
        "\0",
        "é" * 44,
        "=" * 44,
        base64.b64encode(RAW).decode()[:-4] + "=" * 4 + "AAAA",
        base64.b64encode(RAW[:31]).decode(),
        base64.b64encode(RAW + b"\0").decode(),
        base64.b64encode(RAW).decode() * 200,
        "ssh-ed25519",
        "ssh-ed25519 ",
        "ssh-ed25519 AAAA",
        LINE.replace("ssh-ed25519", "ssh-rsa"),
        f'no-pty,command="x" {LINE}',
        f"ssh-rsa {ssh(b'ssh-rsa', b'x', b'y')}",
        f"sk-ssh-ed25519@openssh.com {ssh(b'sk-ssh-ed25519@openssh.com', RAW, b'ssh:')}",
        ssh(b"ssh-ed25519", RAW, b""),
        ssh(b"ssh-ed25519", RAW + b"x"),
        ssh(b"ssh-ed25519"),
        ssh(b"ssh-ed25519", RAW)[:-4],
        base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0\x21" + RAW).decode(),
        ssh(b"ssh-ed25519-cert-v01@openssh.com", b"", RAW),
        ssh(b"ecdsa-sha2-nistp256", b"nistp384", b"\x04" + bytes(64)),
        ssh(b"ecdsa-sha2-nistp256", RAW),
        base64.b64encode(b"\0\0\0\xff").decode(),
        base64.b64encode(b"\xff" * 7).decode(),
        base64.b64encode(b"\x30" * 91).decode(),
        base64.b64encode(written(P256.public_key())["SPKI"] + b"\0").decode(),
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
        "-----BEGIN PUBLIC KEY-----",
    ],
    ids=lambda _: "text",  # some are made of fresh keys, and every process has to call them the same
)
def test_what_is_no_key_is_refused_as_malformed(text: str) -> None:
    with pytest.raises(Refused) as caught:
        parse_public_key(text)
    assert caught.value.kind is Kind.MALFORMED
    assert caught.value.detail.isprintable()


@given(st.text(max_size=200) | st.binary(max_size=120).map(lambda raw: base64.b64encode(raw).decode()))
def test_nothing_but_a_refusal_comes_of_any_text(text: str) -> None:
    try:
        key = parse_public_key(text)
    except Refused as refusal:
        assert refusal.kind is Kind.MALFORMED  # noqa: PT017 - either outcome is right, another exception is not
    else:
        assert isinstance(key, PublicKey)


@pytest.mark.parametrize("private", [ED, P256], ids=["Ed25519", "P-256"])
def test_who_sends_a_private_key_is_told_so(
    private: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey,
) -> None:
    for form in (PrivateFormat.PKCS8, PrivateFormat.OpenSSH):
        pem = private.private_bytes(Encoding.PEM, form, NoEncryption())
        for text in (pem.decode(), base64.b64encode(pem).decode()):
            with pytest.raises(Refused, match="This is a private key"):
                parse_public_key(text)


def test_each_type_has_its_algorithm() -> None:
    ed25519_types = {"root", "admin", "user", "developer", "internal"}
    for identity_type in IdentityType:
        right, wrong = KeyAlgorithm.P256, KeyAlgorithm.ED25519
        if identity_type.value in ed25519_types:
            right, wrong = wrong, right
        check_key_type(identity_type, right)
        with pytest.raises(Refused, match=f"type {identity_type} has an? .*{right}") as caught:
            check_key_type(identity_type, wrong)
        assert caught.value.kind is Kind.INVALID


MESSAGE = b"doorward-login-v1.something"


def public(private: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> PublicKey:
    spki = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return parse_public_key(base64.b64encode(spki).decode())


def raw_of(der: bytes) -> bytes:
    r, s = decode_dss_signature(der)
    return r.to_bytes(32) + s.to_bytes(32)


@given(st.binary(max_size=100))
def test_signatures_of_either_kind_hold_for_their_message_alone(message: bytes) -> None:
    der = P256.sign(message, ec.ECDSA(SHA256()))
    for private, signature in ((P256, der), (P256, raw_of(der)), (ED, ED.sign(message))):
        assert verify(public(private), signature, message) == VALID
        assert isinstance(verify(public(private), signature, message + b"x"), Invalid)
        changed = signature[:-1] + bytes([signature[-1] ^ 1])
        assert isinstance(verify(public(private), changed, message), Invalid)


def long_form(der: bytes) -> bytes:
    return b"\x30\x81" + der[1:]


def zero_led(der: bytes) -> bytes:
    """Put a zero before r: BER allows it, DER does not."""
    length = der[3]
    return bytes([0x30, der[1] + 1, 0x02, length + 1, 0]) + der[4:]


def test_an_es256_signature_has_one_spelling() -> None:
    key, der = public(P256), P256.sign(MESSAGE, ec.ECDSA(SHA256()))
    raw = raw_of(der)
    r, s = decode_dss_signature(der)
    assert verify(key, der, MESSAGE)
    assert verify(key, encode_dss_signature(r, ORDER - s), MESSAGE)  # the other half: libraries do not normalise
    for spoilt in (
        b"",
        der + b"\0",
        der[:-1],
        long_form(der),
        zero_led(der),
        b"\x31" + der[1:],
        raw + b"\0",
        raw[:-1],
        bytes(64),
        raw[32:] + raw[:32],
        ORDER.to_bytes(32) * 2,
        encode_dss_signature(0, 0),
        encode_dss_signature(r + ORDER, s),
        encode_dss_signature(r, s + ORDER),
        encode_dss_signature(1 << 300, s),
        bytes([0x30, 6, 2, 1, 0x81, 2, 1, 1]),  # a negative number
        base64.b64encode(der),
    ):
        verdict = verify(key, spoilt, MESSAGE)
        assert isinstance(verdict, Invalid)
        assert not verdict
        assert verdict.reason


def test_an_ed25519_signature_has_one_spelling() -> None:
    key, signature = public(ED), ED.sign(MESSAGE)
    group_order = 2**252 + 27742317777372353535851937790883648493
    s = int.from_bytes(signature[32:], "little")
    for spoilt in (
        b"",
        signature[:-1],
        signature + b"\0",
        bytes(64),
        signature[:32] + (s + group_order).to_bytes(32, "little"),  # RFC 8032 5.1.7: s < L
        signature[:63] + bytes([signature[63] | 0x80]),
        bytes.fromhex(SMALL_ORDER[0]) + signature[32:],
        bytes.fromhex(SMALL_ORDER[0]) + bytes(32),
    ):
        assert isinstance(verify(key, spoilt, MESSAGE), Invalid)
    assert isinstance(verify(public(P256), signature, MESSAGE), Invalid)
    assert isinstance(verify(key, raw_of(P256.sign(MESSAGE, ec.ECDSA(SHA256()))), MESSAGE), Invalid)


def test_a_key_of_small_order_verifies_nothing_even_past_the_parser() -> None:
    """With A of order one, R = B * s holds for any message; so libsodium refuses such an A as well."""
    neutral = bytes.fromhex(SMALL_ORDER[0])
    key = PublicKey(KeyAlgorithm.ED25519, bytes.fromhex("302a300506032b6570032100") + neutral)
    assert isinstance(verify(key, neutral + bytes(32), MESSAGE), Invalid)


VECTORS = {
    "RFC 8032 7.1, test 2": (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        b"\x72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da",
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    "RFC 6979 A.2.5, SHA-256": (
        "0360fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb6",
        b"sample",
        "efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716",
        "f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8",
    ),
}


@pytest.mark.parametrize("name", VECTORS)
def test_the_vectors_of_the_standards_hold(name: str) -> None:
    point, message, first, second = VECTORS[name]
    key = parse_public_key(base64.b64encode(bytes.fromhex(point)).decode())
    assert verify(key, bytes.fromhex(first + second), message) == VALID


def run(*command: str | Path, stdin: bytes = b"") -> bytes:
    return subprocess.run(command, input=stdin, capture_output=True, check=True, timeout=20).stdout


@pytest.mark.parametrize(("algorithm", "options"), [("ED25519", []), ("EC", ["-pkeyopt", "ec_paramgen_curve:P-256"])])
def test_openssl_keys_and_signatures_are_understood(tmp_path: Path, algorithm: str, options: list[str]) -> None:
    secret, message, signature = tmp_path / "key.pem", tmp_path / "message", tmp_path / "signature"
    message.write_bytes(MESSAGE)
    run("openssl", "genpkey", "-algorithm", algorithm, *options, "-out", secret)
    key = parse_public_key(run("openssl", "pkey", "-in", secret, "-pubout").decode())
    if algorithm == "EC":
        run("openssl", "dgst", "-sha256", "-sign", secret, "-out", signature, message)
    else:
        run("openssl", "pkeyutl", "-sign", "-rawin", "-inkey", secret, "-in", message, "-out", signature)
    assert verify(key, signature.read_bytes(), MESSAGE) == VALID

    ours = load_private_key(secret.read_bytes())
    assert (ours.algorithm, ours.spki) == (key.algorithm, key.spki)
    signed = ours.sign(MESSAGE)
    assert len(signed) == 64
    if algorithm == "EC":
        half = signed[:32], signed[32:]
        signed = encode_dss_signature(int.from_bytes(half[0]), int.from_bytes(half[1]))
        signature.write_bytes(signed)
        verified = run("openssl", "dgst", "-sha256", "-prverify", secret, "-signature", signature, message)
        assert verified == b"Verified OK\n"
        legacy = run("openssl", "ec", "-in", secret, "-conv_form", "compressed")
        assert b"BEGIN EC PRIVATE KEY" in legacy  # SEC 1
        assert load_private_key(legacy).spki == key.spki
    else:
        signature.write_bytes(signed)
        run("openssl", "pkeyutl", "-verify", "-rawin", "-inkey", secret, "-in", message, "-sigfile", signature)


@needs_ssh_keygen
@pytest.mark.parametrize(("kind", "algorithm"), [("ed25519", KeyAlgorithm.ED25519), ("ecdsa", KeyAlgorithm.P256)])
def test_openssh_keys_are_understood(tmp_path: Path, kind: str, algorithm: KeyAlgorithm) -> None:
    secret = tmp_path / "id"
    run("ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "alice@host", "-f", secret)
    line = (tmp_path / "id.pub").read_text()
    key = parse_public_key(line)
    assert key.algorithm is algorithm
    assert parse_public_key(line.split(" ")[1]) == key
    ours = load_private_key(secret.read_bytes())
    assert ours.spki == key.spki
    assert verify(key, ours.sign(MESSAGE), MESSAGE) == VALID


@needs_ssh_keygen
def test_an_openssh_key_with_a_passphrase_opens_or_says_what_is_missing(tmp_path: Path) -> None:
    secret = tmp_path / "id"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "open sesame", "-f", secret)
    try:
        import bcrypt  # type: ignore[import-not-found]  # noqa: F401, PLC0415 - whether it is there is the question
    except ImportError:
        with pytest.raises(Refused, match="install the package bcrypt") as caught:
            load_private_key(secret.read_bytes(), b"open sesame")
        assert caught.value.kind is Kind.UNSUPPORTED
    else:
        key = parse_public_key((tmp_path / "id.pub").read_text())
        assert load_private_key(secret.read_bytes(), b"open sesame").spki == key.spki


def protected(passphrase: bytes | None, private: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey = ED) -> bytes:
    encryption: KeySerializationEncryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def test_a_passphrase_opens_its_key_alone() -> None:
    assert load_private_key(protected(b"open sesame"), b"open sesame").spki == public(ED).spki
    for pem, passphrase, why in (
        (protected(b"open sesame"), None, "has a passphrase, and none was given"),
        (protected(b"open sesame"), b"wrong", "passphrase is wrong"),
        (protected(None), b"needless", "has no passphrase"),
    ):
        with pytest.raises(Refused, match=why) as caught:
            load_private_key(pem, passphrase)
        assert caught.value.kind is Kind.MALFORMED


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"hello",
        b"\xff\xfe",
        b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        LINE.encode(),
        written(P256.public_key())["PEM"],
    ],
    ids=lambda _: "text",
)
def test_what_is_no_private_key_is_refused(text: bytes) -> None:
    with pytest.raises(Refused, match="not a private key") as caught:
        load_private_key(text)
    assert caught.value.kind is Kind.MALFORMED


def test_a_private_key_is_not_shown() -> None:
    key = load_private_key(protected(None))
    secret = ED.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    assert secret.hex() not in repr(key)
    assert repr(secret)[2:10] not in repr(key)


@given(st.binary(max_size=80))
def test_base64_is_read_in_all_its_spellings(value: bytes) -> None:
    for text in spellings(value):
        assert decode_base64(text, "value") == value


@pytest.mark.parametrize("text", ["A", "AAAAA", "AA=A", "A A=", "AA\nAA", "AAA*", "ÄÄÄÄ", "\ud800AAA"])
def test_what_is_not_base64_is_refused_by_its_name(text: str) -> None:
    with pytest.raises(Refused, match="The signature is not base64"):
        decode_base64(text, "signature")
