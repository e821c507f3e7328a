"""`doorward`: the command line. What a command does stands in `doorward/commands/`, imported when it is called for."""

import argparse
import logging
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from doorward.commands.device.options import add_device_commands
from doorward.commands.operator.options import add_operator_commands
from doorward.config import Configuration, load_configuration, process_environment
from doorward.embedded.process import EmbeddedError
from iam.errors import Refused

_FAILED = 1
_MISUSED = 2
_KEY_KINDS = (
    "p-256",
    "p-384",
    "p-521",
    "ed25519",
    "rsa-2048",
    "rsa-3072",
    "rsa-4096",
    "ml-dsa-44",
    "ml-dsa-65",
    "ml-dsa-87",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0 done, 1 refused or failed, 2 not understood."""
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    parser = _parser()
    parsed = parser.parse_args(arguments)
    if not hasattr(parsed, "run"):
        parser.print_help()
        return _MISUSED
    try:
        return int(parsed.run(parsed) or 0)
    except Refused as refusal:
        reason = f" ({refusal.reason})" if refusal.reason != refusal.detail else ""
        sys.stderr.write(f"doorward: {refusal.detail}{reason}\n")
        for name, text in refusal.fields.items():
            sys.stderr.write(f"  {name}: {text}\n")
        return _FAILED
    except EmbeddedError as error:
        sys.stderr.write(f"doorward: {error}\n")
        return _FAILED
    except KeyboardInterrupt:
        return 130


def configuration_of(parsed: argparse.Namespace) -> Configuration:
    """Return the configuration that the options, the file and the environment say."""
    node = {"data": parsed.data, "workers": getattr(parsed, "workers", None)}
    return load_configuration(parsed.config, process_environment(), {"node": node})


class _NearestCommand(argparse.ArgumentParser):
    """A parser that answers an unknown command with the nearest known one, as the configuration does an unknown key."""

    def _check_value(self, action: argparse.Action, value: str) -> None:
        if not isinstance(action, argparse._SubParsersAction) or value in action.choices:  # noqa: SLF001 - argparse has no other name for it
            super()._check_value(action, value)
            return
        known = [one.dest for one in action._get_subactions()]  # noqa: SLF001 - what `--help` lists
        near = get_close_matches(value, known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
        raise argparse.ArgumentError(None, f"there is no command {value!r}; {hint}")


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = _NearestCommand(
        prog="doorward", description="One identity for every device, gateway, person and program of an IoT fleet."
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    serve = _command(commands, "serve", "run a node: API, EST, and the brokers' authorization")
    _with_node(serve)
    serve.add_argument("--workers", type=int, metavar="N", help="worker processes (default: 2)")
    serve.set_defaults(run=_serve)

    worker = commands.add_parser("worker")  # started by `serve`; not for people
    _with_node(worker)
    worker.set_defaults(run=_worker)

    check = _command(commands, "check", "look whether the configuration and all that a node needs are as they must be")
    _with_node(check)
    _with_json(check)
    check.set_defaults(run=_check)

    admin = _command(commands, "admin", "what whoever can read the data folder may do")
    admin_commands = admin.add_subparsers(title="commands", metavar="COMMAND", required=True)
    token = _command(admin_commands, "token", "print a 15 min access token of the root identity")
    _with_node(token)
    _with_json(token)
    token.set_defaults(run=_admin_token)

    authority = _command(commands, "ca", "the certification authorities")
    authority_commands = authority.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_authority_commands(authority_commands)
    revoke = _command(authority_commands, "revoke", "revoke a certificate, from the data folder")
    _with_node(revoke)
    _with_json(revoke)
    revoke.add_argument("serial", help="serial number in hexadecimal")
    revoke.add_argument("--reason", default="unspecified", help="RFC 5280 reason, such as keyCompromise")
    revoke.set_defaults(run=_revoke)

    _add_key_commands(commands)
    _add_device_commands(commands)
    add_operator_commands(commands)

    login = _command(commands, "login", "prove a key by challenge and print the token")
    _with_server(login, "https://127.0.0.1:8443")
    _with_json(login)
    login.add_argument("--key", type=Path, required=True, help="private key: PEM or OpenSSH, Ed25519 or P-256")
    login.add_argument(
        "--passphrase-file", type=Path, metavar="F", help="file whose first line opens the key, if it has a passphrase"
    )
    login.set_defaults(run=_login)

    demo = _command(commands, "demo", "run the whole journey against a node, with real clients")
    _with_node(demo)
    _with_json(demo)
    demo.set_defaults(run=_demo)
    return parser


def _add_key_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    keys = _command(commands, "keys", "the master key, and what it seals")
    key_commands = keys.add_subparsers(title="commands", metavar="COMMAND", required=True)

    rotate = _command(key_commands, "rotate-master", "change the master key while the node runs, or finish a change")
    _with_node(rotate)
    _with_json(rotate)
    rotate.add_argument(
        "--grace",
        type=float,
        metavar="SECONDS",
        help="how long challenges made with the old key may be answered (default: as long as they last)",
    )
    rotate.set_defaults(run=_rotate_master)

    reseal = _command(key_commands, "reseal", "seal anew what other known master keys sealed")
    _with_node(reseal)
    _with_json(reseal)
    reseal.set_defaults(run=_reseal)

    sealed = _command(key_commands, "sealed", "show how much each master key sealed in the database")
    _with_node(sealed)
    _with_json(sealed)
    sealed.set_defaults(run=_sealed)


def _add_authority_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    listing = _command(commands, "list", "list the authorities, each key on a line")
    create = _command(commands, "create", "make a root, or an authority below another")
    take_in = _command(commands, "import", "take in an authority that was made elsewhere")
    rollover = _command(commands, "rollover", "give an authority its next key; both are trusted until the old one ends")
    for one in (listing, create, take_in, rollover):
        _with_node(one)
        _with_json(one)
    for one in (create, take_in, rollover):
        one.add_argument("name", help="what the authority is called, in paths and URLs")
    for one in (create, rollover):
        one.add_argument("--key", choices=_KEY_KINDS, help="kind of the key (default: p-384, or as before)")
        one.add_argument("--validity", metavar="90d", help="how long it lasts (default: as the profile says)")
    create.add_argument("--common-name", required=True, help="the common name in its certificate")
    create.add_argument("--parent", help="the authority above it; a root if not said")
    create.add_argument("--path-length", type=int, metavar="N", help="how many authorities may stand below it")
    take_in.add_argument("certificate", type=Path, help="PEM: its certificate, and those above it")
    take_in.add_argument("--key", type=Path, help="its private key, PEM without a password; else it signs nothing")
    take_in.add_argument("--chain", type=Path, help="PEM: those above it, where they stand in a file of their own")
    listing.set_defaults(run=_list_authorities)
    create.set_defaults(run=_create_authority)
    take_in.set_defaults(run=_import_authority)
    rollover.set_defaults(run=_roll_over)


def _add_device_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    device = _command(commands, "device", "act as a device: bootstrap, enrol, renew (EST, RFC 7030)")
    device_commands = device.add_subparsers(title="commands", metavar="COMMAND", required=True)

    bootstrap = _command(
        device_commands, "bootstrap", "make a bootstrap key and certificate with the built-in factory CA, to try things"
    )
    _with_node(bootstrap)
    _with_json(bootstrap)
    bootstrap.add_argument("--id", required=True, dest="identifier", help="device identifier, such as meter-001")
    bootstrap.add_argument("--out", type=Path, required=True, help="folder for bootstrap.pem, bootstrap.key, root.pem")
    bootstrap.set_defaults(run=_bootstrap)

    add_device_commands(device_commands)


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, about: str
) -> argparse.ArgumentParser:
    return commands.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".")


def _with_node(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, metavar="F", help="configuration (default: doorward.toml, if it is there)"
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="data folder (default: var)")


def _with_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _with_server(parser: argparse.ArgumentParser, url: str) -> None:
    parser.add_argument("--url", default=url, metavar="U", help=f"the server (default: {url})")
    parser.add_argument(
        "--root", type=Path, metavar="F", help="root certificate to trust (default: root.pem beside the keys, or var's)"
    )


def _serve(parsed: argparse.Namespace) -> int:
    from doorward.commands.node import serve

    return serve(configuration_of(parsed), parsed.config)


def _worker(parsed: argparse.Namespace) -> int:
    from doorward.commands.node import work

    return work(configuration_of(parsed))


def _check(parsed: argparse.Namespace) -> int:
    from doorward.commands.check import check

    return check(configuration_of(parsed), as_json=parsed.json)


def _admin_token(parsed: argparse.Namespace) -> int:
    from doorward.commands.local import print_token

    return print_token(configuration_of(parsed), as_json=parsed.json)


def _list_authorities(parsed: argparse.Namespace) -> int:
    from doorward.commands.authorities import list_authorities

    return list_authorities(configuration_of(parsed), as_json=parsed.json)


def _create_authority(parsed: argparse.Namespace) -> int:
    from doorward.commands.authorities import create

    return create(
        configuration_of(parsed),
        parsed.name,
        parsed.common_name,
        parent=parsed.parent,
        key=parsed.key or "p-384",
        path_length=parsed.path_length,
        validity=parsed.validity,
        as_json=parsed.json,
    )


def _import_authority(parsed: argparse.Namespace) -> int:
    from doorward.commands.authorities import take_in

    return take_in(
        configuration_of(parsed),
        parsed.name,
        parsed.certificate,
        key=parsed.key,
        chain=parsed.chain,
        as_json=parsed.json,
    )


def _roll_over(parsed: argparse.Namespace) -> int:
    from doorward.commands.authorities import roll_over

    return roll_over(
        configuration_of(parsed), parsed.name, key=parsed.key, validity=parsed.validity, as_json=parsed.json
    )


def _revoke(parsed: argparse.Namespace) -> int:
    from doorward.commands.local import revoke

    return revoke(configuration_of(parsed), parsed.serial, parsed.reason, as_json=parsed.json)


def _rotate_master(parsed: argparse.Namespace) -> int:
    from doorward.commands.keys import rotate_master

    return rotate_master(configuration_of(parsed), parsed.grace, as_json=parsed.json)


def _reseal(parsed: argparse.Namespace) -> int:
    from doorward.commands.keys import reseal

    return reseal(configuration_of(parsed), as_json=parsed.json)


def _sealed(parsed: argparse.Namespace) -> int:
    from doorward.commands.keys import show_sealed

    return show_sealed(configuration_of(parsed), as_json=parsed.json)


def _bootstrap(parsed: argparse.Namespace) -> int:
    from doorward.commands.local import bootstrap

    return bootstrap(configuration_of(parsed), parsed.identifier, parsed.out, as_json=parsed.json)


def _login(parsed: argparse.Namespace) -> int:
    from doorward.commands.login import login

    return login(parsed.url, parsed.key, parsed.passphrase_file, parsed.root, as_json=parsed.json)


def _demo(parsed: argparse.Namespace) -> int:
    from doorward.demo import run_demo

    return run_demo(configuration_of(parsed), as_json=parsed.json)
