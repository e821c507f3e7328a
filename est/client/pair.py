"""The pair that a device connects with, its certificate and its key, replaced as one.

| name | what it is |
|---|---|
| `device.pem`, `device.key` | links to `pair/device.pem` and `pair/device.key`; once there, they stay as they are |
| `device.uri` | instead of `device.key`, where the key is in a token: a link to `pair/device.uri` |
| `pair` | a link to the generation of now |
| `pair-<digest>` | a generation: a folder with one certificate and its key, written once and never changed |

The rules:

1. A generation is written whole and brought to the disk; then `pair` is moved onto it, by one rename, which is atomic
   (POSIX, rename). So whatever is killed at whatever moment, `device.pem` and `device.key` are of one generation: also
   for a program that starts after a loss of power before anything of ours has run.
2. Files in the place of those links, made by hand or elsewhere, become a generation as they are before another one
   takes their place: so what is true of every later exchange is true of the first.
3. Every step may be repeated, and does then what is left to do.
4. A generation that was replaced is removed with its key; what is left of one by a crash is removed the next time.
5. A generation is as open as its folder; a key has mode 0600 from its first moment.
6. Whoever needs certificate and key together gets them out of one generation (`contents`).
"""

import shutil
from hashlib import sha256
from pathlib import Path

from est.client.files import PRIVATE, PUBLIC, link, move, synchronise, write_whole

CERTIFICATE = "device.pem"
KEY = "device.key"
URI = "device.uri"

_LINK = "pair"
_DIGITS = 16
_GENERATIONS = f"{_LINK}-{'[0-9a-f]' * _DIGITS}"
_UNDER_WAY = ".pair-under-way"
_MODES = {CERTIFICATE: PUBLIC, KEY: PRIVATE, URI: PUBLIC}


class Pair:
    """The pair of a folder. Whoever changes it holds the folder's lock; reading needs none."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._link = folder / _LINK

    def contents(self, *names: str) -> dict[str, bytes]:
        """Return what these files hold, all at one moment; those that are not there are left out.

        Raises:
            OSError: One is there and cannot be read.
        """
        while True:
            generation = self._generation()
            found = {}
            for name in names:
                try:
                    found[name] = self._place(name, generation).read_bytes()
                except FileNotFoundError:
                    continue
            if self._generation() == generation:
                return found

    def replace(self, certificate: bytes, name: str, key: bytes) -> None:
        """Put another pair in the place of the present one.

        Args:
            name: `KEY` for a key, `URI` for where one is.
        """
        self._adopt()
        self._exchange({CERTIFICATE: certificate, name: key})

    def _adopt(self) -> None:
        """Make a generation of plain files, by rule 2."""
        names = (CERTIFICATE, KEY, URI)
        is_copied = self._link.is_dir() and not self._link.is_symlink()
        if not is_copied and all(self._is_linked(name) or not (self._folder / name).exists() for name in names):
            return
        present = self.contents(*names)
        if is_copied:  # by something that followed links; the pair must not stand on that folder when it goes
            for name, content in present.items():
                write_whole(self._folder / name, content, _MODES[name])
            shutil.rmtree(self._link)
        if CERTIFICATE in present and len(present) > 1:
            self._exchange(present)

    def _exchange(self, files: dict[str, bytes]) -> None:
        """Make the generation of these files the one of now, by rules 1 and 3."""
        digest = sha256(b"\0".join(name.encode() + b"\0" + files[name] for name in sorted(files))).hexdigest()
        generation = self._folder / f"{_LINK}-{digest[:_DIGITS]}"
        self._write(generation, files)
        adopts = [name for name in files if not self._is_linked(name) and (self._folder / name).exists()]
        if adopts:
            # What stands there in plain files is what the generation holds, or is no pair: either may change first.
            link(self._link, generation.name)
        for name in files:
            if not self._is_linked(name):
                link(self._folder / name, f"{_LINK}/{name}")
        link(self._link, generation.name)
        self._tidy(generation, files)

    def _write(self, generation: Path, files: dict[str, bytes]) -> None:
        if all(_holds(generation / name, content) for name, content in files.items()):
            return
        shutil.rmtree(generation, ignore_errors=True)  # what is left of one that was being removed
        fresh = self._folder / _UNDER_WAY
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        for name, content in files.items():
            write_whole(fresh / name, content, _MODES[name])
        fresh.chmod(self._folder.stat().st_mode & 0o777)
        move(fresh, generation)

    def _tidy(self, generation: Path, files: dict[str, bytes]) -> None:
        """Remove what belongs to no generation of now, by rule 4."""
        for name in (KEY, URI):
            if name not in files:
                (self._folder / name).unlink(missing_ok=True)
        shutil.rmtree(self._folder / _UNDER_WAY, ignore_errors=True)
        for other in self._folder.glob(_GENERATIONS):
            if other != generation:
                shutil.rmtree(other, ignore_errors=True)
        synchronise(self._folder)

    def _generation(self) -> Path | None:
        try:
            return self._folder / self._link.readlink()
        except OSError:
            return None

    def _place(self, name: str, generation: Path | None) -> Path:
        return generation / name if generation is not None and self._is_linked(name) else self._folder / name

    def _is_linked(self, name: str) -> bool:
        try:
            return (self._folder / name).readlink() == Path(_LINK, name)
        except OSError:
            return False


def _holds(file: Path, content: bytes) -> bool:
    try:
        return file.read_bytes() == content
    except OSError:
        return False
