"""What the node keeps keys in: sealed files for the callout's own, and the keystore of all others.

The PIN of a hardware token comes from a file or from `DOORWARD_PKCS11_PIN`, and goes nowhere but to the token.
"""

import base64
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ca.keystore import Backend, Keystore, Token
from callout.nkeys import Prefix, encode_seed
from doorward.config import ENVIRONMENT_PIN, Configuration, Pkcs11Section, process_environment
from doorward.embedded.process import write_private
from iam.errors import Kind, Refused
from iam.identifiers import Random
from iam.sealing import MasterKey, open_sealed, seal, sealed_head

SEALED_FILES = ("callout_issuer.sealed", "callout_xkey.sealed")
"""The files in which the callout's keys lie, unless the configuration names others."""

_SEED_BYTES = 32


@dataclass(frozen=True, slots=True)
class CalloutKeys:
    """Seeds of the account key that signs callout answers, and of the curve key that requests are sealed to."""

    issuer_seed: str
    xkey_seed: str

    def __repr__(self) -> str:
        return "CalloutKeys(...)"


def callout_keys(configuration: Configuration, master: MasterKey, random: Random) -> CalloutKeys:
    """Return the callout's keys: from the configured files, or made at the first start and sealed.

    Raises:
        Refused: (unavailable) A file cannot be read or opened.
    """
    nats = configuration.nats
    if nats.issuer_seed_file is not None and nats.xkey_seed_file is not None:
        return CalloutKeys(read_secret(nats.issuer_seed_file), read_secret(nats.xkey_seed_file))
    issuer, xkey = (keys_folder(configuration) / name for name in SEALED_FILES)
    return CalloutKeys(
        _sealed_file(issuer, master, random, lambda: _seed(Prefix.ACCOUNT, random)),
        _sealed_file(xkey, master, random, lambda: _seed(Prefix.CURVE, random)),
    )


def keystore(configuration: Configuration, master: MasterKey, random: Random) -> Keystore:
    """Return where this node keeps the keys that sign, with the hardware token if one is configured.

    Raises:
        Refused: (unavailable) There is a token and no PIN, or the package that reaches it is not installed.
    """
    return Keystore(keys_folder(configuration), master, random, tokens(configuration))


def tokens(configuration: Configuration) -> dict[str, Token]:
    """Return the hardware tokens by the names of their engines, not yet reached. Raises as `keystore` does."""
    section = configuration.pkcs11
    found = {name: _token(section, place.module, place.token, place.pin_file) for name, place in section.tokens.items()}
    if section.module is not None and section.token is not None:
        first = _token(section, section.module, section.token, section.pin_file)
        return {Backend.PKCS11.value: first, **found}
    return found


def _token(section: Pkcs11Section, module: Path, label: str, pin_file: Path | None) -> Token:
    pin = read_secret(pin_file) if pin_file else process_environment().get(ENVIRONMENT_PIN)
    if not pin:
        raise Refused(Kind.UNAVAILABLE, f"The PIN of the token {label} is missing: say its pin_file.")
    try:
        from ca.pkcs11 import Pkcs11Token  # noqa: PLC0415 - an extra: only those who have a token install it
    except ImportError as error:
        raise Refused(Kind.UNAVAILABLE, "A token needs the package python-pkcs11: doorward[pkcs11].") from error
    return Pkcs11Token(
        module,
        label,
        pin,
        deadline=section.deadline.total_seconds(),
        making_deadline=section.making_deadline.total_seconds(),
    )


def keys_folder(configuration: Configuration) -> Path:
    """Return where this node keeps sealed files."""
    return configuration.node.data / "keys"


def read_secret(path: Path) -> str:
    """Return the one line of a secret's file; raise `Refused` (unavailable) if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(Kind.UNAVAILABLE, f"The secret {path} cannot be read: {error}.") from error


def _seed(prefix: Prefix, random: Random) -> str:
    return encode_seed(prefix, random(_SEED_BYTES))


def _sealed_file(path: Path, master: MasterKey, random: Random, make: Callable[[], str]) -> str:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            write_sealed_file(path, master, random, make().encode())
        sealed = read_sealed_file(path)
    except (OSError, ValueError) as error:
        raise Refused(Kind.UNAVAILABLE, f"The key {path} cannot be kept: {error}.") from error
    return open_sealed(master, sealed, context=_context(path)).decode()


def read_sealed_file(path: Path) -> bytes:
    """Return what a file holds, still sealed; raise `OSError` or `ValueError` if it cannot be read."""
    return base64.b64decode(path.read_bytes(), validate=False)


def write_sealed_file(path: Path, master: MasterKey, random: Random, secret: bytes) -> None:
    """Seal a secret into a file, whole, in place of an earlier one; raise `OSError` if it cannot be written."""
    sealed = seal(master, secret, context=_context(path), random=random)
    write_private(path, base64.b64encode(sealed).decode() + "\n")


def reseal_file(path: Path, master: MasterKey, random: Random) -> bool:
    """Seal a file anew if another secret sealed it than the one that seals now; tell whether it did.

    Raises:
        Refused: (unavailable) It cannot be opened, read or written.
    """
    try:
        sealed = read_sealed_file(path)
        if sealed.startswith(sealed_head(master.id)):
            return False
        write_sealed_file(path, master, random, open_sealed(master, sealed, context=_context(path)))
    except (OSError, ValueError) as error:
        raise Refused(Kind.UNAVAILABLE, f"The key {path} cannot be sealed anew: {error}.") from error
    return True


def _context(path: Path) -> str:
    return f"file:{path.name}"


def random_bytes(count: int) -> bytes:
    """Return bytes from the operating system's generator: the one source of randomness outside tests."""
    return os.urandom(count)
