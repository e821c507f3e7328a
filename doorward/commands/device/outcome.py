"""How a device command ends: one table from what happened to the exit status and to what to do next.

The statuses, the members of the JSON and the names of failures are stable; docs/devices.md has them.

| status | what happened |
|---|---|
| 0 | done |
| 1 | refused by the server, or the folder cannot be used: the same call fails again |
| 2 | the command line was not understood |
| 3 | not approved yet: the same call goes on |
| 4 | the server cannot be reached, or is busy: the same call may work later |
| 5 | the server is not trusted: nothing was told to it |
| 6 | what answers is no EST server, or a broken one |
| 7 | `status`: the certificate is due for renewal |
| 8 | `status`: there is no certificate, or not its key, or it has ended, or has not begun by this device's clock |
| 130 | interrupted: the same call goes on |
"""

import sys
from enum import IntEnum
from http import HTTPStatus

from doorward.commands.printing import print_json
from est.client import EstFailure, Failure


class Exit(IntEnum):
    """The exit statuses."""

    DONE = 0
    REFUSED = 1
    PENDING = 3
    UNAVAILABLE = 4
    UNTRUSTED = 5
    MALFORMED = 6
    DUE = 7
    NOT_VALID = 8
    INTERRUPTED = 130


_WRONG_PLACE = "Look at --url and --label: is that the EST server, and nothing in between?"
_TABLE: dict[Failure, tuple[Exit, str]] = {
    Failure.UNREACHABLE: (Exit.UNAVAILABLE, "Look at --url and the network, then call again: the key is kept."),
    Failure.BUSY: (Exit.UNAVAILABLE, "Call again later: the key is kept."),
    Failure.UNTRUSTED: (
        Exit.UNTRUSTED,
        "Look at --url, at the clock, and whether the root's fingerprint is the one that the operator gave.",
    ),
    Failure.UNUSABLE: (Exit.REFUSED, "Look at the files that the sentence names."),
    Failure.REFUSED: (Exit.REFUSED, "docs/devices.md says what each sentence means; the server's log says more."),
    Failure.PENDING: (Exit.PENDING, "An operator has to approve it; call again, or with --wait."),
    Failure.MALFORMED: (Exit.MALFORMED, _WRONG_PLACE),
}


def failed(failure: EstFailure, *, as_json: bool) -> Exit:
    """Say what failed and what to do next; return the exit status."""
    exit_status, advice = _TABLE[failure.failure]
    if failure.status == HTTPStatus.NOT_FOUND:
        advice = _WRONG_PLACE
    if as_json:
        print_json(
            {
                "failure": failure.failure,
                "status": failure.status,
                "detail": str(failure),
                "retryAfter": failure.retry_after,
                "next": advice,
            }
        )
    else:
        status = f" ({failure.status})" if failure.status else ""
        sys.stderr.write(f"doorward: {failure.failure.capitalize()}{status}: {failure}\n  {advice}\n")
    return exit_status


def unusable(sentence: str, *, as_json: bool) -> Exit:
    """Say what the folder or an option lacks; return the exit status."""
    word = sentence.partition(" ")[0]
    if word.isalpha():  # and not a file's name
        sentence = word[:1].upper() + word[1:] + sentence[len(word) :]
    sentence = sentence.rstrip(".") + "."
    if as_json:
        print_json({"failure": "folder", "status": None, "detail": sentence, "retryAfter": None, "next": None})
    else:
        sys.stderr.write(f"doorward: {sentence}\n")
    return Exit.REFUSED


def interrupted(*, as_json: bool) -> Exit:
    """Say that nothing is lost; return the exit status."""
    if as_json:
        print_json({"failure": "interrupted", "status": None, "detail": None, "retryAfter": None, "next": None})
    else:
        sys.stderr.write("\nInterrupted. The key is kept: the same command goes on where this one was.\n")
    return Exit.INTERRUPTED
