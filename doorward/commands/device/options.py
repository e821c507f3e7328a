"""What may be asked of `doorward device`, beside `bootstrap`; what is done stands in `run.py`."""

import argparse
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

KEY_KINDS = (
    "P-256", "P-384", "P-521", "Ed25519", "RSA-2048", "RSA-3072", "RSA-4096", "ML-DSA-44", "ML-DSA-65", "ML-DSA-87",
)  # fmt: skip
"""The names of `est.client.KeyKind`, which is not imported for --help."""

_EXITS = (
    "Exit status: 0 done; 1 refused, or the folder cannot be used; 2 command line not understood; 3 not approved yet; "
    "4 server away or busy; 5 server not trusted; 6 no EST server; 130 interrupted. What failed with 3, 4 or 130 goes "
    "on when it is called again."
)
_STATUS_EXITS = (
    "Exit status: 0 valid; 7 due for renewal; 8 no certificate, not its key, or not valid now; 1 the folder cannot be "
    "read. The server is not asked."
)
_DURATION = re.compile(r"(\d{1,6})([smhd])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

Commands = argparse._SubParsersAction  # noqa: SLF001 - argparse gives the type of `add_subparsers` no public name


def add_device_commands(commands: "Commands[argparse.ArgumentParser]") -> None:
    """Add the commands that speak with a server as a device does."""
    _add_cacerts(commands)
    _add_csrattrs(commands)
    _add_enroll(commands)
    _add_renew(commands)
    _add_keygen(commands)
    _add_status(commands)


def _add_cacerts(commands: "Commands[argparse.ArgumentParser]") -> None:
    cacerts = _command(commands, "cacerts", "show the authorities of a server, and keep its root by a fingerprint")
    _with_server(cacerts)
    cacerts.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for cacerts.pem, and root.pem by --fingerprint"
    )
    cacerts.set_defaults(run=_run("cacerts"))


def _add_csrattrs(commands: "Commands[argparse.ArgumentParser]") -> None:
    csrattrs = _command(commands, "csrattrs", "show what the server wants a request to hold")
    _with_server(csrattrs)
    csrattrs.add_argument("--out", type=Path, metavar="DIR", help="the device's folder, for root.pem")
    csrattrs.set_defaults(run=_run("csrattrs"))


def _add_enroll(commands: "Commands[argparse.ArgumentParser]") -> None:
    enroll = _command(
        commands, "enroll", "get the device's first certificate: with a bootstrap certificate, a secret or a token"
    )
    _with_folder(enroll)
    _with_server(enroll)
    _with_proof(enroll)
    _with_request(enroll)
    _with_waiting(enroll)
    enroll.add_argument("--id", dest="identifier", help="device identifier, if device.id does not say it")
    token = _with_token(enroll, "have the device's own key in a PKCS#11 token; needs doorward[pkcs11]")
    token.add_argument("--pkcs11-key", metavar="LABEL", help="the label of a key that is there already")
    enroll.add_argument("--start-over", action="store_true", help="give up a key that waits, and begin with a new one")
    enroll.set_defaults(run=_run("enroll"))


def _add_renew(commands: "Commands[argparse.ArgumentParser]") -> None:
    renew = _command(commands, "renew", "renew the device's certificate with the one it has; --watch: for good")
    _with_folder(renew)
    _with_server(renew)
    _with_request(renew)
    _with_waiting(renew)
    renew.add_argument("--rekey", action="store_true", help="with a new key; the same key if not said")
    renew.add_argument("--start-over", action="store_true", help="give up a key that waits for its certificate")
    _with_token(renew, "a PKCS#11 token for a new key, or another way to the present one (default: as device.uri says)")
    renew.add_argument(
        "--keep-root", action="store_true", help="do not take in the successor of the root that the server names"
    )
    watch = renew.add_argument_group("renewing by itself")
    _with_window(watch)
    watch.add_argument("--watch", action="store_true", help="stay, and renew whenever it is due; SIGHUP: renew now")
    watch.add_argument(
        "--jitter", type=_part, default=0.1, metavar="X", help="part of the window to spread over (default: 0.1)"
    )
    runs = watch.add_mutually_exclusive_group()
    runs.add_argument(
        "--exec",
        dest="command",
        metavar="COMMAND",
        help="run this after a success, without a shell; DOORWARD_CERTIFICATE, DOORWARD_KEY and others name the files",
    )
    runs.add_argument("--exec-shell", dest="shell_command", metavar="COMMAND", help="the same, by /bin/sh -c")
    renew.set_defaults(run=_run("renew"))


