"""The node's own secrets: the master key, and the two keys of the callout, in files of their own.

The master key seals everything else. It is made at the first start unless the configuration names a file; losing it
means losing every sealed key. The callout's seeds are sealed under it.
"""

import base64
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from callout.nkeys import Prefix, encode_seed
from doorward.config import Configuration
from doorward.embedded.process import write_private
from iam.errors import Kind, Refused
from iam.identifiers import Random
from iam.sealing import MasterKey, open_sealed, seal

_MASTER_BYTES = 32
_SEED_BYTES = 32


@dataclass(frozen=True, slots=True)
class CalloutKeys:
    """Seeds of the account key that signs callout answers, and of the curve key that requests are sealed to."""

    issuer_seed: str
    xkey_seed: str

    def __repr__(self) -> str:
        return "CalloutKeys(...)"


def master_key(configuration: Configuration, random: Random) -> MasterKey:
    """Return the node's master key, made at the first start.

    Raises:
        Refused: (unavailable) Its file cannot be read, or does not hold 32 bytes in base64.
    """
    path = master_key_file(configuration)
    if configuration.node.master_key_file is None and not path.exists():
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(path, base64.b64encode(random(_MASTER_BYTES)).decode() + "\n")
        except OSError as error:
            raise Refused(Kind.UNAVAILABLE, f"The master key {path} cannot be kept: {error}.") from error
    return read_master_key(configuration)


def master_key_file(configuration: Configuration) -> Path:
    """Return where the master key is."""
    return configuration.node.master_key_file or configuration.node.data / "master.key"


def read_master_key(configuration: Configuration) -> MasterKey:
    """Return the node's master key, which must be there.

    Raises:
        Refused: (unavailable) Its file cannot be read, or does not hold 32 bytes in base64.
    """
    path = master_key_file(configuration)
    try:
        secret = base64.b64decode(path.read_bytes().strip(), validate=True)
    except (OSError, ValueError) as error:
        raise Refused(Kind.UNAVAILABLE, f"The master key {path} cannot be read: {error}.") from error
    if len(secret) != _MASTER_BYTES:
        raise Refused(Kind.UNAVAILABLE, f"The master key {path} has {len(secret)} bytes instead of {_MASTER_BYTES}.")
    return MasterKey(secret)


def callout_keys(configuration: Configuration, master: MasterKey, random: Random) -> CalloutKeys:
    """Return the callout's keys: from the configured files, or made at the first start and sealed.

    Raises:
        Refused: (unavailable) A file cannot be read or opened.
    """
    nats = configuration.nats
    if nats.issuer_seed_file is not None and nats.xkey_seed_file is not None:
        return CalloutKeys(read_secret(nats.issuer_seed_file), read_secret(nats.xkey_seed_file))
    folder = configuration.node.data / "keys"
    return CalloutKeys(
        _sealed_file(folder / "callout_issuer.sealed", master, random, lambda: _seed(Prefix.ACCOUNT, random)),
        _sealed_file(folder / "callout_xkey.sealed", master, random, lambda: _seed(Prefix.CURVE, random)),
    )


def read_secret(path: Path) -> str:
    """Return the one line of a secret's file; raise `Refused` (unavailable) if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(Kind.UNAVAILABLE, f"The secret {path} cannot be read: {error}.") from error


def _seed(prefix: Prefix, random: Random) -> str:
    return encode_seed(prefix, random(_SEED_BYTES))


def _sealed_file(path: Path, master: MasterKey, random: Random, make: Callable[[], str]) -> str:
    context = f"file:{path.name}"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            sealed = seal(master, make().encode(), context=context, random=random)
            write_private(path, base64.b64encode(sealed).decode() + "\n")
        sealed = base64.b64decode(path.read_bytes(), validate=False)
    except (OSError, ValueError) as error:
        raise Refused(Kind.UNAVAILABLE, f"The key {path} cannot be kept: {error}.") from error
    return open_sealed(master, sealed, context=context).decode()


def random_bytes(count: int) -> bytes:
    """Return bytes from the operating system's generator: the one source of randomness outside tests."""
    return os.urandom(count)
