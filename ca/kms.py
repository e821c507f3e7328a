"""Keys as a service: made, taken in, described, used and deleted; never given out.

The rules:

1. A key is a tenant's own. It is found by its id or by one of its aliases; the names of keys need not differ.
2. There is no way out for a private half: no method here returns one, and what is stored is sealed or in a token.
3. A key that comes in is one that a certificate could be made for (`certs.keys`), in PKCS#8 without a password, and
   nobody's yet: not here, not a device's.
4. A key that is an authority's, or is to be, signs nothing that a caller gives, neither messages nor digests. A
   certificate is but a signed message: whoever could sign with such a key could make any certificate, past every
   profile and record.
5. The other way round the same holds: a key that once signed what a caller gave never becomes an authority's, for a
   certificate may be among it (`key_for_authority`). That is on record before the key is asked to.
6. A key is deleted only when no authority is it, or is to be. One in a token is destroyed there first; from when that
   begins it signs nothing, and whoever deletes it again goes on where a token that was away has left it.
7. Each change is on record, and each signature before it leaves.
8. Nobody holds anything of the store while he waits for a key: what is asked before, and noted after, are transactions
   of their own.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any
from uuid import UUID

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_private_key, load_pem_private_key

from ca.keystore import Backend, Keystore, StoredKey, describe
from ca.signers import RSA_BITS, make_private_key
from ca.signing import Message, PrivateKey, SigningAlgorithm, check_fits, verify_message
from ca.store.keys import (
    authorities_of_key,
    count_keys,
    delete_key,
    describe_key,
    find_key,
    insert_key,
    is_key_of_device,
    mark_as_leaving,
    mark_as_signed_raw,
    name_key,
    page_of_keys,
)
from certs.keys import KeyAlgorithm, KeyPolicy, PublicKey, check_public_key
from iam.errors import Kind, Refused, conflict, forbidden, malformed, not_found
from iam.identifiers import Clock, Random, uuid7
from iam.json_patch import Op, Operation, apply_patch
from iam.listing import FilterQuery, ListQuery
from iam.paging import Page
from iam.store.database import EVERYWHERE, Change, Database, Transaction

KEYS = KeyPolicy(frozenset(KeyAlgorithm), rsa_minimum_bits=RSA_BITS[0], rsa_maximum_bits=RSA_BITS[-1])
"""Which keys are taken in."""

ALIASES_MAXIMUM = 16
TAGS_MAXIMUM = 32

_ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_URI = re.compile(r"pkcs11:(?:[a-z-]+=[^;]*;)*id=([0-9a-f-]{36})(?:;[a-z-]+=[^;]*)*")
_PEM_OF_PKCS8 = b"-----BEGIN PRIVATE KEY-----"
_OCTETS_BEFORE_ALGORITHM = re.compile(rb"\x30(?:[\x00-\x7f]|\x81.|\x82..)\x02\x01[\x00\x01]\x30", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Description:
    """What people say of a key."""

    name: str
    tags: tuple[str, ...]
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Statistics:
    """How many keys there are."""

    by_engine: Mapping[str, int]
    by_algorithm: Mapping[str, int]


class KeyService:
    """The keys of all tenants."""

    def __init__(self, database: Database, keystore: Keystore, clock: Clock, random: Random) -> None:
        self._database = database
        self._keystore = keystore
        self._clock = clock
        self._random = random
        self._making = asyncio.Semaphore(1)  # a large RSA key takes a core for seconds

    @property
    def engines(self) -> tuple[str, ...]:
        """Where keys can be made, the usual place first."""
        return self._keystore.engines

    async def page(self, tenant: UUID, query: ListQuery) -> Page[StoredKey]:
        """Return a page of a tenant's keys."""
        async with self._database.transaction(tenant) as transaction:
            return await page_of_keys(transaction, tenant, query)

    async def statistics(self, tenant: UUID, query: FilterQuery) -> Statistics:
        """Return how many of a tenant's keys pass the filters."""
        async with self._database.transaction(tenant) as transaction:
            by_engine = await count_keys(transaction, tenant, query, "engine_id")
            return Statistics(by_engine, await count_keys(transaction, tenant, query, "algorithm"))

    async def key(self, tenant: UUID, named: str) -> StoredKey:
        """Return a key by its id or an alias; raise `Refused` (not found) if the tenant has none such."""
        async with self._database.transaction(tenant) as transaction:
            return await _found(transaction, tenant, named)

    async def create(
        self, tenant: UUID, algorithm: KeyAlgorithm, bits: int, engine: str, said: Description, *, actor: str
    ) -> StoredKey:
        """Make a key.

        Raises:
            Refused: (invalid) The engine does not make such keys, or what was said of it is out of bounds.
                (unavailable) The token cannot be reached.
        """
        if engine not in self.engines:
            raise Refused(Kind.INVALID, f"Keys are not made in {engine} here; they are in {', '.join(self.engines)}.")
        _check_tags(said.tags)
        metadata = _checked_metadata(said.metadata)
        identifier = uuid7(self._clock(), self._random)
        public_key, sealed = await self._make(identifier, algorithm, bits, engine)
        backend = Backend.PKCS11 if sealed is None else Backend.SEALED
        token = engine if engine not in (backend, Backend.SEALED) else None
        now = self._clock()
        made = describe(identifier, tenant, said.name, public_key, backend=backend, sealed=sealed, now=now, token=token)
        made = replace(made, tags=said.tags, metadata=metadata)
        try:
            async with self._database.transaction(tenant) as transaction:
                await insert_key(transaction, made)
                await _record(transaction, made, "key.created", actor)
        except BaseException:
            if backend is Backend.PKCS11:
                await asyncio.shield(self._destroy(made))
            raise
        return made

    async def take_in(self, tenant: UUID, private_key: bytes, said: Description, *, actor: str) -> StoredKey:
        """Take in a key that was made elsewhere: PKCS#8 in DER or PEM, by rule 3.

        Raises:
            Refused: (malformed) It cannot be read. (conflict) It is somebody's already.
            CertificateRefused: (policy) No certificate would be made for it.
        """
        _check_tags(said.tags)
        metadata = _checked_metadata(said.metadata)
        key = await asyncio.to_thread(read_private_key, private_key)
        public_key = check_public_key(key.public_key(), KEYS)
        identifier = uuid7(self._clock(), self._random)
        sealed = self._keystore.seal(identifier, key)
        now = self._clock()
        made = describe(identifier, tenant, said.name, public_key, backend=Backend.SEALED, sealed=sealed, now=now)
        made = replace(made, tags=said.tags, metadata=metadata)
        async with self._database.transaction(EVERYWHERE) as transaction:  # a device of any tenant may have the key
            if await is_key_of_device(transaction, made.spki_sha256):
                raise conflict("This is the key of a device.")
            await insert_key(transaction, made)
            await _record(transaction, made, "key.imported", actor)
        return made

    async def rename(self, tenant: UUID, named: str, name: str, *, actor: str) -> StoredKey:
        """Give a key another name."""
        return await self._change(tenant, named, lambda one, _: _done(replace(one, name=name)), actor)

    async def retag(self, tenant: UUID, named: str, tags: Sequence[str], *, actor: str) -> StoredKey:
        """Give a key these tags and no others."""
        _check_tags(tags)
        return await self._change(tenant, named, lambda one, _: _done(replace(one, tags=tuple(tags))), actor)

    async def patch_metadata(self, tenant: UUID, named: str, patch: Sequence[Operation], *, actor: str) -> StoredKey:
        """Change a key's metadata by a JSON Patch; raises as `iam.json_patch.apply_patch` does."""
        return await self._change(
            tenant, named, lambda one, _: _done(replace(one, metadata=apply_patch(one.metadata, patch))), actor
        )

    async def patch_aliases(self, tenant: UUID, named: str, patch: Sequence[Operation], *, actor: str) -> StoredKey:
        """Change a key's list of aliases by a JSON Patch.

        Raises:
            Refused: (conflict) The patch does not fit, or an alias names another key. (invalid) An alias is out of
                grammar, or there are too many.
        """
        within = [replace(one, path=("aliases", *one.path), source=_within(one)) for one in patch]

        async def change(one: StoredKey, transaction: Transaction) -> StoredKey:
            aliases = apply_patch({"aliases": list(one.aliases)}, within)["aliases"]
            return await name_key(transaction, one, _checked_aliases(aliases))

        return await self._change(tenant, named, change, actor)

    async def delete(self, tenant: UUID, named: str, *, actor: str) -> None:
        """Delete a key, by rule 6.

        Raises:
            Refused: (conflict) It is an authority's. (unavailable) Its token cannot be reached.
        """
        async with self._database.transaction(tenant) as transaction:
            one = await _found(transaction, tenant, named, lock=True)
            if authorities := await authorities_of_key(transaction, one):
                raise conflict(f"The key is the authority's {', '.join(authorities)}, and stays as long as that.")
            if one.backend is not Backend.PKCS11:
                await _delete(transaction, one, actor)
                return
            await mark_as_leaving(transaction, one.id)
        await self._destroy(one)
        async with self._database.transaction(tenant) as transaction:
            one = await _found(transaction, tenant, str(one.id), lock=True)
            await _delete(transaction, one, actor)

    async def sign(
        self, tenant: UUID, named: str, algorithm: SigningAlgorithm, message: Message, *, actor: str
    ) -> bytes:
        """Sign what a caller gives, by rules 4, 5 and 8.

        Raises:
            Refused: (forbidden) The key is an authority's. (invalid) Key, algorithm and message do not fit.
                (conflict) The key is being deleted. (unavailable) The key cannot be used now.
        """
        async with self._database.transaction(tenant) as transaction:
            one = await _found(transaction, tenant, named)
            if one.signed_raw is None:  # the first time: nobody makes it an authority's until this is on record
                one = await _found(transaction, tenant, str(one.id), lock=True)
            if authorities := await authorities_of_key(transaction, one):
                raise forbidden(
                    "The key of an authority signs certificates and lists, and nothing that it is given.",
                    reason=f"{actor} asked for a signature by the key of {', '.join(authorities)}",
                )
            if one.leaves_since is not None:
                raise conflict("The key is being deleted.")
            check_fits(algorithm, one.algorithm, message)
            if one.signed_raw is None:
                await mark_as_signed_raw(transaction, one.id)
        signer = await asyncio.to_thread(self._keystore.signer, one)
        loop = asyncio.get_running_loop()
        signature = await loop.run_in_executor(signer.thread, signer.sign_message, algorithm, message)
        async with self._database.transaction(tenant) as transaction:
            digest = message.content if message.is_digest else sha256(message.content).digest()
            await _record(transaction, one, "key.used", actor, algorithm=algorithm, message=digest.hex())
        return signature

    async def verify(
        self, tenant: UUID, named: str, algorithm: SigningAlgorithm, message: Message, signature: bytes
    ) -> bool:
        """Tell whether a signature is one of this message by this key; raise `Refused` (invalid) if they do not fit."""
        one = await self.key(tenant, named)
        return verify_message(one.public_key, algorithm, message, signature)

    async def _make(
        self, identifier: UUID, algorithm: KeyAlgorithm, bits: int, engine: str
    ) -> tuple[PublicKey, bytes | None]:
        """Return the public half of a new key, and the private one sealed unless it lies in a token."""
        async with self._making:
            if engine != Backend.SEALED:
                return await asyncio.wrap_future(self._keystore.token(engine).make(identifier, algorithm, bits)), None
            private_key = await asyncio.to_thread(make_private_key, algorithm, bits)
        return private_key.public_key(), self._keystore.seal(identifier, private_key)

    async def _destroy(self, one: StoredKey) -> None:
        await asyncio.wrap_future(self._keystore.token(one.engine).destroy(one.id))

    async def _change(
        self,
        tenant: UUID,
        named: str,
        change: Callable[[StoredKey, Transaction], Awaitable[StoredKey]],
        actor: str,
    ) -> StoredKey:
        async with self._database.transaction(tenant) as transaction:
            before = await _found(transaction, tenant, named, lock=True)
            after = await change(before, transaction)
            if after != before:
                await describe_key(transaction, after)
                await _record(transaction, after, "key.changed", actor, aliases=list(after.aliases))
        return after


