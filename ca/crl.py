"""Revocation lists (RFC 5280 5): which certificates of one authority no longer count.

The rules:

1. A list is complete: every revoked certificate of the authority that has not ended; one that has ended stays for the
   first list after its end, then leaves (RFC 5280 3.3).
2. Numbers rise by one from list to list (5.2.3).
3. Version 2, with authorityKeyIdentifier and cRLNumber, neither critical (5.2.1, 5.2.3).
4. An entry says its reason unless that is unspecified, which is said by silence (5.3.1).
5. `thisUpdate` is backdated by nothing; `nextUpdate` is the end of the list's life, and a new one is due at half of it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.x509.oid import CRLEntryExtensionOID, ExtensionOID

from ca.encoding import (
    ENUMERATED,
    encode_extension,
    encode_integer,
    encode_raw_extension,
    encode_signed,
    encode_time,
)
from ca.inventory import REASON_CODES, RevocationReason
from ca.issue import issuer_key_identifier
from ca.keystore import Signer
from certs.der import CONTEXT_0, SEQUENCE, encode

_VERSION_2 = encode_integer(1)

LIFE = timedelta(hours=24)
"""How long a list holds; a new one is made at half of it, or as soon as something is revoked."""

OFFLINE_LIFE = timedelta(days=90)
"""The same for an authority whose key may be away: the root."""


@dataclass(frozen=True, slots=True)
class Revoked:
    """One entry of a list."""

    serial: bytes
    at: datetime
    reason: RevocationReason


@dataclass(frozen=True, slots=True)
class RevocationList:
    """A signed list, as it is published."""

    der: bytes
    number: int
    this_update: datetime
    next_update: datetime

    def is_past_half(self, now: datetime) -> bool:
        """Tell whether half of its life is over (rule 5)."""
        return now >= self.this_update + (self.next_update - self.this_update) / 2


def build_revocation_list(
    issuer: x509.Certificate,
    signer: Signer,
    revoked: Iterable[Revoked],
    *,
    number: int,
    now: datetime,
    life: timedelta,
) -> RevocationList:
    """Sign the list of `revoked`; raise `Refused` (unavailable) if the key is gone."""
    this_update = now.replace(microsecond=0)
    next_update = this_update + life
    entries = b"".join(map(_encode_entry, revoked))
    extensions = encode(
        SEQUENCE,
        encode_extension(issuer_key_identifier(issuer), critical=False),
        encode_raw_extension(ExtensionOID.CRL_NUMBER, encode_integer(number)),
    )
    to_be_signed = encode(
        SEQUENCE,
        _VERSION_2,
        signer.algorithm,
        issuer.subject.public_bytes(),
        encode_time(this_update),
        encode_time(next_update),
        encode(SEQUENCE, entries) if entries else b"",  # RFC 5280 5.1.2.6: absent when there are none
        encode(CONTEXT_0, extensions),
    )
    der = encode_signed(to_be_signed, signer.algorithm, signer.sign(to_be_signed))
    return RevocationList(der, number, this_update, next_update)


def _encode_entry(entry: Revoked) -> bytes:
    extensions = b""
    if entry.reason is not RevocationReason.UNSPECIFIED:
        reason = encode(ENUMERATED, bytes((REASON_CODES[entry.reason],)))
        extensions += encode_raw_extension(CRLEntryExtensionOID.CRL_REASON, reason)
    return encode(
        SEQUENCE,
        encode_integer(int.from_bytes(entry.serial)),
        encode_time(entry.at),
        encode(SEQUENCE, extensions) if extensions else b"",
    )
