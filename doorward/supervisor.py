"""Keeps a node's processes running: its services (PostgreSQL, NATS) and its workers.

Rules enforced here:

1. One supervisor to a data folder: a lock on `<data>/lock` that dies with its holder.
2. Services start one after the other, each when the one before is ready. Workers start together with them and wait
   by themselves for what they need: reading their code takes longer than any service. A service that does not start
   the first time stops the node with its reason.
3. Whatever ends later is started again, for ever: at once the first time, then after a pause that doubles up to
   a ceiling, and at once again after it ran calmly.
4. SIGTERM and SIGINT stop the workers together (they drain, until a deadline), then the services in reverse order.
   A second one hurries: what still runs is killed or shut down at once.
5. SIGHUP replaces the workers one at a time: the new one is ready before the old one is asked to stop, and one
   that does not become ready leaves the old one in place and ends the round.
6. A worker is ready when it has written `ready` and a newline to the file descriptor named in
   DOORWARD_READY_FD. One that is not ready in time is killed and counts as ended.
7. From then on its event loop writes a byte to the same descriptor every second. A worker that was silent for
   ten seconds hangs or was stopped: it is killed and counts as ended, so that whatever it leads finds
   another leader. One that drains has only its deadline.
8. When the supervisor dies, whatever kills it, the kernel kills the workers (`embedded/process.py`).
"""

import asyncio
import fcntl
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from doorward.embedded.account import make_data_folder
from doorward.embedded.process import ChildProcess, EmbeddedError, Failure

READY_VARIABLE = "DOORWARD_READY_FD"
READY_LINE = b"ready\n"

log = logging.getLogger("doorward.supervisor")


class Supervised(Protocol):
    """What the supervisor keeps running."""

    @property
    def name(self) -> str:
        """What the log calls it."""

    async def start(self) -> object:
        """Start what of it does not run, and return when it is ready; EmbeddedError when it will not be."""

    async def ended(self) -> str:
        """Wait for its end, and say how it ended."""

    async def stop(self) -> None:
        """End it with its own courtesy and deadline; nothing when it does not run."""

    def hurry(self) -> None:
        """End it now; a stop() under way then returns soon."""


@dataclass(frozen=True)
class BackOff:
    """How long to wait before the next start (rule 3); seconds."""

    first: float = 0.1
    ceiling: float = 10.0
    calm_after: float = 30.0

    def pause(self, previous: float | None, lived: float) -> float:
        """Give the pause after a run of `lived` seconds that began after `previous` (None: the first run)."""
        if previous is None or lived >= self.calm_after:
            return 0.0
        return min(self.ceiling, max(self.first, previous * 2))


