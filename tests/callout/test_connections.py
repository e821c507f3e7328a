"""Which connections there are, and what their names say."""

from datetime import UTC, datetime, timedelta

import pytest

from callout.connections import Connection, Connections, connection_name, read_connection
from iam.access import Proof, ProofKind
from tests.callout.brokers import access

CERTIFICATE = Proof(ProofKind.CERTIFICATE, bytes.fromhex("00fd730ac4e3dae1c65fb8ca3a2f8d1ddf"))
SESSION = Proof(ProofKind.SESSION, bytes(range(16)))
ACCEPTED = "2026-01-01T00:00:00.123456789Z"


class TestConnections:
    def connection(self, number: int, server: str = "N", accepted: float = 0.0) -> Connection:
        return Connection(server, number, f"idt-{number}", "0" * 16, SESSION, accepted)

    def test_a_list_drops_what_is_gone_but_not_what_came_meanwhile(self) -> None:
        held = Connections()
        for number, accepted in ((1, 0.0), (2, 0.0), (3, 60.0)):
            held.add(self.connection(number, accepted=accepted))
        held.replace({"N": [self.connection(1)]}, 1.0)
        assert {each.number for each in held} == {1, 3}

    def test_a_silent_server_keeps_its_connections_for_a_while(self) -> None:
        held = Connections()
        held.add(self.connection(1, "silent"))
        for _ in range(10):
            held.replace({"N": []}, 86_400.0)
            assert len(held) == 1
        held.replace({"N": []}, 86_400.0)
        assert len(held) == 0

    @pytest.mark.parametrize("proof", [CERTIFICATE, SESSION])
    def test_a_name_is_read_as_it_was_written(self, proof: Proof) -> None:
        who = access().identity.id
        read = read_connection("N", 7, connection_name(who, "0123456789abcdef", proof), ACCEPTED, ACCEPTED, 5.0)
        assert read == Connection("N", 7, who, "0123456789abcdef", proof, 5.0)

    @pytest.mark.parametrize(
        "rest", ["", ".0123456789abcdef", ".0123456789abcdef.", f".0123456789abcdef.s{'0' * 30}", f".{'0' * 16}.x00"]
    )
    def test_other_names_are_not_ours(self, rest: str) -> None:
        assert read_connection("N", 7, access().identity.id + rest, ACCEPTED, ACCEPTED, 5.0) is None

    @pytest.mark.parametrize("name", ["", "callout", None, f"idt-x.{'0' * 16}.c00", f"{'x' * 40}.{'0' * 16}.c00"])
    def test_nor_those_of_nobody(self, name: object) -> None:
        assert read_connection("N", 7, name, ACCEPTED, ACCEPTED, 5.0) is None

    @pytest.mark.parametrize(
        ("told_after", "age"),
        [(timedelta(seconds=3), 3.0), (timedelta(hours=3), 10_800.0), (timedelta(hours=-3), 0.0)],
    )
    def test_how_old_it_is_the_brokers_clock_says_and_nobody_elses(self, told_after: timedelta, age: float) -> None:
        """Whatever the time of day is here; a clock that was set back meanwhile makes nothing younger than now."""
        accepted = datetime(2000, 1, 1, tzinfo=UTC)
        name = connection_name(access().identity.id, "0" * 16, SESSION)
        read = read_connection("N", 7, name, accepted.isoformat(), (accepted + told_after).isoformat(), 50_000.0)
        assert read is not None
        assert read.accepted == 50_000.0 - age
