"""What is sealed opens in its context alone, and nothing that was changed opens."""

import os
import pickle

import pytest
from cryptography.hazmat.primitives import hashes, hmac
from hypothesis import given
from hypothesis import strategies as st

from iam.errors import Kind, Refused
from iam.sealing import MasterKey, derive_all, open_sealed, seal

MASTER = MasterKey(bytes(range(32)))
HEAD, NONCE, TAG = 9, 12, 16


@given(plaintext=st.binary(max_size=300), context=st.text(max_size=40))
def test_opens_in_its_context(plaintext: bytes, context: str) -> None:
    sealed = seal(MASTER, plaintext, context=context, random=os.urandom)
    assert open_sealed(MASTER, sealed, context=context) == plaintext
    assert len(sealed) == HEAD + NONCE + len(plaintext) + TAG


@given(first=st.text(max_size=20), second=st.text(max_size=20))
def test_stays_shut_in_another(first: str, second: str) -> None:
    sealed = seal(MASTER, b"secret", context=first, random=os.urandom)
    if first != second:
        with pytest.raises(Refused, match="cannot be opened now") as caught:
            open_sealed(MASTER, sealed, context=second)
        assert caught.value.kind is Kind.UNAVAILABLE


def test_every_single_bit_counts() -> None:
    sealed = seal(MASTER, b"secret", context="row:1", random=os.urandom)
    for bit in range(len(sealed) * 8):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Refused) as caught:
            open_sealed(MASTER, bytes(changed), context="row:1")
        assert caught.value.kind is Kind.UNAVAILABLE


@pytest.mark.parametrize("length", range(HEAD + NONCE + TAG + 6))
def test_every_prefix_is_refused(length: int) -> None:
    sealed = seal(MASTER, b"secret", context="row:1", random=os.urandom)
    with pytest.raises(Refused) as caught:
        open_sealed(MASTER, sealed[:length], context="row:1")
    assert caught.value.kind is Kind.UNAVAILABLE


def test_the_reason_names_what_is_wrong_and_no_secret() -> None:
    sealed = seal(MASTER, b"secret", context="row:1", random=os.urandom)
    other = MasterKey(bytes(32))
    for blob, key, why in (
        (b"\x02" + sealed[1:], MASTER, "layout 2 is unknown"),
        (sealed, other, f"master key {MASTER.id.hex()} sealed it, this is {other.id.hex()}"),
        (sealed[:-1] + bytes([sealed[-1] ^ 1]), MASTER, "it was changed"),
    ):
        with pytest.raises(Refused) as caught:
            open_sealed(key, blob, context="row:1")
        assert why in caught.value.reason
        assert "row:1" in caught.value.reason
        assert "row:1" not in caught.value.detail


def test_one_plaintext_seals_differently_each_time() -> None:
    assert len({seal(MASTER, b"same", context="c", random=os.urandom) for _ in range(50)}) == 50


def test_each_context_has_a_key_of_its_own() -> None:
    def still(length: int) -> bytes:
        return bytes(length)

    first, second = (seal(MASTER, bytes(32), context=context, random=still) for context in "ab")
    assert first[HEAD + NONCE : -TAG] != second[HEAD + NONCE : -TAG]


def test_derived_keys_follow_rfc_5869() -> None:
    def mac(key: bytes, message: bytes) -> bytes:
        computed = hmac.HMAC(key, hashes.SHA256())
        computed.update(message)
        return computed.finalize()

    extracted = mac(bytes(32), bytes(range(32)))  # RFC 5869 2.2, without a salt
    assert derive_all(MASTER, "challenge")[0] == mac(extracted, b"doorward/challenge\x01")  # 2.3
    assert derive_all(MASTER, "challenge") != derive_all(MASTER, "tokens")
    assert [len(one) for one in derive_all(MASTER, "challenge", 64)] == [64]


def test_a_master_key_is_not_shown_and_has_32_bytes() -> None:
    secret = b"\xc3" * 32
    shown = f"{MasterKey(secret)!r} {MasterKey(secret)}"
    assert secret.hex() not in shown
    assert str(secret) not in shown
    assert pickle.loads(pickle.dumps(MasterKey(secret))).id == MasterKey(secret).id  # noqa: S301 - a worker gets it so
    for length in (0, 16, 31, 33, 64):
        with pytest.raises(ValueError, match=f"this has {length}"):
            MasterKey(bytes(length))
