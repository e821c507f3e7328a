"""A child process that never outlives us, and what a dead parent left behind.

Rules enforced here:

1. A child ends with its parent: the kernel sends it `death_signal` when we die, however we die (`launch.py`).
2. A child does not hear the terminal's Ctrl-C: it has its own session, and only its parent stops it.
3. Stopping has a deadline; what still runs then is killed.
4. A process that an earlier parent left behind is ended before the next one starts, and only after it was
   recognised as ours by what it runs and on which folder. It is held by a pidfd from before it is
   recognised, so that a reused process number is never signalled.
5. Output goes to a log file under the data folder. At a start, a log over 1 MiB is put aside; one is kept.
6. What is written for ourselves alone is on the disk, its name too, before anything is built on it.

Nothing here uses threads or the event loop's own child watcher: a pidfd is watched like a socket, on any loop.
"""

import asyncio
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

LAUNCH = Path(__file__).with_name("launch.py")
LOG_KEPT_BYTES = 1024 * 1024
LOG_TAIL_BYTES = 2000


class Failure(StrEnum):
    """Why an embedded server or a supervisor does not run."""

    MISSING = "missing"  # its program is not installed
    UNREACHABLE = "unreachable"  # no account can both run it and reach its folder
    INCOMPATIBLE = "incompatible"  # its folder belongs to another version or another user
    ENDED = "ended"  # it ended before it was ready
    NOT_READY = "not_ready"  # it runs, and was not ready in time
    LOCKED = "locked"  # another supervisor has the data folder


class EmbeddedError(Exception):
    """A server of ours does not run; the sentence says what to do, `kind` says which case it is."""

    def __init__(self, kind: Failure, sentence: str) -> None:
        """Keep the case beside the sentence."""
        super().__init__(sentence)
        self.kind = kind


@dataclass(frozen=True)
class Account:
    """As whom a child runs: as ourselves, as (uid, gid), or as ourselves called `uid` in a user namespace."""

    uid: int | None = None
    gid: int | None = None
    in_namespace: bool = False

    def __str__(self) -> str:
        """Spell the account as `launch.py` reads it."""
        if self.in_namespace:
            return f"namespace:{self.uid}"
        return "same" if self.uid is None else f"{self.uid}:{self.gid}"


OURSELVES = Account()


