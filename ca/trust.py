"""Which keys of authorities are believed in no certificate, by whom, and for how long.

The rules:

1. A key of ours, one that signs here or did, is believed by nobody once its authority is trusted no more, whoever
   signed the certificate that it stands in: neither in a link of a rollover, nor in its own below an authority that is
   trusted, nor in one pinned under another name. So whoever judges a chain that was sent asks `believable` first.
2. An external authority's key is elsewhere, and anybody may say of it what he likes. What a tenant says holds for the
   tenant itself and those below it, and for nobody else; so what the owner of the platform says holds for all. Where
   several say something, it is believed only if none of them distrusts it.
3. Distrust outlasts the authority: what is deleted while it is distrusted stays so, and nothing that is taken in later
   brings it back. Until it is deleted, what may be undone (`ca.authority`) brings the trust back.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from uuid import UUID

from cryptography import x509

from ca.authority import Authority, AuthorityOrigin
from ca.issue import encoded_key
from certs.chain import INTERMEDIATES_MAXIMUM
from certs.errors import CertificateRefused
from certs.keys import AUTHORITY_KEYS, check_key_strength, read_public_key
from certs.pem import read_certificate

_log = logging.getLogger("ca.trust")


@dataclass(frozen=True, slots=True)
class DistrustedKey:
    """The key of an authority that was deleted when it was distrusted.

    Attributes:
        tenant: Whose authority it was.
        was_ours: It signed here (rule 1); otherwise it was an external one's (rule 2).
        authority: What that was called.
    """

    spki_sha256: bytes
    tenant: UUID
    was_ours: bool
    authority: str
    deleted: datetime

    def reaches(self, path: Sequence[UUID]) -> bool:
        """Tell whether it holds for a tenant, given those above it and itself."""
        return self.was_ours or self.tenant in path


@dataclass(frozen=True, slots=True)
class Distrust:
    """What is believed no more.

    Attributes:
        by_all: The fingerprints of keys by rule 1.
        by_tenant: Those by rule 2, for each tenant that says so.
        deleted: What rule 3 is about, by fingerprint.
    """

    by_all: frozenset[bytes] = frozenset()
    by_tenant: Mapping[UUID, frozenset[bytes]] = field(default_factory=dict)
    deleted: Mapping[bytes, tuple[DistrustedKey, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, authorities: Iterable[Authority], deleted: Iterable[DistrustedKey]) -> "Distrust":
        """Return what follows from these authorities, and from those that are gone."""
        by_all: set[bytes] = set()
        by_tenant: defaultdict[UUID, set[bytes]] = defaultdict(set)
        gone: defaultdict[bytes, list[DistrustedKey]] = defaultdict(list)
        for one in authorities:
            if not one.is_trusted:
                is_ours = one.origin is not AuthorityOrigin.EXTERNAL
                (by_all if is_ours else by_tenant[one.tenant]).add(one.spki_sha256)
        for key in deleted:
            (by_all if key.was_ours else by_tenant[key.tenant]).add(key.spki_sha256)
            gone[key.spki_sha256].append(key)
        return cls(
            frozenset(by_all),
            {tenant: frozenset(keys) for tenant, keys in by_tenant.items()},
            {spki_sha256: tuple(keys) for spki_sha256, keys in gone.items()},
        )

    def reaches(self, spki_sha256: bytes, path: Sequence[UUID]) -> bool:
        """Tell whether a key is distrusted by a tenant, given those above it and itself; by none: by all."""
        return spki_sha256 in self.by_all or any(spki_sha256 in self.by_tenant.get(one, ()) for one in path)

    def was_deleted(self, spki_sha256: bytes, path: Sequence[UUID]) -> DistrustedKey | None:
        """Return what is known of a key that is distrusted for good, if it is so by such a tenant."""
        return next((one for one in self.deleted.get(spki_sha256, ()) if one.reaches(path)), None)

    def covers(self, certificate: x509.Certificate, path: Sequence[UUID]) -> bool:
        """Tell whether a certificate is for a key that is distrusted by such a tenant."""
        if not self._says_anything(path):
            return False
        try:  # the key is encoded anew: written otherwise, it would be the same key
            key = check_key_strength(read_public_key(certificate), AUTHORITY_KEYS)
        except CertificateRefused:
            return False  # no key that an authority may have: `certs.chain` refuses it
        return self.reaches(sha256(encoded_key(key)).digest(), path)

    def believable(self, chain: Sequence[bytes], path: Sequence[UUID]) -> tuple[bytes, ...]:
        """Return a chain that was sent (DER, leaf first) without the authorities in it that are distrusted.

        What cannot be read, and more than may be sent, is left for `certs.chain` to refuse.
        """
        if not self._says_anything(path) or len(chain) > INTERMEDIATES_MAXIMUM + 1:
            return tuple(chain)
        kept = tuple(der for place, der in enumerate(chain) if place == 0 or not self._covers_encoded(der, path))
        if len(kept) < len(chain):
            _log.info("%d certificates sent are for keys that are trusted no more", len(chain) - len(kept))
        return kept

    def _says_anything(self, path: Sequence[UUID]) -> bool:
        return bool(self.by_all) or any(one in self.by_tenant for one in path)

    def _covers_encoded(self, der: bytes, path: Sequence[UUID]) -> bool:
        try:
            return self.covers(read_certificate(der), path)
        except CertificateRefused:
            return False
