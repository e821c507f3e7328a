"""Revocation lists (RFC 5280 5): what one says, and when one is due.

The rules:

1. A complete list has every certificate of its scope that is revoked or on hold and has not ended; one that has ended
   stays for the first list after its end, then leaves (3.3). The scope is an authority's whole or one partition of it.
2. A delta list (5.2.4) has what changed since a complete list, its base: what was revoked, held or, as removeFromCRL,
   released. Its base is the oldest complete list that has not ended: whoever holds any that counts is brought up to
   date.
3. Numbers rise from list to list of one scope, whether complete or delta (5.2.3); a delta made together with a complete
   list has its number.
4. Version 2, with authorityKeyIdentifier and cRLNumber, neither critical (5.2.1, 5.2.3). A partition's lists say which
   one it is in a critical issuingDistributionPoint, by the address that certificates name (5.2.5). A delta has a
   critical deltaCRLIndicator. A complete list says where its delta is, by freshestCRL, not critical (5.2.6).
5. `thisUpdate` is backdated by nothing; `nextUpdate` is the end of the list's life.
6. A list is due at half of the last one's life, or as soon as it has news. What took long to make waits with its news
   for `REST` times as long, so that it never takes more than a small part of the time; the delta has them meanwhile.
   One that begins in the future, since a clock was wrong, is replaced at once.

Entries are made by the store, each once (`revocation_entry` in its schema); here they are only put together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from ca.encoding import encode_extension, encode_raw_extension, encode_signed, encode_time
from ca.issue import issuer_key_identifier
from ca.partition import WHOLE, Partition, delta_address
from ca.signers import Signer
from certs.der import CONTEXT_0, SEQUENCE, encode, encode_integer

_VERSION_2 = encode_integer(1)

REST: Final = 20

_SKEW = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class RevocationList:
    """A signed list, as it is published; `base_number` is None for a complete one."""

    der: bytes
    number: int
    this_update: datetime
    next_update: datetime
    base_number: int | None = None


@dataclass(frozen=True, slots=True)
class Head:
    """What is known of a list without reading it.

    Attributes:
        revocation_number: It has every change of its scope that has this number or a smaller one.
        seconds: How long it took to make.
    """

    number: int
    this_update: datetime
    next_update: datetime
    revocation_number: int
    seconds: float

    @property
    def half(self) -> datetime:
        """When half of its life is over."""
        return self.this_update + (self.next_update - self.this_update) / 2

    def due(self, newest: int) -> datetime:
        """Return when the next one is due, if the newest change of its scope has that number (rule 6)."""
        if newest <= self.revocation_number:
            return self.half
        return min(self.half, self.this_update + timedelta(seconds=REST * self.seconds))

    def is_due(self, newest: int, now: datetime) -> bool:
        """Tell whether the next one is due now."""
        return now >= self.due(newest) or now < self.this_update - _SKEW


class Step(Enum):
    """What is to be made now of one scope."""

    NOTHING = "nothing is due"
    DELTA = "the delta list is due"
    BOTH = "the complete list is due, and the delta list with it"


def next_step(complete: Head | None, delta: Head | None, newest: int, now: datetime, *, has_deltas: bool) -> Step:
    """Decide what is to be made now (rule 6), given the newest lists and the newest change of their scope."""
    if complete is None or complete.is_due(newest, now):
        return Step.BOTH
    if has_deltas and (delta is None or delta.is_due(newest, now)):
        return Step.DELTA
    return Step.NOTHING


@dataclass(frozen=True, slots=True)
class Scope:
    """What a list is about.

    Attributes:
        issuer: The authority's certificate.
        address: Where the complete list is published, if that is known.
        has_deltas: Whether there are delta lists beside the complete ones.
    """

    issuer: x509.Certificate
    partition: Partition = WHOLE
    address: str | None = None
    has_deltas: bool = False


def build_revocation_list(
    scope: Scope,
    signer: Signer,
    entries: Sequence[bytes],
    *,
    number: int,
    now: datetime,
    life: timedelta,
    base_number: int | None = None,
) -> RevocationList:
    """Sign a list; raise `Refused` (unavailable) if the key is gone.

    Args:
        entries: What it holds, in DER; each piece is one entry or more.
        base_number: Of the complete list that a delta list is about; None makes a complete one.
    """
    this_update = now.replace(microsecond=0)
    next_update = this_update + life
    to_be_signed = encode(
        SEQUENCE,
        _VERSION_2,
        signer.algorithm,
        scope.issuer.subject.public_bytes(),
        encode_time(this_update),
        encode_time(next_update),
        encode(SEQUENCE, *entries) if entries else b"",  # 5.1.2.6: absent when there are none
        encode(CONTEXT_0, encode(SEQUENCE, *_extensions(scope, number, base_number))),
    )
    der = encode_signed(to_be_signed, signer.algorithm, signer.sign(to_be_signed))
    return RevocationList(der, number, this_update, next_update, base_number)


def _extensions(scope: Scope, number: int, base_number: int | None) -> list[bytes]:
    found = [
        encode_extension(issuer_key_identifier(scope.issuer), critical=False),
        encode_raw_extension(ExtensionOID.CRL_NUMBER, encode_integer(number)),
    ]
    if base_number is not None:
        indicator = encode_integer(base_number)
        found.append(encode_raw_extension(ExtensionOID.DELTA_CRL_INDICATOR, indicator, critical=True))
    if scope.address is not None and not scope.partition.is_whole:
        found.append(encode_extension(_distribution_point(scope.address), critical=True))
    if scope.address is not None and scope.has_deltas and base_number is None:
        found.append(encode_extension(_freshest(scope.address), critical=False))
    return found


def _distribution_point(address: str) -> x509.IssuingDistributionPoint:
    return x509.IssuingDistributionPoint(
        full_name=[x509.UniformResourceIdentifier(address)],
        relative_name=None,
        only_contains_user_certs=False,
        only_contains_ca_certs=False,
        only_some_reasons=None,
        indirect_crl=False,
        only_contains_attribute_certs=False,
    )


def _freshest(address: str) -> x509.FreshestCRL:
    names = [x509.UniformResourceIdentifier(delta_address(address))]
    return x509.FreshestCRL([x509.DistributionPoint(names, None, None, None)])
