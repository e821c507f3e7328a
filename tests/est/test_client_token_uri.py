"""URIs of keys in tokens (RFC 7512): read as they were written, and what is refused."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import est.client
from est.client import DeviceFolder, FolderUnusable, KeyUnusable, Token, TokenKey
from est.client.own import own_identification, own_key
from est.client.token_uri import read_uri

REACHED = "?module-path=/m.so&pin-source=file:/pin"
_names = st.text(min_size=1, max_size=40).filter(lambda text: text.strip() == text and max(text) < "\ud800")
_files = st.from_regex(r"(/[a-zA-Z0-9 .;?&=%ä-]{1,12}){1,3}", fullmatch=True).filter(lambda text: text == text.rstrip())


@given(label=_names, name=st.none() | _names, identifier=st.binary(min_size=1, max_size=40), module=_files, pin=_files)
def test_what_is_written_is_read(label: str, name: str | None, identifier: bytes, module: str, pin: str) -> None:
    key = TokenKey(Token(Path(module), label, Path(pin)), identifier, name)
    assert read_uri(key.uri()) == key
    assert read_uri(f"{key.uri()}\n") == key
    assert key.uri().isascii()


MY_TOKEN = Token(Path("/m.so"), "My token", Path("/pin"))


@pytest.mark.parametrize(
    ("uri", "key"),
    [
        ("pkcs11:token=My%20token;id=%69%95%3E;type=private", TokenKey(MY_TOKEN, b"i\x95>", None)),
        ("pkcs11:object=my-key;token=My%20token", TokenKey(MY_TOKEN, None, "my-key")),
    ],
)
@pytest.mark.parametrize("source", ["file:/pin", "file:///pin", "/pin", "file://localhost/pin", "file:/p%69n"])
def test_uris_of_others(uri: str, key: TokenKey, source: str) -> None:
    assert read_uri(f"{uri}?pin-source={source}&x-vendor=1&module-path=/m.so") == key


REFUSED = {
    "": "no URI",
    "device.key": "no URI",
    "pkcs11:": "must say token",
    f"pkcs11:token=t{REACHED}": "must say token, and id or object",
    f"pkcs11:object=o{REACHED}": "must say token",
    "pkcs11:token=t;object=o": "--pkcs11-module and --pkcs11-pin-file",
    "pkcs11:token=t;object=o?module-path=/m.so": "--pkcs11-module and --pkcs11-pin-file",
    "pkcs11:token=t;object=o?pin-value=1234&module-path=/m.so": "holds a PIN",
    f"pkcs11:token=t;object=o;serial=1{REACHED}": "names the key by serial",
    f"pkcs11:token=t;object=o;slot-id=1{REACHED}": "names the key by slot-id",
    f"pkcs11:token=t;object=o;type=cert{REACHED}": "no private key",
    f"pkcs11:token=t;object=o;object=p{REACHED}": "cannot be read at its 'object'",
    f"pkcs11:token=t;object{REACHED}": "cannot be read at its 'object'",
    f"pkcs11:token=t;object=a b{REACHED}": "cannot be read at its 'object'",
    f"pkcs11:token=t;object=%zz{REACHED}": "cannot be read at its 'object'",
    f"pkcs11:token=t;object=%ff{REACHED}": "not in UTF-8",
    "pkcs11:token=t;object=o?module-path=/m.so&pin-source=pin": "no file, named from the root",
    "pkcs11:token=t;object=o?module-path=/m.so&pin-source=|/bin/sh": "no file, named from the root",
}


@pytest.mark.parametrize("uri", REFUSED)
def test_what_is_refused(uri: str) -> None:
    with pytest.raises(KeyUnusable, match=REFUSED[uri].replace("(", r"\(")) as refused:
        read_uri(uri)
    assert "1234" not in str(refused.value)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("name", ["device.uri", "next.uri", "bootstrap.uri", "spent.uri"])
def test_a_uri_of_another_user_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Whoever writes it has a module run by who reads it."""
    file = tmp_path / name
    file.write_text(f"pkcs11:token=t;object=o{REACHED}\n")
    folder = DeviceFolder(tmp_path)

    def look() -> object:
        return (folder.token_key(), folder.pending(), folder.bootstrap_token_key(), folder.spent())

    look()
    if os.geteuid() == 0:
        os.chown(file, 65534, -1)
    else:
        monkeypatch.setattr("est.client.folder.geteuid", lambda: 65534)
    with pytest.raises(FolderUnusable, match=rf"{name} names a module to run, and belongs to another user"):
        look()


@pytest.mark.parametrize("missing", ["pkcs11", "tlslite.constants"])
def test_what_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    (tmp_path / "device.uri").write_text(f"pkcs11:token=t;object=o{REACHED}\n")
    for name in [name for name in sys.modules if name in {"est.client.token", "est.client.token_tls"}]:
        monkeypatch.delitem(sys.modules, name)
        monkeypatch.delattr(est.client, name.rpartition(".")[2])
    monkeypatch.setitem(sys.modules, missing, None)
    asks = own_key if missing == "pkcs11" else own_identification
    with pytest.raises(KeyUnusable, match=r"install doorward\[pkcs11\]"):
        asks(DeviceFolder(tmp_path))
