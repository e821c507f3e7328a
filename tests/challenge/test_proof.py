"""A key is proved by a signature on the challenge itself, as any program makes it; nothing else is signed or taken."""

import base64
import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from challenge.nonce import Purpose, make_challenge, open_challenge
from challenge.proof import check_proof, signed_message
from iam.errors import Kind, Refused
from iam.public_keys import VALID, Invalid, load_private_key, parse_public_key

SECRET = bytes(range(32))
NOW = datetime(2026, 3, 6, 12, tzinfo=UTC)
AUDIENCE = "https://doorward.example:8443"
ED = ed25519.Ed25519PrivateKey.generate()
P256 = ec.generate_private_key(ec.SECP256R1())
ED_KEY, P256_KEY = (
    parse_public_key(key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode())
    for key in (ED, P256)
)


def challenge(spki: bytes, purpose: Purpose = Purpose.LOGIN) -> str:
    return make_challenge(
        SECRET,
        spki=spki,
        purpose=purpose,
        audience=AUDIENCE,
        now=NOW,
        lifetime=timedelta(minutes=2),
        random=os.urandom,
    ).text


def b64(value: bytes) -> str:
    return base64.b64encode(value).decode()


@pytest.mark.parametrize("purpose", Purpose)
def test_the_bytes_of_the_challenge_are_what_is_signed(purpose: Purpose) -> None:
    text = challenge(ED_KEY.spki, purpose)
    assert signed_message(text) == text.encode()
    assert check_proof(ED_KEY, b64(ED.sign(text.encode())), text) == VALID
    for other in (f"{text}\n", text[:-1], base64.b64encode(text.encode()).decode()):
        assert isinstance(check_proof(ED_KEY, b64(ED.sign(other.encode())), text), Invalid)


def test_a_signature_proves_one_key_for_one_challenge() -> None:
    login, other = challenge(P256_KEY.spki), challenge(P256_KEY.spki)
    signature = b64(P256.sign(login.encode(), ec.ECDSA(SHA256())))
    assert check_proof(P256_KEY, signature, login)
    assert not check_proof(P256_KEY, signature, other)
    assert not check_proof(ED_KEY, signature, login)
    assert not check_proof(P256_KEY, signature, challenge(P256_KEY.spki, Purpose.REGISTER))
    assert not check_proof(P256_KEY, "", login)


@pytest.mark.parametrize("text", ["", "hello", "eyJhbGciOiJFUzI1NiJ9.e30", "doorward-login-v1.", "SSH-2.0-OpenSSH"])
def test_nothing_but_a_challenge_is_signed_or_taken(text: str) -> None:
    with pytest.raises(Refused, match="do not sign it"):
        signed_message(text)
    verdict = check_proof(ED_KEY, b64(ED.sign(text.encode())), text)
    assert isinstance(verdict, Invalid)
    assert "not a challenge" in verdict.reason


def test_a_signature_that_is_not_base64_is_malformed() -> None:
    with pytest.raises(Refused, match="The signature is not base64") as caught:
        check_proof(ED_KEY, "*", challenge(ED_KEY.spki))
    assert caught.value.kind is Kind.MALFORMED


def test_a_shell_with_openssl_can_prove_a_key(tmp_path: Path) -> None:
    """The whole proof with nothing of ours on the client's side."""
    for private, key in ((ED, ED_KEY), (P256, P256_KEY)):
        secret, message, signature = tmp_path / "key.pem", tmp_path / "challenge", tmp_path / "signature"
        secret.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        text = challenge(key.spki)
        message.write_text(text)
        command: list[str | Path] = [
            "openssl",
            "pkeyutl",
            "-sign",
            "-rawin",
            "-inkey",
            secret,
            "-in",
            message,
            "-out",
            signature,
        ]
        if private is P256:
            command = ["openssl", "dgst", "-sha256", "-sign", secret, "-out", signature, message]
        subprocess.run(command, check=True, capture_output=True, timeout=20)
        nonce = open_challenge([SECRET], text, spki=key.spki, purpose=Purpose.LOGIN, audience=AUDIENCE, now=NOW)
        assert len(nonce.value) == 16
        assert check_proof(key, b64(signature.read_bytes()), text) == VALID
        assert check_proof(key, b64(load_private_key(secret.read_bytes()).sign(signed_message(text))), text) == VALID