async def key_for_authority(transaction: Transaction, tenant: UUID, key: UUID) -> StoredKey:
    """Return a key that an authority may be made with, held until the end of the transaction, by rule 5.

    Raises:
        Refused: (not found) The tenant has none such. (conflict) It has signed what a caller gave, is being deleted, is
            an authority's already, or a device has it, as far as the transaction sees devices.
    """
    one = await _found(transaction, tenant, str(key), lock=True)
    if one.leaves_since is not None:
        raise conflict("The key is being deleted.")
    if one.signed_raw is not None:
        raise conflict("This key has signed messages; an authority's key signs certificates and lists alone.")
    if authorities := await authorities_of_key(transaction, one):
        raise conflict(f"The key is the authority's {', '.join(authorities)} already.")
    if await is_key_of_device(transaction, one.spki_sha256):
        raise conflict("This is the key of a device.")
    return one


def read_private_key(content: bytes) -> PrivateKey:
    """Read a private key: PKCS#8 (RFC 5958) without a password, in DER or PEM; its two halves belong together.

    Raises:
        Refused: (malformed) It is none. The text says nothing of what was sent.
    """
    try:
        if content.lstrip().startswith(_PEM_OF_PKCS8):
            key = load_pem_private_key(content, password=None)
        elif _OCTETS_BEFORE_ALGORITHM.match(content):
            key = load_der_private_key(content, password=None)
        else:
            raise malformed("A private key is sent as PKCS#8 without a password, in DER or PEM.")
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise malformed("The private key cannot be read.") from None
    if not isinstance(key, PrivateKey):
        raise malformed("Keys of this kind are not taken.")
    return key


