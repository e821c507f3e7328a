"""`doorward approvals`: who waits, and letting him enrol or not."""

import argparse
from typing import Any
from urllib.parse import quote

from doorward.commands.operator.caller import caller_of, of_label
from doorward.commands.printing import print_json, print_lines, print_table, to_the_second

_OUTCOME = {"approved": "may enrol", "rejected": "may not enrol"}


def list_requests(parsed: argparse.Namespace) -> int:
    """Print the requests, oldest first under each label."""
    caller = caller_of(parsed)
    filters = [] if parsed.state == "all" else [f"state[eq]{parsed.state}"]
    if parsed.device is not None:
        filters.append(f"device_identifier[eq]{parsed.device}")
    found = [one for label in caller.labels(parsed.label) for one in caller.items(label, "approvals", *filters)]
    if parsed.json:
        print_json(found)
    elif found:
        print_table(("ID", "LABEL", "DEVICE", "STATE", "SINCE", "BY", "KEY (SHA-256)"), [_row(one) for one in found])
    else:
        print_lines("Nobody waits." if parsed.state == "pending" else "There are none.")
    return 0


def approve(parsed: argparse.Namespace) -> int:
    """Let a device enrol."""
    return _decide(parsed, "approve")


def reject(parsed: argparse.Namespace) -> int:
    """Let a device not enrol."""
    return _decide(parsed, "reject")


def _decide(parsed: argparse.Namespace, verb: str) -> int:
    caller = caller_of(parsed)
    label = caller.label_of("approvals", parsed.approval, parsed.label)
    path = f"{of_label(label)}/approvals/{quote(parsed.approval, safe='')}/{verb}"
    decided = {"label": label, **caller.call("POST", path, {"reason": parsed.reason})}
    if parsed.json:
        print_json(decided)
    else:
        device, outcome, until = decided["device_identifier"], _OUTCOME[decided["state"]], decided["expires_at"]
        print_lines(f"{device} {outcome} under {label}, until {to_the_second(until)}.")
    return 0


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    return (
        one["id"],
        one["label"],
        one["device_identifier"],
        one["state"],
        to_the_second(one["requested_at"]),
        one["requester"] if one["requester"] != "anyone" else f"anyone, {one['address']}",
        one.get("public_key_sha256") or "made here",
    )
