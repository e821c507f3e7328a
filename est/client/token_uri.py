"""Where a key in a PKCS#11 token is, written as the URI of RFC 7512. Pure: no token is asked.

1. A URI names the token by its label, and in it the key by its id, its label, or both. It says where the token's module
   is (`module-path`) and in which file its PIN (`pin-source`), so that the URI alone suffices, to us and to others.
2. A URI that names a key by something else is refused: leaving out a condition would find another key (RFC 7512 2.3).
   What a query says beside those two is for others.
3. A key whose label begins with `doorward ` was made here or was left here for us; any other is its owner's: it is
   used, and never destroyed.
4. A PIN in the URI itself is refused: files of URIs are shown and copied (RFC 7512 4).
"""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

from est.client.keys import KeyUnusable

OURS = "doorward "

_SCHEME = "pkcs11:"
_BYTES = re.compile(r"(?:%[0-9A-Fa-f]{2}|[A-Za-z0-9._~:\[\]@!$'()*+,=&/?|-])*")
_KINDS = {None, "private"}


@dataclass(frozen=True, slots=True)
class Token:
    """A token: the module that reaches it, its label, and the file that holds its user's PIN."""

    module: Path
    label: str
    pin_file: Path


@dataclass(frozen=True, slots=True)
class TokenKey:
    """A key of a token: `identifier` is its CKA_ID, `label` its CKA_LABEL; one of the two may be left out."""

    token: Token
    identifier: bytes | None
    label: str | None

    def uri(self) -> str:
        """Return the URI, by rule 1; both files are named from the root of the file system."""
        path = [f"token={quote(self.token.label, safe='')}"]
        if self.identifier is not None:
            path.append("id=" + "".join(f"%{byte:02X}" for byte in self.identifier))
        if self.label is not None:
            path.append(f"object={quote(self.label, safe='')}")
        module, pin_file = (quote(str(file.absolute()), safe="/") for file in (self.token.module, self.token.pin_file))
        return f"{_SCHEME}{';'.join([*path, 'type=private'])}?module-path={module}&pin-source=file:{pin_file}"

    @property
    def is_ours(self) -> bool:
        """Whether it may be destroyed, by rule 3."""
        return self.label is not None and self.label.startswith(OURS)

    def is_same_as(self, other: "TokenKey") -> bool:
        """Say whether both name one key, however its token is reached."""
        return (self.token.label, self.identifier, self.label) == (other.token.label, other.identifier, other.label)

    def __str__(self) -> str:
        """Name the key to a person."""
        return self.uri().partition("?")[0]


def read_uri(text: str) -> TokenKey:
    """Read the URI of a key; raise `KeyUnusable` with what is wrong with it."""
    text = text.strip()
    if not text.startswith(_SCHEME):
        raise KeyUnusable("this is no URI of a key in a token (pkcs11:...)")
    path_text, _, query_text = text.removeprefix(_SCHEME).partition("?")
    path, query = _attributes(path_text, ";"), _attributes(query_text, "&")
    if "pin-value" in query:
        raise KeyUnusable("the URI holds a PIN: write it into a file, and name that with pin-source")
    unknown = path.keys() - {"token", "id", "object", "type"}
    if unknown:
        raise KeyUnusable(f"the URI names the key by {', '.join(sorted(unknown))}: use token, id and object")
    if _word(path.get("type")) not in _KINDS:
        raise KeyUnusable("the URI names no private key")
    if "token" not in path or not path.keys() & {"id", "object"}:
        raise KeyUnusable("the URI must say token, and id or object")
    module, pin_source = _word(query.get("module-path")), _word(query.get("pin-source"))
    if not module or not pin_source:
        raise KeyUnusable("the URI does not say module-path and pin-source: give --pkcs11-module and --pkcs11-pin-file")
    token = Token(Path(module), _word(path["token"]) or "", _file(pin_source))
    return TokenKey(token, path.get("id"), _word(path.get("object")))


def _attributes(text: str, separator: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for one in filter(None, text.split(separator)):
        name, equals, value = one.partition("=")
        if not equals or name in found or _BYTES.fullmatch(value) is None:
            raise KeyUnusable(f"the URI cannot be read at its {name!a}")
        found[name] = unquote_to_bytes(value)
    return found


def _word(value: bytes | None) -> str | None:
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise KeyUnusable("the URI is not in UTF-8") from error


def _file(source: str) -> Path:
    """Return the file of a pin-source, which may be a path or a file URI (RFC 7512 2.4; RFC 8089)."""
    source = source.removeprefix("file:")
    if source.startswith("//"):
        source = "/" + source[2:].partition("/")[2]
    if not source.startswith("/"):
        raise KeyUnusable("the URI's pin-source is no file, named from the root of the file system")
    return Path(source)