async def _found(transaction: Transaction, tenant: UUID, named: str, *, lock: bool = False) -> StoredKey:
    uri = _URI.fullmatch(named)
    try:
        identifier = UUID(uri[1] if uri else named)
    except ValueError:
        identifier = None
    found = await find_key(transaction, tenant, identifier, named, lock=lock)
    if found is None:
        raise not_found("such key")
    return found


async def _delete(transaction: Transaction, one: StoredKey, actor: str) -> None:
    await delete_key(transaction, one.id)
    await _record(transaction, one, "key.deleted", actor)


async def _record(transaction: Transaction, one: StoredKey, kind: str, actor: str, **further: object) -> None:
    data = {
        "name": one.name,
        "algorithm": one.algorithm.value,
        "engine": one.engine,
        "spki_sha256": one.spki_sha256.hex(),
    }
    await transaction.record(Change(one.tenant, actor, kind, str(one.id), {**data, **further}))


async def _done(one: StoredKey) -> StoredKey:
    return one


def _within(one: Operation) -> tuple[str, ...]:
    return ("aliases", *one.source) if one.op in (Op.MOVE, Op.COPY) else one.source


def _checked_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return apply_patch({}, [Operation(Op.REPLACE, (), dict(metadata))])


def _checked_aliases(aliases: object) -> list[str]:
    if not isinstance(aliases, list) or len(aliases) > ALIASES_MAXIMUM or len(set(map(str, aliases))) != len(aliases):
        raise Refused(Kind.INVALID, f"The aliases of a key are a list of at most {ALIASES_MAXIMUM}, each once.")
    for one in aliases:
        if not isinstance(one, str) or not _ALIAS.fullmatch(one) or _is_uuid(one):
            raise Refused(Kind.INVALID, "An alias is 1 to 128 letters, digits, '.', '_' or '-', and no UUID.")
    return aliases


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def _check_tags(tags: Sequence[str]) -> None:
    if len(set(tags)) != len(tags):
        raise Refused(Kind.INVALID, "A tag stands twice.")
