"""How the revocation lists of an authority are cut into partitions (RFC 5280 5.2.5), so that none grows too large.

The rules:

1. There are 1, 2, 4 ... 256 partitions. The last octet of a certificate's serial number, its slot, says in which one it
   is: partition `i` of `n` has the `i`th of `n` equal ranges of slots. So nothing need be remembered of a certificate.
2. A certificate names its partition's address, in which `n` and `i` stand. When the number changes, those issued before
   go on naming the old ones, which go on being published; the new number is for certificates to come.
3. The whole is partition 0 of 1, and has the address without any number.
"""

from dataclasses import dataclass
from typing import Final, Self

SLOTS: Final = 256
COUNTS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)

_SUFFIX = ".crl"


@dataclass(frozen=True, slots=True, order=True)
class Partition:
    """Partition `index` of `count`."""

    count: int
    index: int

    @classmethod
    def of_serial(cls, serial: bytes, count: int) -> Self:
        """Return the one of `count` that a serial number (big-endian) is in."""
        return cls(count, serial[-1] * count // SLOTS)

    @property
    def is_whole(self) -> bool:
        """Whether it is all there is."""
        return self.count == 1

    @property
    def slots(self) -> range:
        """The slots that it has."""
        width = SLOTS // self.count
        return range(self.index * width, (self.index + 1) * width)

    def address(self, whole: str) -> str:
        """Return the address of its list, given that of the whole list (rules 2 and 3)."""
        if self.is_whole:
            return whole
        return f"{whole.removesuffix(_SUFFIX)}/{self.count}/{self.index}{_SUFFIX}"


WHOLE: Final = Partition(1, 0)


def partitions_of(counts: tuple[int, ...]) -> tuple[Partition, ...]:
    """Return all partitions of each of these numbers of them."""
    return tuple(Partition(count, index) for count in sorted(set(counts)) for index in range(count))


def counts_after(counts: tuple[int, ...], count: int) -> tuple[int, ...]:
    """Return all numbers that there ever were, once `count` is the present one: 1 first, the present one last."""
    others = tuple(one for one in counts if one not in {1, count})
    return (1, *others, count) if others or count != 1 else (1,)


def delta_address(complete: str) -> str:
    """Return where the delta list is that belongs to the complete list at that address."""
    return f"{complete.removesuffix(_SUFFIX)}/delta{_SUFFIX}"