@contextmanager
def data_folder_lock(data: Path) -> Iterator[None]:
    """Hold the data folder for this process alone.

    Raises:
        EmbeddedError: another process holds it; its number is in the sentence.
    """
    make_data_folder(data)
    descriptor = os.open(data / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise EmbeddedError(
                Failure.LOCKED, f"{data} is in use by another doorward, process {holder}: stop it, or use --data"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
        yield
    finally:
        os.close(descriptor)


class WorkerProcess(ChildProcess):
    """A worker's process, and the pipe on which it says that it is ready and lives (rules 6 and 7)."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Describe it."""
        self._reading, self._writing = os.pipe()
        super().__init__(command, environment={**environment, READY_VARIABLE: str(self._writing)})
        self._said = b""
        self._heard = 0.0
        self._ready_or_closed = asyncio.Event()

    def begin(self) -> None:
        """Start it, and listen."""
        try:
            self.start(inherited=[self._writing])
        finally:
            os.close(self._writing)
        os.set_blocking(self._reading, False)
        asyncio.get_running_loop().add_reader(self._reading, self._hear)

    async def ready(self) -> bool:
        """Wait until it is ready; False if it closed the pipe before, as one that ends does."""
        await self._ready_or_closed.wait()
        return self._is_ready

    async def silent_for(self, seconds: float) -> None:
        """Wait until nothing was heard of it for so long."""
        loop = asyncio.get_running_loop()
        while (left := self._heard + seconds - loop.time()) > 0:  # noqa: ASYNC110 - waits for what does not happen
            await asyncio.sleep(left)

    @property
    def _is_ready(self) -> bool:
        return READY_LINE in self._said

    def _hear(self) -> None:
        """Take what it said."""
        loop = asyncio.get_running_loop()
        try:
            part = os.read(self._reading, 1024)
        except BlockingIOError:
            return
        self._heard = loop.time()
        if not part:
            loop.remove_reader(self._reading)
            os.close(self._reading)
        elif not self._is_ready:
            self._said = (self._said + part)[-1024 - len(READY_LINE) :]
        if not part or self._is_ready:
            self._ready_or_closed.set()


class Worker:
    """One place among the workers: one process at any time, two while it is being replaced."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        ready_seconds: float = 30.0,
        drain_seconds: float = 30.0,
        silent_seconds: float = 10.0,
    ) -> None:
        """Describe it: `command[0]` is an absolute path; no `environment` means the supervisor's own."""
        self.name = name
        self._command = tuple(command)
        self._environment = dict(os.environ if environment is None else environment)
        self._ready_seconds = ready_seconds
        self._drain_seconds = drain_seconds
        self._silent_seconds = silent_seconds
        self._process: WorkerProcess | None = None
        self._starting: WorkerProcess | None = None
        self._leaving: WorkerProcess | None = None
        self._changing = asyncio.Lock()
        self._replaced = asyncio.Event()

    @property
    def process(self) -> WorkerProcess | None:
        """The process that has this place now."""
        return self._process

    async def start(self) -> None:
        """Start a process, unless one has this place already, and wait until it is ready.

        Raises:
            EmbeddedError: it ended, or was not ready in time and was killed.
        """
        async with self._changing:
            if self._process is None or not self._process.alive:
                self._process = await self._started()

    async def replace(self) -> None:
        """Start a new process and, once it is ready, let the old one drain and end (rule 5).

        Raises:
            EmbeddedError: the new one did not become ready; the old one keeps its place.
        """
        async with self._changing:
            new = await self._started()
            self._leaving, self._process = self._process, new
            self._replaced.set()
            if self._leaving is not None:
                await self._leaving.stop(self._drain_seconds)
                self._leaving = None

    async def ended(self) -> str:
        """Wait until the process that has this place ends, and end it if it falls silent (rule 7).

        One that was replaced does not count.
        """
        while True:
            watched = self._process
            assert watched is not None, "not started"  # noqa: S101 (a programming error, not an input)
            self._replaced.clear()
            silent = asyncio.create_task(watched.silent_for(self._silent_seconds))
            waits = [asyncio.create_task(watched.wait()), asyncio.create_task(self._replaced.wait()), silent]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
            if silent.done() and not silent.cancelled() and watched is self._process and watched.alive:
                watched.send(signal.SIGKILL)
                await watched.wait()
                return f"was silent for {self._silent_seconds:g} s and was killed"
            if watched is self._process and not watched.alive:
                return f"ended with status {watched.returncode}"

    async def stop(self) -> None:
        """Ask it to drain and end; killed after the deadline."""
        await asyncio.gather(*(process.stop(self._drain_seconds) for process in self._all()))

    def hurry(self) -> None:
        """Kill it."""
        for process in self._all():
            process.hurry()

    def _all(self) -> list[WorkerProcess]:
        """Give every process of this place that may still run."""
        return [each for each in (self._process, self._starting, self._leaving) if each is not None]

    async def _started(self) -> WorkerProcess:
        """Start one process and wait until it is ready (rule 6)."""
        process = WorkerProcess(self._command, self._environment)
        process.begin()
        # From here on stop() finds it, also when this start is cancelled.
        self._starting = process
        try:
            async with asyncio.timeout(self._ready_seconds):
                is_ready = await process.ready()
        except TimeoutError:
            await process.stop(0.0)
            sentence = f"{self.name} was not ready in {self._ready_seconds:g} s"
            raise EmbeddedError(Failure.NOT_READY, sentence) from None
        if not is_ready:
            # The pipe closes a moment before the status can be read; one that closed it and lives on is not ready.
            await process.stop(1.0)
            sentence = f"{self.name} ended with status {process.returncode} before it was ready"
            raise EmbeddedError(Failure.ENDED, sentence)
        self._starting = None
        return process


class Supervisor:
    """Starts, keeps and stops everything of one node."""

    def __init__(
        self,
        services: Sequence[Supervised],
        workers: Sequence[Worker],
        *,
        on_ready: Callable[[], Awaitable[None]] | None = None,
        back_off: BackOff | None = None,
    ) -> None:
        """Take the services in the order of their start, and the workers; `on_ready` is awaited once all are ready."""
        self._services = tuple(services)
        self._workers = tuple(workers)
        self._on_ready = on_ready
        self._back_off = back_off or BackOff()
        self._stopping = asyncio.Event()
        self._ready: dict[str, asyncio.Event] = {worker.name: asyncio.Event() for worker in workers}
        self._keepers: list[asyncio.Task[None]] = []
        self._rolling: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT; everything has ended when this returns or raises.

        Raises:
            EmbeddedError: a service did not start the first time.
        """
        loop = asyncio.get_running_loop()
        handlers = {signal.SIGTERM: self.stop, signal.SIGINT: self.stop, signal.SIGHUP: self.roll}
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        began = asyncio.create_task(self._begin())
        stopped = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({began, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if began.done():
                began.result()
            await stopped
        finally:
            await self._end(began, stopped)
            for number in handlers:
                loop.remove_signal_handler(number)

    def stop(self) -> None:
        """Begin to stop; called again, hurry (rule 4)."""
        if not self._stopping.is_set():
            log.info("stopping")
            self._stopping.set()
            return
        log.warning("stopping at once")
        for each in (*self._workers, *self._services):
            each.hurry()

    def roll(self) -> None:
        """Begin to replace the workers one at a time, unless that is under way (rule 5)."""
        if self._stopping.is_set() or (self._rolling is not None and not self._rolling.done()):
            return
        self._rolling = asyncio.create_task(self._replace_workers())

    async def _begin(self) -> None:
        """Start workers together and services in order, then say that all are ready (rule 2)."""
        loop = asyncio.get_running_loop()
        self._keepers.extend(asyncio.create_task(self._keep(worker, None)) for worker in self._workers)
        for service in self._services:
            began = loop.time()
            await service.start()
            log.info("%s is ready after %.2f s", service.name, loop.time() - began)
            self._keepers.append(asyncio.create_task(self._keep(service, began)))
        for ready in self._ready.values():
            await ready.wait()
        if self._on_ready is not None:
            await self._on_ready()

    async def _keep(self, child: Supervised, began: float | None) -> None:
        """Start the child whenever it does not run (rule 3); `began` is the time of a start already made."""
        loop = asyncio.get_running_loop()
        pause: float | None = None
        while True:
            try:
                if began is None:
                    began = loop.time()
                    await child.start()
                    log.info("%s is ready after %.2f s", child.name, loop.time() - began)
                if child.name in self._ready:
                    self._ready[child.name].set()
                reason = await child.ended()
            except EmbeddedError as error:
                reason = str(error)
            except Exception:
                log.exception("%s", child.name)
                reason = "its start failed"
            pause = self._back_off.pause(pause, loop.time() - (began or 0.0))
            log.error("%s: %s; starting it again in %.1f s", child.name, reason, pause)
            await asyncio.sleep(pause)
            began = None

    async def _replace_workers(self) -> None:
        """Replace each worker in turn; the first that cannot be replaced ends the round."""
        for worker in self._workers:
            try:
                await worker.replace()
            except EmbeddedError as error:
                log.error("%s; the old one stays and the round ends", error)  # noqa: TRY400 (the sentence says it all)
                return
            log.info("%s was replaced", worker.name)

    async def _end(self, *tasks: asyncio.Task[None] | asyncio.Task[bool]) -> None:
        """Stop restarting, then stop workers together and services in reverse order."""
        rolling = [self._rolling] if self._rolling is not None else []
        ending = [*tasks, *self._keepers, *rolling]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        await asyncio.gather(*(worker.stop() for worker in self._workers))
        for service in reversed(self._services):
            await service.stop()
            log.info("%s stopped", service.name)
