"""What the device commands do: options to `est.client`, and its answers to a person or a program.

1. Each command holds the folder's lock while it changes it, and only then.
2. People are told on standard error how the waiting goes; standard output has the result alone, and with --json one
   JSON value (`renew --watch`: one for each event, a line each).
"""

import argparse
import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from random import random

import orjson
from cryptography import x509
from rich.console import Console

from certs.errors import CertificateRefused
from certs.pem import write_certificates
from doorward.commands.device.given import (
    command_of,
    keep_root,
    opener_for,
    remember,
    server_of,
    stranger,
    wish_of,
)
from doorward.commands.device.outcome import Exit, failed, interrupted, unusable
from doorward.commands.device.shown import print_status, show_certificate, shown_authority, shown_wanted
from doorward.commands.printing import print_json, print_lines
from est.client import EstFailure
from est.client.device import Server, Wish, enrol, have_key_made, renew, until_approved
from est.client.files import FolderBusy, write_whole
from est.client.folder import DeviceFolder, FolderUnusable
from est.client.keys import KeyUnusable
from est.client.own import key_fits
from est.client.renewal import Moment, Window, life
from est.client.watch import Command, Watch, read_status, serial_of
from iam.errors import Refused


def _cacerts(parsed: argparse.Namespace) -> Exit:
    client = stranger(parsed)
    found = client.cacerts()
    if parsed.out is not None:
        parsed.out.mkdir(parents=True, exist_ok=True)
        write_whole(parsed.out / "cacerts.pem", write_certificates(found))
        if parsed.fingerprint is not None and not (parsed.out / "root.pem").exists():
            DeviceFolder(parsed.out).keep_roots(client.anchors())
    shown = [shown_authority(one) for one in found]
    if parsed.json:
        print_json({"authorities": shown})
        return Exit.DONE
    for one in shown:
        root = " (root)" if one["isRoot"] else ""
        print_lines(f"{one['subject']}{root}, until {one['notAfter']}", f"  SHA-256 {one['sha256']}")
    return Exit.DONE


def _csrattrs(parsed: argparse.Namespace) -> Exit:
    shown = shown_wanted(stranger(parsed).csrattrs())
    if parsed.json:
        print_json(shown)
    elif not any(shown.values()):
        print_lines("The server wants nothing in particular.")
    else:
        print_lines(*(f"{name}: {value}" for name, value in shown.items() if value))
    return Exit.DONE


def _enroll(parsed: argparse.Namespace) -> Exit:
    folder = DeviceFolder(parsed.out)
    parsed.out.mkdir(parents=True, exist_ok=True)
    with folder.lock():
        if parsed.identifier is not None:
            folder.keep_identifier(parsed.identifier)
        identifier = folder.identifier()
        server = server_of(parsed)
        keep_root(parsed, folder, server)
        wish, anew = wish_of(parsed, folder), parsed.start_over

        def ask() -> x509.Certificate:
            nonlocal anew
            begins, anew = anew, False  # while approval is waited for, the key stays the same
            return enrol(folder, server, wish, anew=begins)

        certificate = _approved(parsed, identifier, ask)
        remember(folder, server)
        return show_certificate(folder, certificate, as_json=parsed.json)


def _serverkeygen(parsed: argparse.Namespace) -> Exit:
    folder = DeviceFolder(parsed.out)
    with folder.lock():
        if parsed.identifier is not None:
            folder.keep_identifier(parsed.identifier)
        identifier = folder.identifier()
        server = server_of(parsed)
        keep_root(parsed, folder, server)
        opener = opener_for(parsed, folder)
        certificate = _approved(parsed, identifier, lambda: have_key_made(folder, server, Wish(), opener))
        remember(folder, server)
        return show_certificate(folder, certificate, as_json=parsed.json)


def _renew(parsed: argparse.Namespace) -> Exit:
    folder = DeviceFolder(parsed.out)
    command = command_of(parsed)
    with folder.lock():
        folder.recover()
        identifier = folder.identifier()
        server = server_of(parsed)
        keep_root(parsed, folder, server)
        if parsed.start_over:
            folder.give_up()
        wish = wish_of(parsed, folder)
        if not parsed.watch:
            renewed = _approved(parsed, identifier, lambda: renew(folder, server, wish, rekey=parsed.rekey))
            remember(folder, server)
            exit_status = show_certificate(folder, renewed, as_json=parsed.json)
            if command is not None and (wrong := command.run(folder, renewed)) is not None:
                sys.stderr.write(f"doorward: The certificate is renewed, but the command failed: {wrong}\n")
                return Exit.REFUSED
            return exit_status
    return _watch(parsed, folder, server, wish, command)


