"""Key login and key registration.

The rules, in the order in which they are applied to an answer:

1. The challenge was made by this installation, for this key and purpose, and has not expired (`nonce.py`).
2. Its nonce is burnt, in a transaction of its own: also a wrong answer uses it up.
3. The signature holds (`proof.py`).
4. The key is registered and live, and its identity may do something now. An unknown key gets a challenge like any other
   and fails here, with the same answer as a wrong signature.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from challenge import store
from challenge.nonce import Challenge, Purpose, make_challenge, open_challenge
from challenge.proof import check_proof
from iam.access import Access, Denied
from iam.clock import CLOCK_MAY_GO_BACK
from iam.directory import Directory
from iam.errors import unauthenticated
from iam.identifiers import Clock, Random, uuid7
from iam.model import Credential, CredentialKind, Identity, IdentityStatus, IdentityType, Scope, Tenant
from iam.public_keys import Invalid, PublicKey, check_key_type, parse_public_key
from iam.service.identities import IdentityService
from iam.service.login import LoginService
from iam.service.tokens import Issued
from iam.store import identities
from iam.store.database import EVERYWHERE, Database, Transaction

CHALLENGE_LIFETIME = timedelta(minutes=2)
METHOD = "pop"
"""Proof of possession of a key (RFC 8176 2)."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A challenge, and a signature over it by the key it was made for; nothing of it checked yet."""

    public_key: str
    challenge: str
    signature: str


class ChallengeService:
    """Challenges, and what their answers are good for.

    Args:
        secrets: The keys of challenges: `iam.sealing.derive_all(master, "challenge")`, as they are now.
    """

    def __init__(
        self,
        database: Database,
        directory: Directory,
        people: IdentityService,
        login: LoginService,
        secrets: Callable[[], Sequence[bytes]],
        clock: Clock,
        random: Random,
        *,
        audience: str,
    ) -> None:
        self._database = database
        self._directory = directory
        self._people = people
        self._login = login
        self._secrets = secrets
        self._clock = clock
        self._random = random
        self._audience = audience

    def challenge(self, public_key: str, purpose: Purpose) -> Challenge:
        """Return a challenge for whoever holds this key; raise `Refused` (malformed) if it is no key that we take."""
        return make_challenge(
            self._secrets()[0],
            spki=parse_public_key(public_key).spki,
            purpose=purpose,
            audience=self._audience,
            now=self._clock(),
            lifetime=CHALLENGE_LIFETIME,
            random=self._random,
        )

    async def log_in(self, answer: Answered) -> Issued:
        """Return a token for an answered challenge.

        Raises:
            Refused: (unauthenticated) By any of the rules; only the log learns by which.
        """
        key = await self._proved(answer, Purpose.LOGIN)
        # Everywhere: the tenant is what the key will tell.
        async with self._database.transaction(EVERYWHERE) as transaction:
            credential = await identities.credential_by_public_key(transaction, key.spki)
        if credential is None:
            raise unauthenticated("a key that is not registered")
        if credential.revoked is not None:
            raise unauthenticated(f"credential {credential.id} is revoked")
        access = await self._directory.access(credential.identity)
        if isinstance(access, Denied):
            raise unauthenticated(access.reason)
        return await self._login.start_session(access, (METHOD,), proved_with=credential.id)

    async def register_invited(self, answer: Answered, code: str, type_: IdentityType, name: str) -> Identity:
        """Complete an invitation with a key.

        Raises:
            Refused: (unauthenticated) The proof or the code does not hold, or the code invites another. (malformed)
                The key is not of the algorithm of this type. (conflict) The key was registered before.
        """
        key = await self._proved(answer, Purpose.REGISTER)
        check_key_type(type_, key.algorithm)
        async with self._people.completion(code) as (transaction, identity):
            if identity.name != name or identity.type is not type_:
                raise unauthenticated(f"the code invites the {identity.type} {identity.name}, not the {type_} {name}")
            await self._add_key(transaction, identity, key)
        return identity

    async def register_by(
        self,
        access: Access,
        tenant: Tenant,
        answer: Answered,
        type_: IdentityType,
        name: str,
        role_name: str,
        scope: Scope,
    ) -> Identity:
        """Register a key on an administrator's word.

        Raises:
            Refused: (unauthenticated) The proof does not hold. (malformed, forbidden, not found, conflict) As for an
                invitation by the same administrator.
        """
        key = await self._proved(answer, Purpose.REGISTER)
        check_key_type(type_, key.algorithm)
        creation = self._people.creation(access, tenant, role_name, name, type_, scope, status=IdentityStatus.ACTIVE)
        async with creation as (transaction, identity):
            await self._add_key(transaction, identity, key)
        return identity

    async def purge(self) -> int:
        """Forget nonces whose challenges expired long enough ago: a job of one node."""
        async with self._database.transaction(EVERYWHERE) as transaction:
            return await store.purge(transaction, transaction.now - CLOCK_MAY_GO_BACK)

    async def _proved(self, answer: Answered, purpose: Purpose) -> PublicKey:
        """Return the key that the answer proves, by rules 1 to 3."""
        key = parse_public_key(answer.public_key)
        nonce = open_challenge(
            self._secrets(),
            answer.challenge,
            spki=key.spki,
            purpose=purpose,
            audience=self._audience,
            now=self._clock(),
        )
        async with self._database.transaction(EVERYWHERE) as transaction:
            if not await store.burn(transaction, nonce):
                raise unauthenticated("the challenge was answered before")
        verdict = check_proof(key, answer.signature, answer.challenge)
        if isinstance(verdict, Invalid):
            raise unauthenticated(f"the signature does not hold: {verdict.reason}")
        return key

    async def _add_key(self, transaction: Transaction, identity: Identity, key: PublicKey) -> None:
        await identities.insert_credential(
            transaction,
            Credential(
                id=uuid7(transaction.now, self._random),
                identity=identity.id,
                tenant=identity.tenant,
                kind=CredentialKind.PUBLIC_KEY,
                created=transaction.now,
                public_key=key.spki,
            ),
        )
