"""`doorward secrets`: making enrolment secrets, listing and withdrawing them."""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote

from doorward.commands.operator.caller import caller_of, of_label
from doorward.commands.printing import print_json, print_lines, print_table, to_the_second
from iam.errors import Kind, Refused


def create(parsed: argparse.Namespace) -> int:
    """Make a secret, and print it or write it into a new file."""
    wanted: dict[str, Any] = {
        "username": parsed.user,
        "device_identifier": parsed.device,
        "max_uses": None if parsed.unlimited else parsed.uses,
        "description": parsed.description,
        "secret": None if parsed.chosen_file is None else _first_line(parsed.chosen_file),
    }
    if parsed.expires_in is not None:
        wanted["expires_in"] = parsed.expires_in
    caller, path = caller_of(parsed), f"{of_label(parsed.label)}/secrets"
    if parsed.out is None:
        made = caller.call("POST", path, wanted)
    else:
        with _new_file(parsed.out) as file:  # before there is a secret that would be lost
            made = caller.call("POST", path, wanted)
            file.write(made.pop("secret") + "\n")
    made = {"label": parsed.label, **made}
    if parsed.json:
        print_json(made)
    else:
        print_lines(*_said(made, parsed.out))
    return 0


def list_secrets(parsed: argparse.Namespace) -> int:
    """Print the secrets, oldest first under each label."""
    caller = caller_of(parsed)
    filters = () if parsed.device is None else (f"device_identifier[eq]{parsed.device}",)
    found = [one for label in caller.labels(parsed.label) for one in caller.items(label, "secrets", *filters)]
    if parsed.json:
        print_json(found)
    elif found:
        print_table(("ID", "LABEL", "USER", "DEVICE", "USED", "UNTIL", "DESCRIPTION"), [_row(one) for one in found])
    else:
        print_lines("There are none.")
    return 0


def revoke(parsed: argparse.Namespace) -> int:
    """Withdraw a secret."""
    caller = caller_of(parsed)
    label = caller.label_of("secrets", parsed.secret, parsed.label)
    caller.call("DELETE", f"{of_label(label)}/secrets/{quote(parsed.secret, safe='')}")
    if parsed.json:
        print_json({"id": parsed.secret, "label": label, "revoked": True})
    else:
        print_lines(f"The secret {parsed.secret} of {label} enrols nothing more.")
    return 0


def _said(made: dict[str, Any], file: Path | None) -> list[str]:
    whom = made.get("device_identifier") or "any device of the profile"
    uses = made.get("max_uses")
    often = "any number of uses" if uses is None else "one use" if uses == 1 else f"{uses} uses"
    lines = [
        f"A secret of {made['label']} for {whom}: {often}, until {to_the_second(made['expires_at'])}.",
        f"  id      {made['id']}",
        f"  user    {made['username']}",
    ]
    if "secret" in made:
        lines += [f"  secret  {made['secret']}", "It is not shown again."]
    elif file is not None:
        lines.append(f"  secret  in {file}")
    return lines


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    most = one.get("max_uses")
    return (
        one["id"],
        one["label"],
        one["username"],
        one.get("device_identifier") or "any",
        f"{one['uses']}/{most}" if most is not None else f"{one['uses']}",
        "revoked" if one.get("revoked_at") else one["expires_at"][:10],
        one["description"],
    )


@contextmanager
def _new_file(path: Path) -> Iterator[TextIO]:
    """Open a file that was not there, for its owner alone; nothing of it is left if what is done with it fails."""
    try:
        file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8")
    except OSError as error:
        raise Refused(Kind.INVALID, f"{path} cannot be made: {error.strerror}.") from error
    with file:
        try:
            yield file
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def _first_line(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").partition("\n")[0].rstrip("\r")
    except OSError as error:
        raise Refused(Kind.INVALID, f"The secret {file} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise Refused(Kind.INVALID, f"The secret {file} cannot be read: it is not text.") from error