def _watch(
    parsed: argparse.Namespace, folder: DeviceFolder, server: Server, wish: Wish, command: Command | None
) -> Exit:
    def report(event: str, about: dict[str, object]) -> None:
        if parsed.json:
            line = {"event": event, "time": datetime.now(UTC).isoformat(), **about}
            sys.stdout.write(orjson.dumps(line).decode() + "\n")
        else:
            sys.stdout.write(f"{event}: " + ", ".join(f"{name} {value}" for name, value in about.items()) + "\n")
        sys.stdout.flush()

    watch = Watch(
        folder,
        server,
        wish,
        rekey=parsed.rekey,
        window=Window(parsed.before, parsed.jitter),
        command=command,
        report=report,
        chance=random,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: watch.stop())
    signal.signal(signal.SIGHUP, lambda *_: watch.renew_now())
    watch.run()
    report("stopped", {})
    return Exit.DONE


def _status(parsed: argparse.Namespace) -> Exit:
    folder = DeviceFolder(parsed.out)
    if not parsed.out.is_dir():
        raise FolderUnusable(f"There is no folder {parsed.out}.")
    certificate = folder.certificate()
    watched = read_status(folder)
    shown: dict[str, object] = {
        "deviceIdentifier": folder.identifier(),
        "state": "none",
        "keyIsWaiting": folder.pending() is not None,
    }
    exit_status = Exit.NOT_VALID
    if certificate is not None:
        now = datetime.now(UTC)
        standing = life(certificate, Window(parsed.before))
        moment = standing.moment(now)
        fits = key_fits(folder)
        if fits is not False:
            exit_status = {Moment.VALID: Exit.DONE, Moment.DUE: Exit.DUE}.get(moment, Exit.NOT_VALID)
        shown |= {
            "state": moment,
            "serial": serial_of(certificate),
            "issuer": certificate.issuer.rfc4514_string(),
            "notBefore": standing.begins.isoformat(),
            "notAfter": standing.ends.isoformat(),
            "renewalDue": standing.due.isoformat(),
            "daysLeft": (standing.ends - now).days,
            "keyFits": fits,
        }
    if watched is not None:
        shown["watch"] = {
            "state": watched.state,
            "failures": watched.failures,
            "failure": watched.failure,
            "detail": watched.detail,
            "lastSuccess": watched.lastSuccess,
            "nextAttempt": watched.nextAttempt,
            "commandFailed": watched.commandFailed,
        }
    if parsed.json:
        print_json(shown)
    else:
        print_status(shown)
    return exit_status


def _approved(parsed: argparse.Namespace, identifier: str, ask: Callable[[], x509.Certificate]) -> x509.Certificate:
    """Ask, and wait for approval if that is wanted, saying how it goes."""
    if parsed.wait is None:
        return ask()
    console = Console(stderr=True, highlight=False)
    began = time.monotonic()
    with console.status(f"Enrolling {identifier}") as shown:

        def wait(pause: timedelta, failure: EstFailure) -> None:
            ends = time.monotonic() + pause.total_seconds()
            if not console.is_terminal:
                asking = f"{failure} Asking again in {pause.total_seconds():.0f} s."
                console.print(asking, markup=False, soft_wrap=True)
            while (left := ends - time.monotonic()) > 0:
                waited = timedelta(seconds=int(time.monotonic() - began))
                shown.update(f"{identifier} waits for approval since {waited}; asking again in {left:.0f} s")
                time.sleep(min(1.0, left))

        at_most = None if parsed.wait == timedelta.max else parsed.wait
        return until_approved(ask, wait=wait, at_most=at_most)


def _guarded(command: Callable[[argparse.Namespace], Exit]) -> Callable[[argparse.Namespace], int]:
    """Turn whatever ends a command into its exit status and its words."""

    def run(parsed: argparse.Namespace) -> int:
        try:
            return command(parsed)
        except EstFailure as failure:
            return failed(failure, as_json=parsed.json)
        except (FolderUnusable, FolderBusy, KeyUnusable, CertificateRefused, Refused, ValueError) as error:
            return unusable(str(error), as_json=parsed.json)
        except OSError as error:
            return unusable(f"{error.filename or parsed.out}: {error.strerror}.", as_json=parsed.json)
        except KeyboardInterrupt:
            return interrupted(as_json=parsed.json)

    return run


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    name: _guarded(command)
    for name, command in {
        "cacerts": _cacerts,
        "csrattrs": _csrattrs,
        "enroll": _enroll,
        "renew": _renew,
        "serverkeygen": _serverkeygen,
        "status": _status,
    }.items()
}
