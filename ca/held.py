"""All authorities at one moment, as a value: found by name and line, by what trusts them, by what is shown of them.

The rules:

1. An authority is found by its id or its name. Who names a line means: for issuing, its newest generation that can;
   for trusting, every generation that is trusted.
2. What was pinned of ours before a rollover stands for the next key too, and for nothing once it is trusted no more.
   What is pinned of others stands for itself, or for the certificate of the same name and key that the tenant, or one
   above it, has taken in, if that lasts longer. Neither holds for a key that the tenant distrusts (`ca.trust`).
3. What is shown to clients leads to the top: each certificate to one that signs itself, and is there too.
"""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import pairwise
from uuid import UUID

from ca.authority import Authority, AuthorityOrigin, AuthorityStatus
from ca.inventory import AuthorityKind
from ca.trust import Distrust, DistrustedKey
from certs.chain import Anchor
from certs.pem import read_certificate
from iam.errors import not_found
from iam.model import Tenant


@dataclass(frozen=True)
class HeldAuthorities:
    """The authorities.

    Attributes:
        by_id: All of them, oldest first.
        by_name: The same by their own names.
        lines: The generations of each line, oldest first.
        ours: Those whose keys sign here, by name and key.
        external: The others, by whose they are.
        claims: Who has taken a key in as an external authority's.
        trusted: Those of which what they signed counts.
        device_anchors: Those whose certificates prove devices.
    """

    by_id: Mapping[UUID, Authority] = field(default_factory=dict)
    by_name: Mapping[str, Authority] = field(default_factory=dict)
    lines: Mapping[str, tuple[Authority, ...]] = field(default_factory=dict)
    ours: Mapping[Anchor, Authority] = field(default_factory=dict)
    external: Mapping[tuple[UUID, Anchor], Authority] = field(default_factory=dict)
    claims: Mapping[bytes, frozenset[UUID]] = field(default_factory=dict)
    trusted: frozenset[UUID] = frozenset()
    device_anchors: tuple[Anchor, ...] = ()
    distrust: Distrust = field(default_factory=Distrust)

    @classmethod
    def of(cls, authorities: Iterable[Authority], deleted: Iterable[DistrustedKey]) -> "HeldAuthorities":
        """Return what follows from these, oldest first, each as the store has it, and from those that are gone."""
        opened = {one.id: one for one in authorities}
        revoked = {one.id for one in opened.values() if one.status is AuthorityStatus.REVOKED}
        placed = {one.id: _placed(one, opened, revoked) for one in opened.values()}
        lines: dict[str, list[Authority]] = {}
        external = [one for one in placed.values() if one.origin is AuthorityOrigin.EXTERNAL]
        claims: dict[bytes, set[UUID]] = {}
        for one in placed.values():
            lines.setdefault(one.line, []).append(one)
        for one in external:
            claims.setdefault(one.spki_sha256, set()).add(one.tenant)
        return cls(
            by_id=placed,
            by_name={one.name: one for one in placed.values()},
            lines={name: tuple(sorted(line, key=lambda one: one.generation)) for name, line in lines.items()},
            ours={one.anchor: one for one in placed.values() if one.origin is not AuthorityOrigin.EXTERNAL},
            external={(one.tenant, one.anchor): one for one in external},
            claims={spki_sha256: frozenset(tenants) for spki_sha256, tenants in claims.items()},
            trusted=frozenset(one.id for one in placed.values() if one.is_trusted),
            device_anchors=tuple(
                one.anchor for one in placed.values() if one.kind is AuthorityKind.ISSUING and one.is_trusted
            ),
            distrust=Distrust.of(placed.values(), deleted),
        )

    # --- Finding (rule 1) -------------------------------------------------------------------------------------------

    def one(self, identifier: UUID) -> Authority:
        """Return an authority; raise `Refused` (not found) if there is none of that id."""
        found = self.by_id.get(identifier)
        if found is None:
            raise not_found(f"authority {identifier}")
        return found

    def named(self, name: str) -> Authority:
        """Return the authority of just that name; raise `Refused` (not found) if there is none."""
        found = self.by_name.get(name)
        if found is None:
            raise not_found("such authority")
        return found

    def find(self, reference: str) -> Authority:
        """Return the newest generation of a line, or one generation by its name or id; raise `Refused` (not found)."""
        if reference in self.lines:
            return self.lines[reference][-1]
        with contextlib.suppress(ValueError):
            return self.one(UUID(reference))
        return self.named(reference)

    def usable(self, tenant: Tenant, caller: Tenant, reference: str) -> Authority:
        """Return an authority that somebody may use for a tenant; raise `Refused` (not found) for any other.

        That is the tenant's own, one of a tenant between the caller's and this one, and the node's own for devices.
        """
        found = self.find(reference)
        is_between = found.tenant in tenant.path[tenant.path.index(caller.id) :] if caller.id in tenant.path else False
        if found.tenant == tenant.id or is_between or found.line == AuthorityKind.ISSUING:
            return found
        raise not_found("such authority")

    def generations(self, identifier: UUID) -> tuple[Authority, ...]:
        """Return all authorities of the line of that authority, oldest first; raise `Refused` (not found)."""
        return self.lines[self.one(identifier).line]

    def issuing(self, line: str, now: datetime) -> Authority | None:
        """Return the newest of a line that can issue, if any can."""
        for one in reversed(self.lines.get(line, ())):
            if one.is_trusted and one.signer is not None and not one.has_expired(now):
                return one
        return None

    def is_certified_here(self, one: Authority) -> bool:
        """Tell whether who certified an authority has his key here: itself, or the one above it."""
        certifier = one if one.is_self_signed else self.by_id.get(one.parent) if one.parent else None
        return certifier is not None and certifier.origin is not AuthorityOrigin.EXTERNAL

    # --- Trusting (rule 2) ------------------------------------------------------------------------------------------

    def anchors(self, identifiers: Iterable[UUID]) -> tuple[Anchor, ...]:
        """Return as anchors all trusted generations of these authorities' lines; of those that are gone, nothing."""
        known = [self.by_id[identifier].line for identifier in identifiers if identifier in self.by_id]
        return tuple(one.anchor for line in dict.fromkeys(known) for one in self.lines[line] if one.is_trusted)

    def followed(self, pinned: Iterable[bytes], path: Sequence[UUID]) -> tuple[bytes, ...]:
        """Return what authorities' certificates (DER) that a tenant pins stand for now.

        Args:
            path: The tenants above it and itself.
        """
        found: dict[bytes, None] = {}
        for der in pinned:
            certificate = read_certificate(der)
            anchor = Anchor.from_certificate(certificate)
            ours = self.ours.get(anchor)
            if ours is not None:
                trusted = (one for one in self.lines[ours.line] if one.is_trusted)
                found |= {one.der: None for one in trusted if not self.distrust.reaches(one.spki_sha256, path)}
            elif not self.distrust.covers(certificate, path):
                known = (self.external.get((tenant, anchor)) for tenant in path)
                taken_in = [(one.certificate.not_valid_after_utc, one.der) for one in known if one is not None]
                found[max([*taken_in, (certificate.not_valid_after_utc, der)])[1]] = None
        return tuple(found)

    def is_claimed(self, spki_sha256: bytes, path: Sequence[UUID]) -> bool:
        """Tell whether a tenant, or one above it, has taken a key in as an external authority's."""
        return not self.claims.get(spki_sha256, frozenset()).isdisjoint(path)

    # --- Showing (rule 3) -------------------------------------------------------------------------------------------

    def published_chain(self, identifier: UUID, now: datetime) -> tuple[bytes, ...]:
        """Return what a client that trusts this authority needs, in DER: it, those above it, and their rollovers.

        Each of them leads to one that signs itself, and is there too (RFC 7030 4.1.3).
        """
        found: dict[bytes, None] = {}
        tops: dict[bytes, None] = {}  # last, since path builders of OpenSSL's kind stop at the first that signs itself
        waiting = [self.one(identifier)]
        seen: set[str] = set()
        while waiting:
            named = waiting.pop(0)
            if named.line in seen:
                continue
            seen.add(named.line)
            line = self.lines[named.line]
            shown = [one for one in reversed(line) if one.is_trusted and not one.has_expired(now)] or [named]
            for one in shown:
                (tops if one.is_self_signed else found)[one.der] = None
                tops |= dict.fromkeys(one.chain)
                if one.parent is not None:
                    waiting.append(self.one(one.parent))
            # RFC 4210 4.4: as long as the earlier key is in use, each is vouched for by the other.
            for later, earlier in pairwise(shown):
                if later.links is not None and later.generation == earlier.generation + 1:
                    found |= {later.links.new_with_old: None, later.links.old_with_new: None}
        return (*found, *tops)


def _placed(one: Authority, opened: Mapping[UUID, Authority], revoked: set[UUID]) -> Authority:
    """Return an authority that knows whether what stands above it is revoked."""
    above, parent = set(), one.parent
    while parent is not None and parent not in above:
        above.add(parent)
        parent = opened[parent].parent
    return replace(one, is_revoked_above=not above.isdisjoint(revoked))
