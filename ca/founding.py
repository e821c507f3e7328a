"""The first start: a root, and below it one authority that issues and one for factories.

The rules:

1. All three come to be in one transaction, under a lock: a crash leaves all or none, and of two nodes that start at
   once one makes them.
2. The root's key is on the disk before the transaction commits. If that never happened, the next start takes the key
   that lies there instead of making another, so that no key is ever written over.
3. Their certificates are on record like all others: so each can be revoked, and no serial number is used twice.
"""

from dataclasses import replace
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric import ec

from ca.authority import AuthorityOrigin
from ca.inventory import AuthorityKind
from ca.issue import SERIAL_BYTES, Addresses, Template, authority, encoded_key
from ca.keystore import Backend, Keystore, RootKey, describe
from ca.recording import put_on_record
from ca.signers import Signer, SoftwareSigner
from ca.store.authorities import (
    StoredAuthority,
    insert_authority,
    list_authorities,
    lock_authorities,
    system_tenant,
)
from ca.store.authority_lists import note_shown_of_earlier
from ca.store.keys import insert_key
from certs.keys import PublicKey
from certs.pem import read_certificate
from certs.profile import load_profile
from iam.identifiers import Clock, Random, uuid7
from iam.store.database import EVERYWHERE, Change, Database

_NODE = "doorward"
_MARK_BYTES = 3
DEFAULT_PROFILES: dict[AuthorityKind, str] = {
    AuthorityKind.ROOT: "issuing",
    AuthorityKind.ISSUING: "device",
    AuthorityKind.FACTORY: "bootstrap",
    AuthorityKind.EXTERNAL: "device",
}
"""What an authority of a kind issues by where nobody says."""


async def found_authorities(
    database: Database, keystore: Keystore, clock: Clock, random: Random, *, base_url: str | None
) -> None:
    """Make the three if there are none, and put on record what an earlier version did not of those that it made.

    Raises:
        Refused: (unavailable) The database or a key cannot be used. (not found) There is no tenant `system` yet.
    """
    async with database.transaction(EVERYWHERE) as transaction:  # the node itself acts, for no tenant
        await lock_authorities(transaction)
        stored = await list_authorities(transaction)
        if not stored:
            founding = _Founding(keystore, clock, random, base_url, await system_tenant(transaction))
            stored = founding.make()
            for one in stored:
                if one.key is not None:
                    await insert_key(transaction, one.key)
                await insert_authority(transaction, one, {})
                data = {"id": str(one.id), "spki_sha256": one.spki_sha256.hex()}
                await transaction.record(Change(one.tenant, _NODE, "authority.created", one.name, data))
        for one in stored:
            if one.origin is AuthorityOrigin.MANAGED and one.serial is None:
                await put_on_record(transaction, one, one.kind.value)
        await note_shown_of_earlier(transaction)


class _Founding:
    def __init__(self, keystore: Keystore, clock: Clock, random: Random, base_url: str | None, tenant: UUID) -> None:
        self._keystore = keystore
        self._clock = clock
        self._random = random
        self._base_url = base_url
        self._tenant = tenant

    def make(self) -> list[StoredAuthority]:
        """Make the root and the two below it (rules 1 and 2)."""
        root_key = self._keystore.root() or self._make_root_key()
        mark = root_key.authority.bytes[-_MARK_BYTES:].hex()  # two deployments' authorities have different names
        template = Template(load_profile("root"), None, root_key.signer, None)
        root = self._authority(root_key.authority, AuthorityKind.ROOT, None)
        holder = authority(f"Doorward Root {mark}", encoded_key(root_key.signer.public_key))
        issued = template.issue(holder, self._clock(), self._random(SERIAL_BYTES))
        root = replace(root, certificate=issued.der, spki_sha256=issued.spki_sha256)
        root = self._with_key(root, root_key.signer.public_key, Backend.FILE, None)
        return [
            root,
            self._make_below(root, root_key.signer, AuthorityKind.ISSUING, f"Doorward Issuing {mark}"),
            self._make_below(root, root_key.signer, AuthorityKind.FACTORY, f"Doorward Factory {mark}"),
        ]

    def _make_root_key(self) -> RootKey:
        identifier = uuid7(self._clock(), self._random)
        private_key = ec.generate_private_key(ec.SECP384R1())
        self._keystore.keep_root(identifier, private_key)
        return RootKey(identifier, SoftwareSigner(private_key))

    def _make_below(
        self, root: StoredAuthority, signer: Signer, kind: AuthorityKind, common_name: str
    ) -> StoredAuthority:
        now = self._clock()
        private_key = ec.generate_private_key(ec.SECP256R1())
        issuer = read_certificate(root.certificate)
        template = Template(load_profile(kind.value), issuer, signer, addresses_of(self._base_url, root.name))
        holder = authority(common_name, encoded_key(private_key.public_key()))
        issued = template.issue(holder, now, self._random(SERIAL_BYTES))
        made = self._authority(uuid7(now, self._random), kind, root.id)
        sealed = self._keystore.seal(made.id, private_key)
        made = replace(made, certificate=issued.der, spki_sha256=issued.spki_sha256)
        return self._with_key(made, private_key.public_key(), Backend.SEALED, sealed)

    def _with_key(
        self, one: StoredAuthority, public_key: PublicKey, backend: Backend, sealed: bytes | None
    ) -> StoredAuthority:
        key = describe(one.id, one.tenant, one.name, public_key, backend=backend, sealed=sealed, now=self._clock())
        return replace(one, key=key)

    def _authority(self, identifier: UUID, kind: AuthorityKind, parent: UUID | None) -> StoredAuthority:
        return StoredAuthority(
            id=identifier,
            name=kind.value,
            line=kind.value,
            generation=1,
            kind=kind,
            origin=AuthorityOrigin.MANAGED,
            tenant=self._tenant,
            parent=parent,
            certificate=b"",
            spki_sha256=b"",
            key=None,
            profile=DEFAULT_PROFILES[kind],
            serial=None,
        )


def addresses_of(base_url: str | None, name: str, partitions: int = 1) -> Addresses | None:
    """Return where an authority's list and certificate are published and OCSP answered, if anywhere."""
    if base_url is None:
        return None
    return Addresses(
        revocation_list=f"{base_url}/crl/{name}.crl",
        certificate=f"{base_url}/ca/{name}.crt",
        responder=f"{base_url}/ocsp",
        partitions=partitions,
    )
