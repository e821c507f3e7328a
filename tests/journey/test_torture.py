"""A short torture: processes are killed while devices enrol, and what was said afterwards still is so."""

from bench.torture import torture
from bench.torture_schedule import Fault, Step, make_schedule


def test_a_schedule_follows_from_its_seed() -> None:
    one, same, other = (make_schedule(seed, 200, 12, 40, fills_disk=False) for seed in (1, 1, 2))
    assert one == same != other
    assert {event.what for event in one} == {*Fault, *Step} - {Fault.DISK}
    assert [event.after for event in one] == sorted(event.after for event in one)
    assert Fault.DISK in {event.what for event in make_schedule(1, 200, 12, 40, fills_disk=True)}


def test_what_was_acknowledged_stays_so_whatever_is_killed() -> None:
    found = torture(seed=3, devices=30, faults=2, steps=10, workers=2, cut_seconds=30.0)
    assert found.wrong == []
    for invariant in ("I1", "I2", "I3", "I4", "I5", "I6", "I7"):
        assert any(what.startswith(invariant) for what in found.checked), invariant
    assert found.retries > 0