class ChildProcess:
    """One run of one program: started once, waited for by anyone, stopped with a deadline."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        hurry_signal: signal.Signals = signal.SIGKILL,
        death_signal: signal.Signals = signal.SIGKILL,
        account: Account = OURSELVES,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Describe the run; `command[0]` is an absolute path, no `log` means our own output."""
        self.command = tuple(command)
        self.log = log
        self.returncode: int | None = None
        self._stop_signal = stop_signal
        self._hurry_signal = hurry_signal
        self._death_signal = death_signal
        self._account = account
        self._environment = environment
        self._popen: subprocess.Popen[bytes] | None = None
        self._ended = asyncio.Event()
        self._log_began = 0

    @property
    def pid(self) -> int:
        """The process number; only after start()."""
        assert self._popen is not None, "not started"  # noqa: S101 (a programming error, not an input)
        return self._popen.pid

    @property
    def alive(self) -> bool:
        """It was started, and has not been seen to end."""
        return self._popen is not None and self.returncode is None

    def start(self, *, standard_input: Path | None = None, inherited: Sequence[int] = ()) -> None:
        """Start it; `inherited` are file descriptors that it keeps under the same numbers."""
        launch = [sys.executable, "-I", "-S", str(LAUNCH)]
        with (
            (standard_input or Path(os.devnull)).open("rb") as stdin,
            open_log(self.log) as output,
        ):
            self._log_began = 0 if output is None else os.fstat(output).st_size
            self._popen = subprocess.Popen(  # noqa: S603 (our own command, without a shell)
                [*launch, str(os.getpid()), str(int(self._death_signal)), str(self._account), *self.command],
                stdin=stdin,
                stdout=output,
                stderr=output,
                env=self._environment,
                pass_fds=inherited,
                start_new_session=True,
            )
        watched = os.pidfd_open(self._popen.pid)
        asyncio.get_running_loop().add_reader(watched, self._reap, watched)

    def _reap(self, watched: int) -> None:
        """Take the exit status once the pidfd says that there is one."""
        assert self._popen is not None  # noqa: S101 (start() made it)
        asyncio.get_running_loop().remove_reader(watched)
        os.close(watched)
        self.returncode = self._popen.wait()
        self._ended.set()

    async def wait(self) -> int:
        """Wait for its end and return its exit status (negative: the signal that ended it)."""
        await self._ended.wait()
        assert self.returncode is not None  # noqa: S101 (_reap() set it first)
        return self.returncode

    def send(self, number: signal.Signals) -> None:
        """Signal it, when it still runs."""
        if self._popen is not None and self.returncode is None:
            self._popen.send_signal(number)

    def hurry(self) -> None:
        """End it now, without the courtesy of stop()."""
        self.send(self._hurry_signal)

    async def stop(self, deadline_seconds: float) -> None:
        """Ask it to end, wait until the deadline, then hurry and at last kill it."""
        if not self.alive:
            return
        for number, seconds in ((self._stop_signal, deadline_seconds), (self._hurry_signal, 2.0)):
            self.send(number)
            try:
                await asyncio.wait_for(self._ended.wait(), seconds)
            except TimeoutError:
                continue
            return
        self.send(signal.SIGKILL)
        await self._ended.wait()

    def last_words(self) -> str:
        """The end of what this run wrote to its log, to be shown when it failed."""
        if self.log is None or not self.log.exists():
            return ""
        with self.log.open("rb") as written:
            written.seek(max(self._log_began, written.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
            return written.read().decode("utf-8", "replace").strip()


@contextmanager
def open_log(path: Path | None) -> Iterator[int | None]:
    """Open `path` for appending, after putting a large one aside; nothing for no path."""
    if path is None:
        yield None
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > LOG_KEPT_BYTES:
        path.replace(path.with_name(path.name + ".1"))
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def write_private(path: Path, text: str) -> Path:
    """Write a file that only we can read, whole or not at all, in place of an earlier one (rule 6)."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="utf-8") as written:  # noqa: PTH123 (a descriptor has no Path)
        keep_owner(path, descriptor)
        written.write(text)
        written.flush()
        os.fsync(descriptor)
    written_path = fresh.replace(path)
    synchronise(path.parent)
    return written_path


def keep_owner(path: Path, descriptor: int) -> None:
    """Give an open file to the owner of the one that it is to replace, if there is one and he is somebody else."""
    with suppress(FileNotFoundError):
        before, ours = path.stat(), os.fstat(descriptor)
        if (before.st_uid, before.st_gid) != (ours.st_uid, ours.st_gid):
            os.fchown(descriptor, before.st_uid, before.st_gid)


def synchronise(*paths: Path) -> None:
    """Bring files and folders to the disk; of a folder, the names in it."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@dataclass(frozen=True)
class RunningProcess:
    """What /proc says of a process that somebody started; unreadable facts are empty."""

    pid: int
    arguments: tuple[str, ...]
    folder: str

    @classmethod
    def read(cls, pid: int) -> "RunningProcess | None":
        """Read it, or nothing when it is gone or has ended and waits for its parent."""
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return None
        if not line:
            return None
        try:
            folder = str(Path(f"/proc/{pid}/cwd").readlink())
        except OSError:
            folder = ""
        arguments = tuple(part.decode("utf-8", "surrogateescape") for part in line.rstrip(b"\0").split(b"\0"))
        return cls(pid, arguments, folder)


async def end_left_over(is_ours: Callable[[RunningProcess], bool], how: signal.Signals, seconds: float) -> int:
    """End every running process that is ours from an earlier parent: `how` first, SIGKILL after `seconds`.

    Returns how many there were. The caller knows that no living parent owns them: it holds the data
    folder's lock.
    """
    held = list(_hold(is_ours))
    try:
        for number, patience in ((how, seconds), (signal.SIGKILL, seconds)):
            running = [descriptor for descriptor in held if not _readable(descriptor)]
            for descriptor in running:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, number)
                    signal.pidfd_send_signal(descriptor, signal.SIGCONT)  # one that was stopped hears it too
            await _until_ended(running, patience)
    finally:
        for descriptor in held:
            os.close(descriptor)
    return len(held)


def _hold(is_ours: Callable[[RunningProcess], bool]) -> Iterator[int]:
    """Give a pidfd for each process that is ours, recognised only while the pidfd holds its number."""
    for entry in os.listdir("/proc"):  # noqa: PTH208 (names are what is wanted)
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        seen = RunningProcess.read(int(entry))
        if seen is None or not is_ours(seen):
            continue
        try:
            descriptor = os.pidfd_open(seen.pid)
        except OSError:
            continue
        again = RunningProcess.read(seen.pid)
        if again is not None and is_ours(again):
            yield descriptor
        else:
            os.close(descriptor)


def _readable(descriptor: int) -> bool:
    """Say whether the pidfd's process has ended."""
    return bool(select.select([descriptor], [], [], 0)[0])


async def _until_ended(descriptors: Sequence[int], seconds: float) -> None:
    """Wait until the processes of all pidfds have ended, or the time is over."""
    loop = asyncio.get_running_loop()
    waiting = set(descriptors)
    all_ended = asyncio.Event()

    def one_ended(descriptor: int) -> None:
        loop.remove_reader(descriptor)
        waiting.discard(descriptor)
        if not waiting:
            all_ended.set()

    for descriptor in descriptors:
        loop.add_reader(descriptor, one_ended, descriptor)
    if waiting:
        with suppress(TimeoutError):
            await asyncio.wait_for(all_ended.wait(), seconds)
    for descriptor in waiting:
        loop.remove_reader(descriptor)
