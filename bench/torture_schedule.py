"""What happens to a node under torture, and when: all of it follows from a seed.

An event comes when so many devices have been acknowledged, not at a time; so a schedule means the same on a slow
machine and on a fast one. Which device an operator's event is about is chosen among those before.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from random import Random


class Fault(StrEnum):
    """What is done to the node: to its processes by SIGKILL, to its disk, to its clock."""

    WORKER = "a worker is killed"
    BACKEND = "one process of PostgreSQL is killed, and all of it recovers"
    DATABASE = "PostgreSQL is killed"
    BROKERS = "the brokers are killed"
    NODE = "the whole node is killed, and started again"
    DISK = "the disk is full for two seconds"
    HOURS_AHEAD = "the clock is three hours ahead for some seconds"
    HOURS_BEHIND = "the clock is three hours behind for some seconds"
    MINUTES_AHEAD = "the clock is four minutes ahead for some seconds"
    MINUTES_BEHIND = "the clock is four minutes behind for some seconds"


class Step(StrEnum):
    """What operators and devices do meanwhile."""

    REVOKE = "revoke"
    REVOKE_LIVE = "revoke a device that is connected"
    RENEW = "renew"
    REKEY = "rekey"
    ROLE = "change a role"
    PAIR = "pair"
    UNPAIR = "unpair"
    LOG_OUT = "log out"
    BULK = "revoke many"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happens once `after` devices were acknowledged; `which` picks whom it is about."""

    after: int
    what: Fault | Step
    which: int


_FAULTS = (Fault.WORKER, Fault.BACKEND, Fault.WORKER, Fault.DATABASE, Fault.BROKERS, Fault.NODE)
_STEPS = (
    *(Step.REVOKE,) * 4,
    Step.REVOKE_LIVE,
    *(Step.RENEW,) * 2,
    Step.REKEY,
    *(Step.ROLE,) * 2,
    *(Step.PAIR,) * 2,
    Step.UNPAIR,
    Step.LOG_OUT,
)


JUMPS: Mapping[Fault, timedelta] = {
    Fault.HOURS_AHEAD: timedelta(hours=3),
    Fault.HOURS_BEHIND: timedelta(hours=-3),
    Fault.MINUTES_AHEAD: timedelta(minutes=4),
    Fault.MINUTES_BEHIND: timedelta(minutes=-4),
}
"""By how much the clock is ahead after it was set; then it is set back, so that each is two jumps."""


def make_schedule(
    seed: int, devices: int, faults: int, steps: int, *, sets_clock: bool, fills_disk: bool
) -> list[Event]:
    """Return what happens, in order: faults in turn over the whole run, steps anywhere, one of many near the end."""
    random = Random(seed)  # noqa: S311 - it shall be the same for the same seed
    kinds = [*_FAULTS, *([Fault.DISK] if fills_disk else [])]
    if sets_clock:
        for place, jump in enumerate(JUMPS):  # among the others: the node has to come back while its clock is wrong
            kinds.insert(2 * place, jump)
    stride = devices / (faults + 1)
    events = [
        Event(int(stride * (number + 0.5 + random.random() * 0.8)), kinds[number % len(kinds)], random.getrandbits(30))
        for number in range(faults)
    ]
    first = max(2, devices // 20)
    # Each kind of step at least once; the rest as it comes.
    wanted = [*dict.fromkeys(_STEPS), *(random.choice(_STEPS) for _ in range(steps))][:steps]
    events += [Event(random.randrange(first, devices), what, random.getrandbits(30)) for what in wanted]
    events.append(Event(devices * 3 // 4, Step.BULK, random.getrandbits(30)))
    return sorted(events, key=lambda event: event.after)
