"""A device that renews by itself, for years: what it does next, and what it remembers.

1. It renews when the certificate is due (`est.client.renewal`), and at once when told to (`renew_now`). It looks at the
   clock at least once a minute, so that a clock that is set, or a night's sleep of the machine, changes nothing.
2. After a success it runs a command, once for each certificate. If it was killed in between, or the command failed, it
   runs it later: `commandRanFor` says for which certificate it ran last.
3. After a failure it waits as `est.client.renewal` says, also across a restart. It ends only when told to: an operator
   may mend tomorrow what is refused today.
4. A key in a token is looked at when it begins, so that a wrong PIN is told at once and not on the day of the renewal;
   it goes on nevertheless, since the token may come later than the device.
5. What it does stands in `status.json`, written whole, and in the events that it reports.
6. It holds the folder's lock only while it works.
"""

import json
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from os import environ
from threading import Event

from cryptography import x509

from est.client.device import Server, Wish, check_renewable, renew
from est.client.failure import EstFailure, Failure
from est.client.files import FolderBusy, write_whole
from est.client.folder import DeviceFolder, FolderUnusable
from est.client.keys import KeyUnusable
from est.client.own import check_usable
from est.client.renewal import Moment, Window, life, wait_after_failure, wait_for_approval

_LONGEST_SLEEP = timedelta(minutes=1)
_BUSY_SLEEP = timedelta(seconds=2)
_COMMAND_SECONDS = 60
_FOLDER = "folder"  # what failed is here, and not the server
_COMMAND_OUTPUT_CHARACTERS = 300


class State(StrEnum):
    """What the watch is doing."""

    WAITING = "waiting"
    """The certificate is not due yet."""
    PENDING = "pending"
    """The renewal waits for an operator's approval."""
    FAILING = "failing"
    """The last attempt failed."""


@dataclass(frozen=True, slots=True)
class Status:
    """What `status.json` says; times are ISO 8601 in UTC, serial numbers 32 hexadecimal digits or more."""

    state: State = State.WAITING
    serial: str = ""
    notAfter: str = ""  # noqa: N815 - as it stands in the file
    due: str = ""
    lastSuccess: str | None = None  # noqa: N815 - the same
    nextAttempt: str | None = None  # noqa: N815 - the same
    failures: int = 0
    failure: str | None = None
    detail: str | None = None
    commandRanFor: str | None = None  # noqa: N815 - the same
    commandFailed: str | None = None  # noqa: N815 - the same
    updated: str = ""


