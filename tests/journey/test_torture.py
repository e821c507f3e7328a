"""A short torture: processes are killed while devices enrol, and what was said afterwards still is so."""

import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from bench.torture import torture
from bench.torture_faults import WrongClock
from bench.torture_schedule import JUMPS, Fault, Step, make_schedule


def test_a_schedule_follows_from_its_seed() -> None:
    one, same, other = (make_schedule(seed, 200, 12, 40, sets_clock=True, fills_disk=False) for seed in (1, 1, 2))
    assert one == same != other
    assert {event.what for event in one} == {*Fault, *Step} - {Fault.DISK}
    assert [event.after for event in one] == sorted(event.after for event in one)
    with_disk = make_schedule(1, 200, 12, 40, sets_clock=False, fills_disk=True)
    assert Fault.DISK in {event.what for event in with_disk}
    assert not JUMPS.keys() & {event.what for event in with_disk}


def test_what_was_acknowledged_stays_so_whatever_is_killed() -> None:
    found = torture(seed=3, devices=30, faults=2, steps=10, workers=2)
    assert found.wrong == []
    for invariant in ("I1", "I2", "I3", "I4", "I5", "I6", "I7"):
        assert any(what.startswith(invariant) for what in found.checked), invariant
    assert found.retries > 0


def test_what_was_acknowledged_stays_so_whatever_the_clock_is_set_to() -> None:
    found = torture(seed=7, devices=30, faults=3, steps=6, workers=2, sets_clock=True)
    assert found.wrong == []
    assert found.checked[Fault.HOURS_AHEAD] == found.checked[Fault.HOURS_BEHIND] == 1
    assert found.checked["a clock was set while a device was connected"] == 2
    assert found.checked["I5 a live connection is cut"] >= 2


def test_a_clock_jumps_for_a_process_that_runs(tmp_path: Path) -> None:
    clock = WrongClock.made(tmp_path)
    ask = "import sys, time\nfor _ in sys.stdin: print(time.time(), time.monotonic(), flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", ask],
        env={**os.environ, **clock.environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for hours in (0, 3, -3, 0):
            clock.set(timedelta(hours=hours))
            process.stdin.write("\n")
            process.stdin.flush()
            shown, monotonic = map(float, process.stdout.readline().split())
            assert shown - time.time() == pytest.approx(3600 * hours, abs=2)
            assert monotonic == pytest.approx(time.monotonic(), abs=2)
