"""What the clients of a torture were told: the only truth that a node is measured by afterwards."""

import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Told:
    """A certificate that a device was given."""

    device: str
    serial: bytes
    der: bytes
    spki_sha256: bytes


@dataclass
class Journal:
    """Filled by many threads.

    Attributes:
        certificates: In the order in which they were acknowledged.
        revoked: When each revocation was acknowledged, by serial number, on the monotonic clock.
        renewed: The devices that were given a successor.
        role: The last acknowledged number in the role.
        paired: What was acknowledged last of each pairing: whether it is there.
        logged_out: Tokens whose session was ended, and when that was acknowledged.
        list_numbers: The numbers of the revocation lists, as they were seen.
        slowest_cut: The most seconds from a revocation's answer to the end of what was connected by it.
        wrong: What must not have happened, as it is found.
    """

    certificates: list[Told] = field(default_factory=list)
    revoked: dict[bytes, float] = field(default_factory=dict)
    renewed: set[str] = field(default_factory=set)
    role: int = 0
    paired: dict[str, bool] = field(default_factory=dict)
    pairings: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    logged_out: dict[str, float] = field(default_factory=dict)
    list_numbers: list[int] = field(default_factory=list)
    checked: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    wrong: list[str] = field(default_factory=list)
    retries: int = 0
    slowest_cut: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def give(self, told: Told) -> None:
        """Note a certificate."""
        with self._lock:
            self.certificates.append(told)

    def revoke(self, serial: bytes) -> None:
        """Note a revocation."""
        with self._lock:
            self.revoked.setdefault(serial, time.monotonic())

    def retry(self) -> None:
        """Note that something had to be asked again."""
        with self._lock:
            self.retries += 1

    def check(self, what: str, *, holds: bool, otherwise: str) -> None:
        """Note that something was checked, and that it does not hold, if so."""
        with self._lock:
            self.checked[what] += 1
            if not holds:
                self.wrong.append(f"{what}: {otherwise}")