def _add_keygen(commands: "Commands[argparse.ArgumentParser]") -> None:
    keygen = _command(commands, "serverkeygen", "get a key that the server makes, with its certificate")
    _with_folder(keygen)
    _with_server(keygen)
    _with_proof(keygen)
    keygen.add_argument("--id", dest="identifier", help="device identifier, if device.id does not say it")
    opens = keygen.add_mutually_exclusive_group()
    opens.add_argument(
        "--encrypted", action="store_true", help="have the key encrypted to that of the bootstrap certificate"
    )
    opens.add_argument("--decrypt-key", type=Path, metavar="F", help="the same, to this private key (PEM; RSA, EC)")
    opens.add_argument("--decrypt-secret", type=Path, metavar="F", help="the same, under this secret, in hexadecimal")
    keygen.add_argument("--decrypt-id", metavar="HEX", help="how the server knows that key or secret")
    _with_waiting(keygen)
    keygen.set_defaults(run=_run("serverkeygen"))


def _add_status(commands: "Commands[argparse.ArgumentParser]") -> None:
    status = _command(commands, "status", "say how the device's certificate stands", _STATUS_EXITS)
    _with_folder(status)
    _with_json(status)
    _with_window(status)
    status.set_defaults(run=_run("status"))


def _command(
    commands: "Commands[argparse.ArgumentParser]", name: str, about: str, epilog: str = _EXITS
) -> argparse.ArgumentParser:
    return commands.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".", epilog=epilog)


def _with_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _with_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the device's folder")


def _with_server(parser: argparse.ArgumentParser) -> None:
    _with_json(parser)
    server = parser.add_argument_group("the server")
    server.add_argument(
        "--url", metavar="U", help="where it is (default: where the device enrolled, or https://127.0.0.1:9443)"
    )
    server.add_argument("--label", help="enrolment profile (default: that of the enrolment; '': none)")
    trust = server.add_mutually_exclusive_group()
    trust.add_argument(
        "--root", type=Path, metavar="F", help="root certificate to trust (default: root.pem in the folder, or var's)"
    )
    trust.add_argument("--fingerprint", metavar="SHA256", help="trust the root of this fingerprint, and keep it")
    server.add_argument(
        "--timeout", type=_duration, default=timedelta(seconds=15), metavar="D", help="for one exchange (default: 15s)"
    )


def _with_token(parser: argparse.ArgumentParser, title: str) -> argparse._ArgumentGroup:
    token = parser.add_argument_group(title)
    token.add_argument("--pkcs11-module", type=Path, metavar="F", help="the token's library")
    token.add_argument("--pkcs11-token", metavar="LABEL", help="the token's label")
    token.add_argument("--pkcs11-pin-file", type=Path, metavar="F", help="the file that holds its user's PIN")
    return token


def _with_proof(parser: argparse.ArgumentParser) -> None:
    proof = parser.add_argument_group("instead of a bootstrap certificate, or beside it")
    proof.add_argument("--user", metavar="NAME", help="user for --secret-file (default: the label)")
    shown = proof.add_mutually_exclusive_group()
    shown.add_argument("--secret-file", type=Path, metavar="F", help="enrolment secret, for HTTP Basic")
    shown.add_argument("--token-file", type=Path, metavar="F", help="bearer token (JWT)")


def _with_request(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--key-type", choices=KEY_KINDS, metavar="KIND", help=f"of a new key (default: as the server asks): {_kinds()}"
    )
    parser.add_argument(
        "--prove",
        action=argparse.BooleanOptionalAction,
        help="bind the request to its TLS connection (RFC 7030 3.5; default: if the server asks for it)",
    )


def _with_waiting(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--wait",
        nargs="?",
        type=_duration,
        const=timedelta.max,
        metavar="D",
        help="wait for an operator's approval, for so long (30m, 2h, 7d) or without end",
    )


def _with_window(options: argparse._ActionsContainer) -> None:
    options.add_argument(
        "--before", type=_duration, metavar="D", help="renew so long before the end, such as 30d (default: last third)"
    )


def _kinds() -> str:
    return ", ".join(KEY_KINDS)


def _duration(text: str) -> timedelta:
    found = _DURATION.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"not a duration such as 90s, 30m, 12h or 30d: {text}")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def _part(text: str) -> float:
    try:
        part = float(text)
    except ValueError:
        part = -1.0
    if not 0 <= part <= 1:
        raise argparse.ArgumentTypeError(f"not a number from 0 to 1: {text}")
    return part


def _run(name: str) -> Callable[[argparse.Namespace], int]:
    def run(parsed: argparse.Namespace) -> int:
        from doorward.commands.device.run import COMMANDS

        return COMMANDS[name](parsed)

    return run
