"""Logging in and staying so: passwords, sessions, refresh tokens, logging out.

The rules:

1. A refresh token is used once. Its second use within `REFRESH_GRACE` gives the same successor to the same client, for
   an answer may be lost; later it ends the session, for it was stolen.
2. A password costs the same work whether the name is known or not; attempts are throttled by account and by address
   (`throttle.py`). A throttled login touches no session that the account has.
"""

import hashlib
import secrets
from datetime import timedelta
from uuid import UUID

from iam.access import Access, Authenticated, Denied
from iam.directory import Directory
from iam.errors import unauthenticated
from iam.events import affects_identity
from iam.identifiers import Clock, Random, uuid7
from iam.passwords import Mismatched, PasswordHasher
from iam.sealing import MasterKey, open_sealed, seal
from iam.service.throttle import by_account, by_address, charge, forgive
from iam.service.tokens import FIRST_PARTY, Issued, TokenService
from iam.store import identities, sessions
from iam.store.database import EVERYWHERE, Change, Database, Transaction

REFRESH_LIFETIME = timedelta(days=7)
REFRESH_GRACE = timedelta(seconds=10)


class LoginService:
    """Passwords, sessions and refresh tokens."""

    def __init__(
        self,
        database: Database,
        directory: Directory,
        tokens: TokenService,
        passwords: PasswordHasher,
        master_key: MasterKey,
        clock: Clock,
        random: Random,
    ) -> None:
        self._database = database
        self._directory = directory
        self._tokens = tokens
        self._passwords = passwords
        self._master_key = master_key
        self._clock = clock
        self._random = random

    async def by_password(self, name: str, password: str, address: str, *, offline: bool) -> Issued:
        """Return tokens for a name and password; a refresh token too if `offline`.

        Raises:
            Refused: (unauthenticated) They do not fit. (throttled) Too many did not, or too many at once.
        """
        # Everywhere: the tenant is what the name will tell.
        async with self._database.transaction(EVERYWHERE) as transaction:
            await charge(transaction, [by_account(name), by_address(address)])
            owner = await identities.password_owner(transaction, name)
        holds = await self._passwords.verify(password, owner.password_hash if owner else None)
        if owner is None or isinstance(holds, Mismatched):
            raise unauthenticated(f"password of {name!r} from {address}" if owner else f"unknown name from {address}")
        async with self._database.transaction(EVERYWHERE) as transaction:
            await forgive(transaction, name, address)
        if holds.needs_rehash:
            await self._rehash(owner.credential, password)
        access = await self._access(owner.identity)
        return await self.start_session(access, ("pwd",), offline=offline, proved_with=owner.credential)

    async def start_session(
        self,
        access: Access,
        methods: tuple[str, ...],
        *,
        offline: bool = False,
        proved_with: UUID | None = None,
        lifetime: timedelta | None = None,
    ) -> Issued:
        """Start a session for somebody who has just proved himself, and return its tokens."""
        now = self._clock()
        lasts = lifetime or self._tokens.lifetime_of(access.identity.type)
        session = sessions.Session(
            id=uuid7(now, self._random),
            identity=access.identity.id,
            tenant=access.tenant.id,
            client_id=FIRST_PARTY,
            methods=methods,
            created=now,
            expires=now + (REFRESH_LIFETIME if offline else lasts),
        )
        refresh = _new_refresh_token() if offline else None
        async with self._database.transaction(access.tenant.id) as transaction:
            await sessions.insert_session(transaction, session)
            if refresh is not None:
                await sessions.insert_refresh_token(transaction, _hash(refresh), session, session.expires)
            if proved_with is not None:
                await identities.mark_used(transaction, proved_with)
            await transaction.record(
                Change(
                    access.tenant.id,
                    access.identity.id,
                    "session.started",
                    access.identity.id,
                    {"session": str(session.id), "methods": list(methods)},
                )
            )
        return await self._tokens.issue(access, session, refresh, lasts)

    async def refresh(self, refresh_token: str, *, offline: bool) -> Issued:
        """Exchange a refresh token (rule 1).

        Raises:
            Refused: (unauthenticated) It is unknown, expired, used before, or its identity may do nothing now.
        """
        successor = _new_refresh_token()
        context = _seal_context(refresh_token)
        sealed = seal(self._master_key, successor.encode(), context=context, random=self._random)
        # Everywhere: whose it is, the token tells.
        async with self._database.transaction(EVERYWHERE) as transaction:
            used = await sessions.use_refresh_token(transaction, _hash(refresh_token), sealed)
            reused = used is not None and used.used is not None and not used.used_now
            # A use in the future was by a clock that was ahead: how long ago that is nobody knows, and so no grace.
            stolen = (
                reused
                and used is not None
                and used.used is not None
                and abs(transaction.now - used.used) > REFRESH_GRACE
            )
            if used is not None and used.used_now and not used.session_revoked:
                expires = transaction.now + REFRESH_LIFETIME
                await sessions.insert_refresh_token(transaction, _hash(successor), used.session, expires)
                await sessions.extend_session(transaction, used.session.id, expires)
            if stolen and used is not None:
                await self._end(transaction, used.session, "session.reused_refresh_token")
        if used is None or used.used is None:
            raise unauthenticated("a refresh token that is unknown or expired")
        if used.session_revoked or stolen:
            raise unauthenticated(f"session {used.session.id} is over" if not stolen else "a refresh token used twice")
        if reused:
            successor = open_sealed(self._master_key, used.successor_sealed or b"", context=context).decode()
        access = await self._access(used.session.identity)
        lasts = self._tokens.lifetime_of(access.identity.type)
        return await self._tokens.issue(access, used.session, successor if offline else None, lasts)

    async def log_out(self, caller: Authenticated) -> None:
        """End the caller's session: its tokens are worth nothing from now on, on every node."""
        if caller.session is None:
            return
        access = caller.access
        async with self._database.transaction(access.tenant.id) as transaction:
            if await sessions.revoke_session(transaction, caller.session):
                await transaction.record(
                    Change(
                        access.tenant.id,
                        access.identity.id,
                        "session.ended",
                        access.identity.id,
                        {"session": str(caller.session), **affects_identity(access.identity.id)},
                    )
                )

    async def purge(self) -> int:
        """Forget sessions, invitations and failures whose time is over: a job of one node."""
        async with self._database.transaction(EVERYWHERE) as transaction:
            return await sessions.purge(transaction)

    async def _access(self, identity: str) -> Access:
        access = await self._directory.access(identity)
        if isinstance(access, Denied):
            raise unauthenticated(access.reason)
        return access

    async def _rehash(self, credential: UUID, password: str) -> None:
        """Store the hash anew: it was made by the parameters of an earlier day."""
        hashed = await self._passwords.hash(password)
        async with self._database.transaction(EVERYWHERE) as transaction:
            await identities.replace_password_hash(transaction, credential, hashed)

    async def _end(self, transaction: Transaction, session: sessions.Session, kind: str) -> None:
        if await sessions.revoke_session(transaction, session.id):
            data = {"session": str(session.id), **affects_identity(session.identity)}
            await transaction.record(Change(session.tenant, session.identity, kind, session.identity, data))


def _new_refresh_token() -> str:
    return "drt_" + secrets.token_urlsafe(32)


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _seal_context(refresh_token: str) -> str:
    """Return what binds a sealed successor to the token that it follows."""
    return f"refresh_token:{_hash(refresh_token).hex()}"
