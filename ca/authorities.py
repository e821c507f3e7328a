"""The authorities of this deployment, in memory: made once at the first start, then the same on every node.

The rules:

1. There are three: a root, and below it one that issues devices' and servers' certificates and one that issues the
   bootstrap certificates that devices are made with. All three come to be in one transaction, under a lock: a crash
   leaves all or none, and of two nodes that start at once one makes them.
2. The root's key is on the disk before the transaction commits. If that never happened, the next start takes the key
   that lies there instead of making another, so that no key is ever written over.
3. An authority is found by its id or name; whether it can sign depends on where its key is.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from ca.inventory import AuthorityKind
from ca.issue import SERIAL_BYTES, Addresses, Template, authority, encoded_key
from ca.keystore import Backend, Keystore, RootKey, Signer, SoftwareSigner, describe
from ca.store.authorities import StoredAuthority, insert_authority, list_authorities, lock_authorities, system_tenant
from ca.store.keys import insert_key
from certs.chain import Anchor
from certs.pem import read_certificate
from certs.profile import load_profile
from iam.errors import Kind, Refused, not_found
from iam.identifiers import Clock, Random, uuid7
from iam.store.database import EVERYWHERE, Change, Database

_NODE = "doorward"
_MARK_BYTES = 3


@dataclass(frozen=True)
class Authority:
    """An authority, ready to be used.

    Attributes:
        signer: Its key; None where that is not at hand, as the root's.
        addresses: Where its list and its certificate are published, if that was configured.
    """

    id: UUID
    name: str
    kind: AuthorityKind
    parent: UUID | None
    certificate: x509.Certificate
    der: bytes
    spki_sha256: bytes
    signer: Signer | None
    addresses: Addresses | None

    @cached_property
    def anchor(self) -> Anchor:
        """The authority as one that is trusted: pinned by its name and key."""
        return Anchor.from_certificate(self.certificate)

    def signing(self) -> Signer:
        """Return its key; raise `Refused` (unavailable) if that is not at hand."""
        if self.signer is None:
            raise Refused(Kind.UNAVAILABLE, f"The key of the authority {self.name} is not here.")
        return self.signer


class Authorities:
    """All authorities, and the templates that they issue by.

    Args:
        base_url: Where revocation lists and authorities' certificates are published, without a final slash; None leaves
            the addresses out of certificates.
    """

    def __init__(
        self, database: Database, keystore: Keystore, clock: Clock, random: Random, *, base_url: str | None
    ) -> None:
        self._database = database
        self._keystore = keystore
        self._clock = clock
        self._random = random
        self._base_url = base_url
        self._by_id: dict[UUID, Authority] = {}
        self._templates: dict[tuple[UUID, str], Template] = {}

    async def ensure(self) -> None:
        """Make the authorities if there are none, and read them.

        Raises:
            Refused: (unavailable) The database or a key cannot be used. (not found) There is no tenant `system` yet.
        """
        async with self._database.transaction(EVERYWHERE) as transaction:  # authorities belong to no tenant
            await lock_authorities(transaction)
            stored = await list_authorities(transaction)
            if not stored:
                tenant = await system_tenant(transaction)
                for one in self._make(tenant):
                    if one.key is not None:
                        await insert_key(transaction, one.key)
                    await insert_authority(transaction, one)
                    data = {"id": str(one.id), "spki_sha256": one.spki_sha256.hex()}
                    await transaction.record(Change(tenant, _NODE, "authority.created", one.name, data))
                stored = await list_authorities(transaction)
        self._hold(stored)

    @property
    def all(self) -> tuple[Authority, ...]:
        """All authorities, oldest first."""
        return tuple(self._by_id.values())

    def by_id(self, identifier: UUID) -> Authority:
        """Return an authority; raise `Refused` (not found) if there is none of that id."""
        found = self._by_id.get(identifier)
        if found is None:
            raise not_found(f"authority {identifier}")
        return found

    def by_name(self, name: str) -> Authority:
        """Return an authority; raise `Refused` (not found) if there is none of that name."""
        for one in self._by_id.values():
            if one.name == name:
                return one
        raise not_found("such authority")

    def current(self, kind: AuthorityKind) -> Authority:
        """Return the newest authority of a kind; raise `Refused` (not found) before there is any."""
        for one in reversed(self._by_id.values()):
            if one.kind is kind:
                return one
        raise not_found(f"{kind} authority")

    def template(self, issuer: Authority, profile: str) -> Template:
        """Return what the issuer makes certificates of that profile by.

        Raises:
            Refused: (unavailable) The issuer's key is not at hand.
            ProfileRefused: No profile has that name.
        """
        key = (issuer.id, profile)
        found = self._templates.get(key)
        if found is None:
            found = Template(load_profile(profile), issuer.certificate, issuer.signing(), issuer.addresses)
            self._templates[key] = found
        return found

    def with_root_key(self, one: Authority) -> Authority:
        """Return the authority with its key, if it is the root and the key's file is here now."""
        if one.kind is not AuthorityKind.ROOT:
            return one
        root = self._keystore.root()
        if root is None or root.authority != one.id:
            return one
        return replace(one, signer=root.signer)

    def _hold(self, stored: list[StoredAuthority]) -> None:
        self._by_id = {one.id: self._by_id.get(one.id) or self._open(one) for one in stored}

    def _open(self, one: StoredAuthority) -> Authority:
        return Authority(
            id=one.id,
            name=one.name,
            kind=one.kind,
            parent=one.parent,
            certificate=read_certificate(one.certificate),
            der=one.certificate,
            spki_sha256=one.spki_sha256,
            signer=None if one.key is None or one.key.backend is Backend.FILE else self._keystore.signer(one.key),
            addresses=self._addresses(one.name, one.list_partitions[-1]),
        )

    def _make(self, tenant: UUID) -> list[StoredAuthority]:
        """Make the root and the two below it (rules 1 and 2)."""
        now = self._clock()
        root_key = self._keystore.root() or self._make_root_key()
        mark = root_key.authority.bytes[-_MARK_BYTES:].hex()  # two deployments' authorities have different names
        holder = authority(f"Doorward Root {mark}", encoded_key(root_key.signer.public_key))
        template = Template(load_profile("root"), None, root_key.signer, None)
        issued = template.issue(holder, now, self._random(SERIAL_BYTES))
        kind, public_key = AuthorityKind.ROOT, root_key.signer.public_key
        key = describe(root_key.authority, tenant, kind, public_key, backend=Backend.FILE, sealed=None, now=now)
        root = StoredAuthority(root_key.authority, kind.value, kind, None, issued.der, issued.spki_sha256, key)
        return [
            root,
            self._make_below(root, root_key.signer, tenant, AuthorityKind.ISSUING, f"Doorward Issuing {mark}"),
            self._make_below(root, root_key.signer, tenant, AuthorityKind.FACTORY, f"Doorward Factory {mark}"),
        ]

    def _make_root_key(self) -> RootKey:
        identifier = uuid7(self._clock(), self._random)
        private_key = ec.generate_private_key(ec.SECP384R1())
        self._keystore.keep_root(identifier, private_key)
        return RootKey(identifier, SoftwareSigner(private_key))

    def _make_below(
        self, root: StoredAuthority, signer: Signer, tenant: UUID, kind: AuthorityKind, common_name: str
    ) -> StoredAuthority:
        now = self._clock()
        identifier = uuid7(now, self._random)
        private_key = ec.generate_private_key(ec.SECP256R1())
        template = Template(
            load_profile(kind.value), read_certificate(root.certificate), signer, self._addresses(root.name)
        )
        holder = authority(common_name, encoded_key(private_key.public_key()))
        issued = template.issue(holder, now, self._random(SERIAL_BYTES))
        sealed = self._keystore.seal(identifier, private_key)
        public_key = private_key.public_key()
        key = describe(identifier, tenant, kind, public_key, backend=Backend.SEALED, sealed=sealed, now=now)
        return StoredAuthority(identifier, kind.value, kind, root.id, issued.der, issued.spki_sha256, key)

    def _addresses(self, name: str, partitions: int = 1) -> Addresses | None:
        if self._base_url is None:
            return None
        return Addresses(
            revocation_list=f"{self._base_url}/crl/{name}.crl",
            certificate=f"{self._base_url}/ca/{name}.crt",
            responder=f"{self._base_url}/ocsp",
            partitions=partitions,
        )
