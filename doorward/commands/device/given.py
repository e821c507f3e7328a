"""What the options of a device command say: the server, what to show it, whom to trust, what to ask for.

Server and label of an enrolment are remembered in `est.json`, since a device renews where and as what it enrolled.
"""

import argparse
import json
import shlex
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from certs.pem import read_certificates
from doorward.commands.login import trusted_root
from est.client import BasicSecret, BearerToken, EstClient, KeyKind
from est.client.authorization import Authorization
from est.client.device import Server, Wish
from est.client.files import write_whole
from est.client.folder import DeviceFolder, FolderUnusable, read
from est.client.keys import read_key
from est.client.opening import Opener, SecretOpener, opener_of
from est.client.token_uri import Token
from est.client.watch import Command
from est.profiles import DEFAULT_LABEL

_URL = "https://127.0.0.1:9443"
_SETTINGS = "est.json"


def stranger(parsed: argparse.Namespace) -> EstClient:
    """Return a client for what may be asked by anybody."""
    url, label = _place(parsed, parsed.out)
    seconds = parsed.timeout.total_seconds()
    if parsed.fingerprint is not None:
        return EstClient(url, root_sha256=parsed.fingerprint, label=label, timeout_seconds=seconds)
    root = trusted_root(parsed.root, parsed.out or Path())
    return EstClient(url, anchors=read(root), label=label, timeout_seconds=seconds)


def server_of(parsed: argparse.Namespace) -> Server:
    """Return where the device asks, and with what."""
    url, label = _place(parsed, parsed.out)
    authorization = _authorization(parsed, label)
    return Server(url, label, authorization, parsed.timeout.total_seconds())


def _place(parsed: argparse.Namespace, folder: Path | None) -> tuple[str, str | None]:
    """Return URL and label: as said, as remembered, or as it is usual (rule 2)."""
    remembered: dict[str, str | None] = {}
    if folder is not None:
        with suppress(OSError, ValueError):
            remembered = json.loads((folder / _SETTINGS).read_bytes())
    label = parsed.label if parsed.label is not None else remembered.get("label")
    return parsed.url or remembered.get("url") or _URL, label or None


def remember(folder: DeviceFolder, server: Server) -> None:
    """Write down where the device has a certificate from."""
    content = json.dumps({"url": server.url, "label": server.label}).encode() + b"\n"
    file = folder.path / _SETTINGS
    if not file.exists() or file.read_bytes() != content:
        write_whole(file, content)


def keep_root(parsed: argparse.Namespace, folder: DeviceFolder, server: Server) -> None:
    """See to it that the folder says whom to trust."""
    if parsed.fingerprint is not None:
        client = EstClient(server.url, root_sha256=parsed.fingerprint, label=server.label)
        folder.keep_roots(client.anchors())
    elif parsed.root is not None:
        folder.keep_roots(read(parsed.root))
    elif not folder.root.exists():
        folder.keep_roots(read(trusted_root(None, folder.path)))


def _authorization(parsed: argparse.Namespace, label: str | None) -> Authorization | None:
    if getattr(parsed, "secret_file", None) is not None:
        return BasicSecret(parsed.user or label or DEFAULT_LABEL, _line(parsed.secret_file))
    if getattr(parsed, "token_file", None) is not None:
        return BearerToken(_line(parsed.token_file))
    return None


def _line(file: Path) -> str:
    return read(file).decode("utf-8", "replace").strip()


def wish_of(parsed: argparse.Namespace, folder: DeviceFolder) -> Wish:
    """Return what is wanted of a request."""
    kind = KeyKind(parsed.key_type) if parsed.key_type else None
    follows_roots = not getattr(parsed, "keep_root", False)
    token, token_key = _token_of(parsed, folder), getattr(parsed, "pkcs11_key", None)
    if token_key is not None and token is None:
        raise FolderUnusable("Say in which token --pkcs11-key is: --pkcs11-module, --pkcs11-token, --pkcs11-pin-file.")
    return Wish(kind, parsed.prove, follows_roots, token, token_key)


def _token_of(parsed: argparse.Namespace, folder: DeviceFolder) -> Token | None:
    """Return the token that is named; None if none is.

    What is left out is as `device.uri` says, if the device's key is in a token already.
    """
    given = (parsed.pkcs11_module, parsed.pkcs11_token, parsed.pkcs11_pin_file)
    if given == (None, None, None):
        return None
    present = folder.token_key()
    if present is not None:
        kept = (present.token.module, present.token.label, present.token.pin_file)
        given = (given[0] or kept[0], given[1] or kept[1], given[2] or kept[2])
    module, label, pin_file = given
    if module is None or label is None or pin_file is None:
        raise FolderUnusable("Say with --pkcs11-module, --pkcs11-token and --pkcs11-pin-file which token, and its PIN.")
    return Token(module.absolute(), label, pin_file.absolute())


def opener_for(parsed: argparse.Namespace, folder: DeviceFolder) -> Opener | None:
    """Return what a key is to be encrypted under; None if it is not to be."""
    identifier = bytes.fromhex(parsed.decrypt_id.replace(":", "")) if parsed.decrypt_id else None
    if parsed.decrypt_secret is not None:
        if identifier is None:
            raise FolderUnusable("Say with --decrypt-id how the server knows that secret.")
        return SecretOpener(identifier, bytes.fromhex(_line(parsed.decrypt_secret)))
    if parsed.decrypt_key is not None:
        opener = opener_of(read_key(read(parsed.decrypt_key)))
        return opener if identifier is None else replace(opener, identifier=identifier)
    if parsed.encrypted:
        certificate = read_certificates(read(folder.bootstrap.certificate))[0]
        return opener_of(read_key(read(folder.bootstrap.key)), certificate)
    return None


def command_of(parsed: argparse.Namespace) -> Command | None:
    """Return what runs after a success; None if nothing does."""
    if parsed.shell_command is not None:
        return Command(("/bin/sh", "-c", parsed.shell_command))
    if parsed.command is not None:
        try:
            arguments = tuple(shlex.split(parsed.command))
        except ValueError as error:
            raise FolderUnusable(f"--exec: {error}.") from error
        return Command(arguments) if arguments else None
    return None
