"""What may be asked of `doorward approvals` and `doorward secrets`; what is done stands beside this file."""

import argparse
from collections.abc import Callable
from pathlib import Path

STATES = ("pending", "approved", "rejected", "all")

Commands = argparse._SubParsersAction  # noqa: SLF001 - argparse gives the type of `add_subparsers` no public name

_WHO = (
    "These commands speak with the API. Without --key or --token-file they act as the root identity, which whoever can "
    "read the data folder may be."
)


def add_operator_commands(commands: "Commands[argparse.ArgumentParser]") -> None:
    """Add the commands of operators."""
    approvals = _group(commands, "approvals", "requests of devices that wait for an operator")
    _add_approvals(approvals)
    secrets = _group(commands, "secrets", "enrolment secrets")
    _add_secrets(secrets)


def _add_approvals(commands: "Commands[argparse.ArgumentParser]") -> None:
    listing = _command(commands, "list", "list the requests that wait, or were decided on")
    listing.add_argument("--label", metavar="L", help="of this enrolment profile (default: of all)")
    listing.add_argument("--state", choices=STATES, default="pending", help="how they stand (default: pending)")
    listing.add_argument("--device", metavar="D", help="of this device")
    listing.set_defaults(run=_run("approvals", "list_requests"))
    for verb, about in (
        ("approve", "let a device enrol that waits for it"),
        ("reject", "let a device not enrol that waits for it"),
    ):
        decide = _command(commands, verb, about)
        decide.add_argument("approval", metavar="ID", help="the request, as it is listed")
        decide.add_argument("--label", metavar="L", help="its enrolment profile (default: it is looked for)")
        decide.add_argument("--reason", metavar="TEXT", help="why; it is on record, and the device is not told")
        decide.set_defaults(run=_run("approvals", verb))


def _add_secrets(commands: "Commands[argparse.ArgumentParser]") -> None:
    create = _command(commands, "create", "make a secret that enrols a device; it is shown once")
    create.add_argument("--label", metavar="L", default="default", help="enrolment profile (default: default)")
    create.add_argument("--device", metavar="D", help="the one device that it enrols (default: any of the profile's)")
    create.add_argument("--user", metavar="U", help="the user it goes with in HTTP Basic (default: the profile's name)")
    uses = create.add_mutually_exclusive_group()
    uses.add_argument("--uses", type=int, metavar="N", default=1, help="how often it may be used (default: 1)")
    uses.add_argument("--unlimited", action="store_true", help="it may be used any number of times, until it expires")
    create.add_argument("--expires-in", metavar="30d", help="how long it may be used (default: 30d)")
    create.add_argument("--description", metavar="TEXT", default="", help="what it is for")
    what = create.add_mutually_exclusive_group()
    what.add_argument("--out", type=Path, metavar="F", help="write it into this new file, and do not print it")
    what.add_argument("--chosen-file", type=Path, metavar="F", help="file whose first line it shall be")
    create.set_defaults(run=_run("secrets", "create"))
    listing = _command(commands, "list", "list the secrets, without what they are")
    listing.add_argument("--label", metavar="L", help="of this enrolment profile (default: of all)")
    listing.add_argument("--device", metavar="D", help="for this device")
    listing.set_defaults(run=_run("secrets", "list_secrets"))
    revoke = _command(commands, "revoke", "let a secret enrol nothing more, at once")
    revoke.add_argument("secret", metavar="ID", help="the secret's id, as it is listed")
    revoke.add_argument("--label", metavar="L", help="its enrolment profile (default: it is looked for)")
    revoke.set_defaults(run=_run("secrets", "revoke"))


def _group(commands: "Commands[argparse.ArgumentParser]", name: str, about: str) -> "Commands[argparse.ArgumentParser]":
    group = commands.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".", epilog=_WHO)
    return group.add_subparsers(title="commands", metavar="COMMAND", required=True)


def _command(commands: "Commands[argparse.ArgumentParser]", name: str, about: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".", epilog=_WHO)
    command.add_argument("--json", action="store_true", help="print JSON")
    command.add_argument("--group", metavar="G", help="in this group (default: the caller's own)")
    server = command.add_argument_group("the server")
    server.add_argument("--url", metavar="U", help="where it is (default: as configured, or https://127.0.0.1:8443)")
    server.add_argument(
        "--root", type=Path, metavar="F", help="root certificate to trust (default: root.pem beside the key, or var's)"
    )
    who = command.add_argument_group("who asks")
    proof = who.add_mutually_exclusive_group()
    proof.add_argument(
        "--key", type=Path, metavar="F", help="act as whoever this private key is of, as `doorward login`"
    )
    proof.add_argument(
        "--token-file", type=Path, metavar="F", help="act as whoever this token is of; -: standard input"
    )
    who.add_argument("--passphrase-file", type=Path, metavar="F", help="file whose first line opens the key")
    who.add_argument("--data", type=Path, metavar="DIR", help="or as root, by this data folder (default: var)")
    who.add_argument("--config", type=Path, metavar="F", help="configuration (default: doorward.toml, if it is there)")
    return command


def _run(module: str, act: str) -> Callable[[argparse.Namespace], int]:
    def run(parsed: argparse.Namespace) -> int:
        from doorward.commands.operator import approvals, secrets

        return int(getattr({"approvals": approvals, "secrets": secrets}[module], act)(parsed))

    return run
