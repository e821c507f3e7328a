"""What a torture does to a node's processes, its disk and its clock.

The clock of a machine cannot be set for one program alone, and setting it for all would torture whatever else runs. So
the node's own processes are started with a small library (`torture_clock.c`) by which they see another time of day,
and see it jump while they run. Nothing of Doorward knows of it: there is no option that could be left on. PostgreSQL
and the brokers keep the machine's clock. The first is never asked for the time: it is an argument of every statement.
Between the second and the node the clocks differ, which is worse than if all were set: nobody new is let in meanwhile,
and what is connected must be cut all the same.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Self

DISK_MEGABYTES = 700
DISK_FULL_SECONDS = 2.0

_SOURCE = Path(__file__).with_name("torture_clock.c")
_NANOSECONDS = 10**9


@dataclass(frozen=True)
class WrongClock:
    """The time of day of every process that is started with `environment`."""

    library: Path
    file: Path

    @classmethod
    def made(cls, folder: Path) -> Self:
        """Compile the library into a folder that whoever is to see the clock may read; it shows the right time."""
        made = cls(folder / "torture_clock.so", folder / "clock")
        compiler = os.environ.get("CC", "cc")
        try:
            subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", made.library, _SOURCE], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise SystemExit(f"A clock that jumps needs a C compiler: {error}") from error
        made.set(timedelta(0))
        return made

    @property
    def environment(self) -> Mapping[str, str]:
        """What the dynamic linker and the library look for."""
        return {"LD_PRELOAD": str(self.library), "TORTURE_CLOCK": str(self.file)}

    def set(self, ahead: timedelta) -> None:
        """Let it jump: from now on it is so far ahead of the machine's, or behind it."""
        nanoseconds = int(ahead.total_seconds()) * _NANOSECONDS
        descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            os.pwrite(descriptor, nanoseconds.to_bytes(8, "little", signed=True), 0)
        finally:
            os.close(descriptor)


def kill(processes: Sequence[int], which: int) -> None:
    """Kill one of these processes, if there is any at this moment."""
    if processes:
        with suppress(ProcessLookupError):  # it has ended by itself
            os.kill(processes[which % len(processes)], signal.SIGKILL)


def fill_disk(folder: Path) -> None:
    """Fill the file system that a folder is on to its last byte, and free it again."""
    ballast = folder / "ballast"
    with ballast.open("wb") as file:
        try:
            while True:
                file.write(bytes(1 << 20))
                file.flush()
        except OSError:
            time.sleep(DISK_FULL_SECONDS)
        finally:
            ballast.unlink()


@contextmanager
def small_disk(folder: Path, *, is_wanted: bool) -> Iterator[None]:
    """Put a file system of its own under a folder."""
    if not is_wanted:
        yield
        return
    folder.mkdir()
    options = f"size={DISK_MEGABYTES}m,mode=755"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=False)  # noqa: S607 - found on the path
    if mounted.returncode != 0:
        raise SystemExit("A file system of its own needs root: leave out --disk-full.")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=False)  # noqa: S607 - found on the path
