"""What the device commands do: options to `est.client`, and its answers to a person or a program.

1. Each command holds the folder's lock while it changes it, and only then.
2. Server and label of an enrolment are remembered in `est.json`, since a device renews where and as what it enrolled.
3. People are told on standard error how the waiting goes; standard output has the result alone, and with --json one
   JSON value (`renew --watch`: one for each event, a line each).
"""

import argparse
import json
import shlex
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import random

import orjson
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from rich.console import Console

from certs.csrattrs import WantedRequest
from certs.errors import CertificateRefused
from certs.pem import fingerprint_sha256, write_certificates
from doorward.commands.device.outcome import Exit, failed, interrupted, unusable
from doorward.commands.login import trusted_root
from doorward.commands.printing import print_json, print_lines
from est.client import BasicSecret, BearerToken, EstClient, EstFailure, KeyKind
from est.client.client import Authorization
from est.client.device import Server, Wish, enrol, renew, until_approved
from est.client.files import FolderBusy, write_whole
from est.client.folder import DeviceFolder, FolderUnusable, read
from est.client.renewal import Moment, Window, life
from est.client.trust import is_root
from est.client.watch import Command, Watch, read_status, serial_of
from iam.errors import Refused

_URL = "https://127.0.0.1:9443"
_SETTINGS = "est.json"


def _cacerts(parsed: argparse.Namespace) -> Exit:
    client = _stranger(parsed)
    found = client.cacerts()
    if parsed.out is not None:
        parsed.out.mkdir(parents=True, exist_ok=True)
        write_whole(parsed.out / "cacerts.pem", write_certificates(found))
        if parsed.fingerprint is not None and not (parsed.out / "root.pem").exists():
            DeviceFolder(parsed.out).keep_roots(client.anchors())
    shown = [_shown_authority(one) for one in found]
    if parsed.json:
        print_json({"authorities": shown})
        return Exit.DONE
    for one in shown:
        root = " (root)" if one["isRoot"] else ""
        print_lines(f"{one['subject']}{root}, until {one['notAfter']}", f"  SHA-256 {one['sha256']}")
    return Exit.DONE


def _csrattrs(parsed: argparse.Namespace) -> Exit:
    shown = _shown_wanted(_stranger(parsed).csrattrs())
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
        server = _server(parsed, identifier)
        _keep_root(parsed, folder, server)
        wish, anew = _wish(parsed), parsed.start_over

        def ask() -> x509.Certificate:
            nonlocal anew
            begins, anew = anew, False  # while approval is waited for, the key stays the same
            return enrol(folder, server, wish, anew=begins)

        certificate = _approved(parsed, identifier, ask)
        _remember(folder, server)
        return _shown_certificate(folder, certificate, as_json=parsed.json)