@dataclass(frozen=True, slots=True)
class Command:
    """What runs after a success: a program with its arguments, and no shell unless that is the program."""

    arguments: tuple[str, ...]

    def run(self, folder: DeviceFolder, certificate: x509.Certificate) -> str | None:
        """Run it, with the names of the files in its environment; return what went wrong, or None."""
        environment = {
            **environ,
            "DOORWARD_DEVICE": folder.identifier(),
            "DOORWARD_CERTIFICATE": str(folder.own.certificate.absolute()),
            "DOORWARD_KEY": str((folder.own.key if folder.token_key() is None else folder.uri).absolute()),
            "DOORWARD_ROOT": str(folder.root.absolute()),
            "DOORWARD_SERIAL": serial_of(certificate),
            "DOORWARD_NOT_AFTER": certificate.not_valid_after_utc.isoformat(),
        }
        try:
            done = subprocess.run(  # noqa: S603 - the command that the device's owner gave, without a shell
                self.arguments,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=_COMMAND_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        if done.returncode == 0:
            return None
        said = " ".join(done.stdout.decode("utf-8", "replace").split())[-_COMMAND_OUTPUT_CHARACTERS:]
        return f"status {done.returncode}: {said}".rstrip(": ")


class Watch:
    """Renews the certificate of a folder until it is told to stop.

    Args:
        report: Is told each thing that happens: its name, and what belongs to it.
        chance: Draws evenly from 0 to 1.
    """

    def __init__(
        self,
        folder: DeviceFolder,
        server: Server,
        wish: Wish,
        *,
        rekey: bool = False,
        window: Window,
        command: Command | None,
        report: Callable[[str, dict[str, object]], None],
        chance: Callable[[], float],
    ) -> None:
        self._folder = folder
        self._server = server
        self._wish = wish
        self._rekey = rekey
        self._window = window
        self._command = command
        self._report = report
        self._chance = chance
        self._status = self._written = Status()
        self._stop, self._wake, self._is_told = Event(), Event(), False

    def stop(self) -> None:
        """End `run` after what it does now; for a signal handler."""
        self._stop.set()
        self._wake.set()

    def renew_now(self) -> None:
        """Renew at once, due or not; for a signal handler."""
        self._is_told = True
        self._wake.set()

    def run(self) -> None:
        """Watch until told to stop.

        Raises:
            FolderUnusable: There is nothing to watch.
            ValueError: The server's URL is none.
        """
        self._begin()
        while not self._stop.is_set():
            pause = self.step()
            self._wake.wait(min(pause, _LONGEST_SLEEP).total_seconds())
            self._wake.clear()

    def step(self) -> timedelta:
        """Do what is to be done now; return how long nothing will be."""
        try:
            with self._folder.lock():
                return self._step()
        except FolderBusy:
            return _BUSY_SLEEP
        except (FolderUnusable, KeyUnusable, OSError) as error:
            # Not even what failed can be written down: a full disk, a file that somebody took away.
            self._report("failed", {"failure": _FOLDER, "detail": str(error), "nextAttempt": None})
            return _LONGEST_SLEEP

    def _begin(self) -> None:
        with self._folder.lock():
            self._folder.recover()
            certificate = self._certificate()
            check_renewable(self._folder)
            self._status = read_status(self._folder) or Status(commandRanFor=serial_of(certificate))
            self._server.client(self._folder.root.read_bytes())  # which says at once if the URL is none
            # A clock that was set back since would make the wait of an earlier run endless.
            if (at := _time(self._status.nextAttempt)) and at - self._server.clock() > timedelta(days=1):
                self._status = replace(self._status, nextAttempt=None)
            standing = life(certificate, self._window)
            self._write(certificate)
            self._report("watching", {"serial": serial_of(certificate), "due": standing.due.isoformat()})
            try:
                check_usable(self._folder)
            except (FolderUnusable, KeyUnusable) as error:
                self._report("key-unusable", {"detail": str(error)})

    def _step(self) -> timedelta:
        self._folder.recover()
        certificate = self._certificate()
        self._run_command(certificate)
        now = self._server.clock()
        standing = life(certificate, self._window)
        told, self._is_told = self._is_told, False
        waits_until = _time(self._status.nextAttempt) or standing.due
        if told or (standing.moment(now) in {Moment.DUE, Moment.EXPIRED} and now >= waits_until):
            certificate = self._attempt(certificate)
            self._run_command(certificate)
            standing = life(certificate, self._window)
        self._write(certificate)
        next_look = _time(self._status.nextAttempt) or standing.due
        return max(timedelta(seconds=1), next_look - self._server.clock())

    def _attempt(self, certificate: x509.Certificate) -> x509.Certificate:
        """Renew; return the certificate that there is then."""
        try:
            renewed = renew(self._folder, self._server, self._wish, rekey=self._rekey)
        except EstFailure as failure:
            self._failed(failure.failure, str(failure), failure.retry_after, certificate)
            return certificate
        except (FolderUnusable, KeyUnusable, OSError) as error:
            self._failed(_FOLDER, str(error), None, certificate)
            return certificate
        now = self._server.clock().isoformat()
        self._status = Status(lastSuccess=now, commandRanFor=self._status.commandRanFor)
        self._write(renewed)
        self._report("renewed", {"serial": serial_of(renewed), "notAfter": renewed.not_valid_after_utc.isoformat()})
        return renewed

    def _failed(self, failure: str, detail: str, retry_after: int | None, certificate: x509.Certificate) -> None:
        now = self._server.clock()
        left = certificate.not_valid_after_utc - now
        if failure == Failure.PENDING:
            state, failures, wait = State.PENDING, 0, wait_for_approval(left, retry_after)
        else:
            state, failures = State.FAILING, self._status.failures + 1
            wait = wait_after_failure(failures, left, self._chance(), retry_after)
        self._status = replace(
            self._status,
            state=state,
            failures=failures,
            failure=str(failure),
            detail=detail,
            nextAttempt=(now + wait).isoformat(),
        )
        self._write(certificate)
        told = {"failure": str(failure), "detail": detail, "nextAttempt": self._status.nextAttempt}
        self._report("pending" if failure == Failure.PENDING else "failed", dict(told))

    def _run_command(self, certificate: x509.Certificate) -> None:
        """Run the command if it did not run for this certificate yet (rule 2)."""
        serial = serial_of(certificate)
        if self._status.commandRanFor == serial:
            return
        failed = self._command.run(self._folder, certificate) if self._command is not None else None
        if failed is not None:
            self._status = replace(self._status, commandFailed=failed)
            self._write(certificate)
            self._report("command-failed", {"serial": serial, "detail": failed})
            return
        self._status = replace(self._status, commandRanFor=serial, commandFailed=None)
        self._write(certificate)
        if self._command is not None:
            self._report("command-ran", {"serial": serial})

    def _certificate(self) -> x509.Certificate:
        certificate = self._folder.certificate()
        if certificate is None:
            raise FolderUnusable(f"{self._folder.own.certificate} is not there: enrol first.")
        return certificate

    def _write(self, certificate: x509.Certificate) -> None:
        standing = life(certificate, self._window)
        status = replace(
            self._status,
            serial=serial_of(certificate),
            notAfter=standing.ends.isoformat(),
            due=standing.due.isoformat(),
            updated=self._server.clock().isoformat(),
        )
        if replace(status, updated="") != replace(self._written, updated=""):
            write_whole(self._folder.status, json.dumps(asdict(status), indent=2).encode() + b"\n")
            self._written = status
        self._status = status


def serial_of(certificate: x509.Certificate) -> str:
    """Return a certificate's serial number in hexadecimal."""
    return f"{certificate.serial_number:032x}"


def read_status(folder: DeviceFolder) -> Status | None:
    """Return what a watch wrote last; None if nothing can be read there."""
    with suppress(OSError, ValueError, TypeError):
        read = Status(**json.loads(folder.status.read_bytes()))
        return replace(read, state=State(read.state))
    return None


def _time(text: str | None) -> datetime | None:
    with suppress(ValueError):
        return datetime.fromisoformat(text) if text else None
    return None
