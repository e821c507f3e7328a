"""The master key: where it comes from, and how it is written down while it changes.

The rules:

1. It comes from one place that the configuration names: a file, the environment (`DOORWARD_MASTER_KEY`) or a credential
   of systemd (a file in `$CREDENTIALS_DIRECTORY`). The file in the data folder, and no other, is made if it is missing.
2. It is 32 bytes in base64. While it changes, other secrets stand beside it, each after a word: `next` for the one that
   is to come, `old` for those that were. Words and secrets are separated by spaces or lines.
3. The secret without a word seals. All open.
4. A process that runs reads the file again when it changed: it looks once a second at most, and at once when it meets
   what a secret sealed that it does not know. What cannot be read then is as if it had not changed.
5. A file is written whole, for its owner alone, and brought to the disk, before anything is sealed by what it says.
   It stays its owner's, whoever changes it: a node must be able to read it half way.
"""

import base64
import binascii
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from doorward.config import ENVIRONMENT_MASTER_KEY, Configuration, process_environment
from doorward.embedded.process import write_private
from iam.errors import Kind, Refused
from iam.identifiers import Random
from iam.sealing import MASTER_KEY_BYTES, MasterKey

CREDENTIALS_DIRECTORY = "CREDENTIALS_DIRECTORY"
"""Where systemd puts the credentials of a unit."""

LOOK_SECONDS = 1.0
"""How long a process that runs may not have seen that the file changed."""

_NEXT = "next"
_OLD = "old"

_log = logging.getLogger("doorward.master_key")


@dataclass(frozen=True, slots=True)
class Secrets:
    """What is written down of a master key."""

    sealing: bytes = field(repr=False)
    next: bytes | None = field(default=None, repr=False)
    old: tuple[bytes, ...] = field(default=(), repr=False)

    @property
    def in_order(self) -> tuple[bytes, ...]:
        """All, the one that seals first."""
        return (self.sealing, *([self.next] if self.next is not None else []), *self.old)

    @classmethod
    def read(cls, text: str) -> "Secrets":
        """Read what is written down by rule 2; raise `ValueError` with a sentence that shows nothing of it."""
        sealing: list[bytes] = []
        coming: list[bytes] = []
        old: list[bytes] = []
        words = iter(text.split())
        for word in words:
            kind = {_NEXT: coming, _OLD: old}.get(word, sealing)
            kind.append(_decoded(word if kind is sealing else next(words, "")))
        if len(sealing) != 1 or len(coming) > 1:
            raise ValueError(f"it holds {len(sealing)} secrets that seal, and {len(coming)} that are next")
        secrets = cls(sealing[0], coming[0] if coming else None, tuple(old))
        if len(set(secrets.in_order)) != len(secrets.in_order):
            raise ValueError("it holds one secret twice")
        return secrets

    def write(self) -> str:
        """Write it down."""
        lines = [_encoded(self.sealing)]
        lines += [f"{_NEXT} {_encoded(self.next)}"] if self.next is not None else []
        lines += [f"{_OLD} {_encoded(one)}" for one in self.old]
        return "\n".join(lines) + "\n"


def master_key(configuration: Configuration, random: Random) -> MasterKey:
    """Return the node's master key; the file in the data folder is made at the first start.

    Raises:
        Refused: (unavailable) It is not where the configuration says, or is no master key.
    """
    path = master_key_file(configuration)
    if path is not None and configuration.node.master_key_file is None and not path.exists():
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(path, Secrets(random(MASTER_KEY_BYTES)).write())
        except OSError as error:
            raise Refused(Kind.UNAVAILABLE, f"The master key {path} cannot be kept: {error}.") from error
    return read_master_key(configuration)


def read_master_key(configuration: Configuration) -> MasterKey:
    """Return the node's master key, which must be there, and which follows its file.

    Raises:
        Refused: (unavailable) It is not where the configuration says, or is no master key.
    """
    path = master_key_file(configuration)
    source = None if path is None else _Follower(path)  # before the first look, so that no change is missed
    return MasterKey(*read_secrets(configuration).in_order, source=source)


def read_secrets(configuration: Configuration, environment: Mapping[str, str] | None = None) -> Secrets:
    """Return what is written down of the master key, from wherever the configuration says (rule 1).

    Raises:
        Refused: (unavailable) It is not there, or is no master key.
    """
    environment = process_environment() if environment is None else environment
    where = place_of_master_key(configuration)
    try:
        match configuration.node.master_key_from:
            case "environment":
                text = environment[ENVIRONMENT_MASTER_KEY]
            case "credential":
                folder = Path(environment[CREDENTIALS_DIRECTORY])
                text = (folder / configuration.node.master_key_credential).read_text("ascii")
            case "file":
                text = (master_key_file(configuration) or Path()).read_text("ascii")
        return Secrets.read(text)
    except KeyError as error:
        raise Refused(Kind.UNAVAILABLE, f"The master key is to come from {where}, and {error} is not set.") from None
    except UnicodeDecodeError:
        raise Refused(Kind.UNAVAILABLE, f"The master key from {where} cannot be read: it is not text.") from None
    except OSError as error:
        raise Refused(Kind.UNAVAILABLE, f"The master key from {where} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise Refused(Kind.UNAVAILABLE, f"The master key from {where} cannot be read: {error}.") from error


def master_key_file(configuration: Configuration) -> Path | None:
    """Return the master key's file; None if it comes from elsewhere."""
    if configuration.node.master_key_from != "file":
        return None
    return configuration.node.master_key_file or configuration.node.data / "master.key"


def write_secrets(path: Path, secrets: Secrets) -> None:
    """Write the file, in place of what it held, by rule 5; raise `Refused` (unavailable) if it cannot be written."""
    try:
        write_private(path, secrets.write())
    except OSError as error:
        raise Refused(Kind.UNAVAILABLE, f"The master key {path} cannot be written: {error}.") from error


def place_of_master_key(configuration: Configuration) -> str:
    """Return where the master key comes from, for people."""
    match configuration.node.master_key_from:
        case "environment":
            return f"the environment ({ENVIRONMENT_MASTER_KEY})"
        case "credential":
            return f"the credential {configuration.node.master_key_credential} of systemd"
        case "file":
            return str(master_key_file(configuration))


class _Follower:
    """Looks whether the file changed (rule 4)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = _mark(path)
        self._looked = time.monotonic()
        self._said: tuple[int, ...] | None = None

    def __call__(self, in_haste: bool) -> Sequence[bytes] | None:
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS and not in_haste:
            return None
        self._looked = now
        mark = _mark(self._path)
        if mark == self._seen:
            return None
        try:
            secrets = Secrets.read(self._path.read_text("ascii"))
        except (OSError, ValueError) as error:
            if mark != self._said:
                _log.error("the master key %s changed and cannot be read: %s", self._path, type(error).__name__)
            self._said = mark
            return None
        self._seen = mark
        return secrets.in_order


def _mark(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def _decoded(text: str) -> bytes:
    try:
        secret = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("it is not base64") from None
    if len(secret) != MASTER_KEY_BYTES:
        raise ValueError(f"it has {len(secret)} bytes instead of {MASTER_KEY_BYTES}")
    return secret


def _encoded(secret: bytes) -> str:
    return base64.b64encode(secret).decode()
