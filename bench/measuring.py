"""How the benchmarks measure, and how they tell it.

The rules:

1. CPU is what the kernel counts for each thread while it runs, in nanoseconds (`/proc/<pid>/task/*/schedstat`), user
   and system together. What is used while nobody asks for anything is measured first and taken off.
2. Every figure is the median of several rounds, in which what is to be compared alternates: on a machine that others
   use too, ratios of one run say more than figures of two.
3. Parts are what people know them as: the workers together, PostgreSQL with all its processes, each nats-server.
4. Each run begins with a yardstick: what one verification of a P-256 signature takes on this machine at this hour.
"""

import asyncio
import os
import platform
import ssl
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

Parts = Mapping[str, Sequence[int]]
"""Process numbers by what they are a part of."""


def print_heading(about: str, *packages: str) -> None:
    """Print the machine, the versions of what is measured, and how it is measured."""
    with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    print(f"{platform.platform()}, {os.cpu_count()} cores ({model}), load before {os.getloadavg()[0]:.1f}")
    versions = (f"{package} {version(package)}" for package in packages)
    print(", ".join((f"Python {platform.python_version()}", ssl.OPENSSL_VERSION, *versions)))
    print(f"one verification of a P-256 signature takes {yardstick():.0f} us of CPU at this hour")
    print(f"{about}\n")


def yardstick() -> float:
    """Return the CPU of verifying a P-256 signature over 32 bytes, in microseconds (rule 4)."""
    key, message, algorithm = ec.generate_private_key(ec.SECP256R1()), bytes(32), ec.ECDSA(SHA256())
    public, signature = key.public_key(), key.sign(message, algorithm)
    return median_cpu(lambda: public.verify(signature, message, algorithm), 200)


def median_cpu(work: Callable[[], object], each: int, rounds: int = 5) -> float:
    """Return the CPU of some work in this process, done `each` times in each round, in microseconds."""
    found = []
    for _ in range(rounds):
        began = time.process_time()
        for _ in range(each):
            work()
        found.append((time.process_time() - began) / each * 1e6)
    return statistics.median(found)


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for first, *others in (head, *rows):
        cells = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        print("  ".join((first.ljust(widths[0]), *cells)))
    print()


@dataclass(frozen=True)
class Spent:
    """What so many of something took: seconds of time, and seconds of CPU by part."""

    count: int
    seconds: float
    cpu: Mapping[str, float]

    @property
    def per_second(self) -> float:
        """How many there were in a second."""
        return self.count / self.seconds

    def each(self, *parts: str) -> float:
        """Return the CPU that one of them took of these parts, in microseconds."""
        return sum(self.cpu.get(part, 0.0) for part in parts) / self.count * 1e6


@dataclass
class Found:
    """What the rounds of one kind of work found: what each took, and the seconds of every single one."""

    rounds: list[Spent] = field(default_factory=list)
    times: list[Sequence[float]] = field(default_factory=list)

    def add(self, spent: Spent, times: Sequence[float]) -> None:
        """Add a round."""
        self.rounds.append(spent)
        self.times.append(times)

    def median(self, of: Callable[[Spent], float]) -> float:
        """Return the median of a figure (rule 2)."""
        return statistics.median(map(of, self.rounds))

    def cpu(self, *parts: str) -> float:
        """Return the median CPU that one took of these parts, in microseconds."""
        return self.median(lambda spent: spent.each(*parts))

    def milliseconds(self, percent: int) -> float:
        """Return the median of a percentile of the times: so many percent were quicker."""
        quantiles = (statistics.quantiles(times, n=100, method="inclusive") for times in self.times)
        return statistics.median(each[percent - 1] for each in quantiles) * 1e3


class Gauge:
    """Counts the CPU of a set of processes, which may grow, over stretches of work."""

    def __init__(self, parts: Callable[[], Parts]) -> None:
        self._parts = parts
        self._idle: Mapping[str, float] = {}

    async def learn_idle(self, seconds: float) -> Mapping[str, float]:
        """Look on while nothing is asked for; return the CPU seconds used in a second, by part (rule 1)."""
        self._idle = {}
        stretch = self.begin()
        await asyncio.sleep(seconds)
        spent = stretch.end(1)
        self._idle = {part: used / spent.seconds for part, used in spent.cpu.items()}
        return self._idle

    def begin(self) -> "Stretch":
        """Begin a stretch of work."""
        return Stretch(self, time.perf_counter(), self.read())

    def read(self) -> Mapping[str, float]:
        """Return the CPU seconds used so far, by part."""
        return {part: sum(map(cpu_seconds, processes)) for part, processes in self._parts().items()}

    def idle(self, seconds: float) -> Mapping[str, float]:
        """Return what so many seconds would have used with nothing asked for."""
        return {part: rate * seconds for part, rate in self._idle.items()}


@dataclass(frozen=True)
class Stretch:
    """Work that has begun."""

    gauge: Gauge
    began: float
    before: Mapping[str, float]

    @property
    def seconds(self) -> float:
        """How long it has lasted."""
        return time.perf_counter() - self.began

    def end(self, count: int, seconds: float | None = None) -> Spent:
        """Return what `count` took; `seconds` of it, if what they had put off took the rest."""
        lasted, idle = self.seconds, self.gauge.idle(self.seconds)
        cpu = {
            part: used - self.before.get(part, 0.0) - idle.get(part, 0.0) for part, used in self.gauge.read().items()
        }
        return Spent(count, lasted if seconds is None else seconds, cpu)


def cpu_seconds(process: int) -> float:
    """Return the CPU that a process's living threads have used, in seconds; 0 if it is gone."""
    try:
        threads = list(Path(f"/proc/{process}/task").iterdir())
        return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9
    except OSError:
        return 0.0


def memory_megabytes(processes: Sequence[int]) -> tuple[float, float]:
    """Return the resident memory of processes, and their proportional share of it: shared pages are divided."""
    totals = {"Rss": 0, "Pss": 0}
    for process in processes:
        for line in Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(":")
            if name in totals:
                totals[name] += int(value.split()[0])
    return totals["Rss"] / 1_024, totals["Pss"] / 1_024