def _renew(parsed: argparse.Namespace) -> Exit:
    folder = DeviceFolder(parsed.out)
    command = _command(parsed)
    with folder.lock():
        folder.recover()
        identifier = folder.identifier()
        server = _server(parsed, identifier)
        _keep_root(parsed, folder, server)
        if parsed.start_over:
            folder.give_up()
        wish = _wish(parsed)
        if not parsed.watch:
            renewed = _approved(parsed, identifier, lambda: renew(folder, server, wish, rekey=parsed.rekey))
            _remember(folder, server)
            exit_status = _shown_certificate(folder, renewed, as_json=parsed.json)
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
        "keyIsWaiting": folder.pending_key() is not None,
    }
    exit_status = Exit.NOT_VALID
    if certificate is not None:
        now = datetime.now(UTC)
        standing = life(certificate, Window(parsed.before))
        moment = standing.moment(now)
        exit_status = {Moment.VALID: Exit.DONE, Moment.DUE: Exit.DUE}.get(moment, Exit.NOT_VALID)
        shown |= {
            "state": moment,
            "serial": serial_of(certificate),
            "issuer": certificate.issuer.rfc4514_string(),
            "notBefore": standing.begins.isoformat(),
            "notAfter": standing.ends.isoformat(),
            "renewalDue": standing.due.isoformat(),
            "daysLeft": (standing.ends - now).days,
            "keyFits": folder.is_pair(),
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
        _print_status(shown)
    return exit_status


def _print_status(shown: dict[str, object]) -> None:
    watched = shown.pop("watch", None)
    width = max(map(len, shown))
    print_lines(*(f"{name:<{width}}  {_word(value)}" for name, value in shown.items()))
    if isinstance(watched, dict):
        print_lines("watch", *(f"  {name:<{width - 2}}  {value}" for name, value in watched.items() if value))


def _word(value: object) -> object:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else value


# --- What the options say -------------------------------------------------------------------------------------------


def _stranger(parsed: argparse.Namespace) -> EstClient:
    """Return a client for what may be asked by anybody."""
    url, label = _place(parsed, parsed.out)
    seconds = parsed.timeout.total_seconds()
    if parsed.fingerprint is not None:
        return EstClient(url, root_sha256=parsed.fingerprint, label=label, timeout_seconds=seconds)
    root = trusted_root(parsed.root, parsed.out or Path())
    return EstClient(url, anchors=read(root), label=label, timeout_seconds=seconds)


def _server(parsed: argparse.Namespace, identifier: str) -> Server:
    url, label = _place(parsed, parsed.out)
    authorization = _authorization(parsed, identifier)
    return Server(url, label, authorization, parsed.timeout.total_seconds())


def _place(parsed: argparse.Namespace, folder: Path | None) -> tuple[str, str | None]:
    """Return URL and label: as said, as remembered, or as it is usual (rule 2)."""
    remembered: dict[str, str | None] = {}
    if folder is not None:
        with suppress(OSError, ValueError):
            remembered = json.loads((folder / _SETTINGS).read_bytes())
    label = parsed.label if parsed.label is not None else remembered.get("label")
    return parsed.url or remembered.get("url") or _URL, label or None


def _remember(folder: DeviceFolder, server: Server) -> None:
    content = json.dumps({"url": server.url, "label": server.label}).encode() + b"\n"
    file = folder.path / _SETTINGS
    if not file.exists() or file.read_bytes() != content:
        write_whole(file, content)


def _keep_root(parsed: argparse.Namespace, folder: DeviceFolder, server: Server) -> None:
    """See to it that the folder says whom to trust."""
    if parsed.fingerprint is not None:
        client = EstClient(server.url, root_sha256=parsed.fingerprint, label=server.label)
        folder.keep_roots(client.anchors())
    elif parsed.root is not None:
        folder.keep_roots(read(parsed.root))
    elif not folder.root.exists():
        folder.keep_roots(read(trusted_root(None, folder.path)))


def _authorization(parsed: argparse.Namespace, identifier: str) -> Authorization | None:
    if parsed.secret_file is not None:
        return BasicSecret(parsed.user or identifier, _line(parsed.secret_file))
    if parsed.token_file is not None:
        return BearerToken(_line(parsed.token_file))
    return None


def _line(file: Path) -> str:
    return read(file).decode("utf-8", "replace").strip()


def _wish(parsed: argparse.Namespace) -> Wish:
    kind = KeyKind(parsed.key_type) if parsed.key_type else None
    return Wish(kind, getattr(parsed, "prove", None), follows_roots=not getattr(parsed, "keep_root", False))


def _command(parsed: argparse.Namespace) -> Command | None:
    if parsed.shell_command is not None:
        return Command(("/bin/sh", "-c", parsed.shell_command))
    if parsed.command is not None:
        try:
            arguments = tuple(shlex.split(parsed.command))
        except ValueError as error:
            raise FolderUnusable(f"--exec: {error}.") from error
        return Command(arguments) if arguments else None
    return None


# --- Waiting, and what is shown -------------------------------------------------------------------------------------


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
                console.print(f"{failure} Asking again in {pause.total_seconds():.0f} s.", markup=False)
            while (left := ends - time.monotonic()) > 0:
                waited = timedelta(seconds=int(time.monotonic() - began))
                shown.update(f"{identifier} waits for approval since {waited}; asking again in {left:.0f} s")
                time.sleep(min(1.0, left))

        at_most = None if parsed.wait == timedelta.max else parsed.wait
        return until_approved(ask, wait=wait, at_most=at_most)


def _shown_certificate(folder: DeviceFolder, certificate: x509.Certificate, *, as_json: bool) -> Exit:
    serial, until = serial_of(certificate), certificate.not_valid_after_utc.isoformat()
    if as_json:
        files = {"certificate": str(folder.own.certificate), "key": str(folder.own.key)}
        print_json({**files, "serial": serial, "notAfter": until})
    else:
        print_lines(f"Certificate {serial}, valid until {until}:", f"  {folder.own.certificate}", f"  {folder.own.key}")
    return Exit.DONE


def _shown_authority(certificate: x509.Certificate) -> dict[str, object]:
    return {
        "subject": certificate.subject.rfc4514_string(),
        "notAfter": certificate.not_valid_after_utc.isoformat(),
        "isRoot": is_root(certificate),
        "sha256": fingerprint_sha256(certificate.public_bytes(Encoding.DER)),
    }


def _shown_wanted(wanted: WantedRequest) -> dict[str, object]:
    key = None
    if wanted.key is not None:
        name = "EC" if wanted.key.algorithm is None else wanted.key.algorithm.value
        key = name if wanted.key.rsa_bits is None else f"{name}-{wanted.key.rsa_bits}"
    return {
        "proofOfPossession": wanted.challenge_password,
        "key": key,
        "signature": wanted.signature.dotted_string if wanted.signature else None,
        "subject": [{"type": one.oid.dotted_string, "value": one.value} for one in wanted.subject],
        "extensions": [
            {
                "type": one.oid.dotted_string,
                "critical": one.critical,
                "value": one.value.hex() if one.value is not None else None,
            }
            for one in wanted.extensions
        ],
        "unknown": [one.dotted_string for one in wanted.unknown],
    }


def _guarded(command: Callable[[argparse.Namespace], Exit]) -> Callable[[argparse.Namespace], int]:
    """Turn whatever ends a command into its exit status and its words."""

    def run(parsed: argparse.Namespace) -> int:
        try:
            return command(parsed)
        except EstFailure as failure:
            return failed(failure, as_json=parsed.json)
        except (FolderUnusable, FolderBusy, CertificateRefused, Refused, ValueError) as error:
            sentence = str(error)
            return unusable(sentence[:1].upper() + sentence[1:].rstrip(".") + ".", as_json=parsed.json)
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
        "status": _status,
    }.items()
}
