"""Keys of NATS' own kind: their spelling, and what they sign and seal."""

import pytest

from callout.claims import RequestReader
from callout.nkeys import (
    Prefix,
    SealingKey,
    SigningKey,
    decode_public_key,
    decode_seed,
    encode_public_key,
    encode_seed,
)
from iam.errors import Refused
from tests.callout.brokers import ISSUER_SEED, START, XKEY_SEED
from tests.callout.requests import Asking


class TestKeys:
    def test_the_published_example(self) -> None:
        """The keys that nats-server's own documentation of the callout shows."""
        issuer = "ABJHLOVMPA4CI6R5KLNGOB4GSLNIY7IOUPAJC4YFNDLQVIOBYQGUWVLA"
        seed = "SAANDLKMXL6CUS3CP52WIXBEDN6YJ545GDKC65U5JZPPV6WH6ESWUA6YAI"
        assert SigningKey.from_seed(seed).public == issuer

    def test_there_and_back(self) -> None:
        for prefix in Prefix:
            raw = bytes(range(32))
            assert decode_public_key(prefix, encode_public_key(prefix, raw)) == raw
            assert decode_seed(prefix, encode_seed(prefix, raw)) == raw
            assert encode_public_key(prefix, raw)[0] == prefix.name[0].replace("C", "X").replace("S", "N")

    @pytest.mark.parametrize("text", ["", "A", "x", "A" * 55 + "B", "ä", encode_public_key(Prefix.USER, bytes(32))])
    def test_what_is_not_one(self, text: str) -> None:
        with pytest.raises(Refused):
            decode_public_key(Prefix.ACCOUNT, text)
        with pytest.raises(Refused):
            decode_seed(Prefix.ACCOUNT, text)

    def test_no_secret_is_shown(self) -> None:
        for key in (SigningKey.from_seed(ISSUER_SEED), SealingKey.from_seed(XKEY_SEED)):
            assert "_secret" not in repr(key)
        token = Asking().signed(Asking().claims(START, connect_opts={"pass": "hidden"}))
        assert "hidden" not in repr(RequestReader().read(token, Asking().xkey.public, START))
