"""Enrolment secrets, by HTTP Basic (RFC 7617): made by an operator, shown once, good for one label.

The rules:

1. A secret that we made has 256 random bits and is kept as SHA-256. It is found by its hash, so guessing costs a
   stranger the throttle and the owner nothing: a right one is never held up by others' wrong ones.
2. A chosen one keeps the rules of passwords, is kept as Argon2id, and is throttled as a login is, by its name and by
   address. A wrong or unknown name costs the same work.
3. How often it may be used, and until when, is counted where the enrolment is recorded: `enrol_device` takes a use and
   writes the certificate in one statement. What is refused, or asked again with the same key, takes none.
4. Bound to a device it speaks for that one alone; else for those that the label's pattern covers.
"""

from base64 import b64decode
from binascii import Error as NotBase64
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Protocol

from est.authentication.asking import Asking
from est.profiles import Way
from est.refusals import Refusal, Refuse
from est.rules import Entitlement
from est.store.secrets import FoundSecret, find_secrets
from iam.model import NONE, Extent
from iam.passwords import Matched, Mismatched
from iam.service.throttle import by_account, by_address, charge, forgive
from iam.store.database import EVERYWHERE, Database

LONGEST_CREDENTIALS: Final = 1024


class Passwords(Protocol):
    """The part of `iam.passwords.PasswordHasher` that is needed here."""

    async def verify(self, password: str, stored: str | None) -> Matched | Mismatched:
        """Say whether this is the password of `stored`, at the same cost where there is none."""


@dataclass(frozen=True, slots=True)
class BasicCredentials:
    """What stands in an Authorization header of the scheme Basic."""

    username: str
    password: str


def read_basic(authorization: str) -> BasicCredentials | None:
    """Read HTTP Basic credentials (RFC 7617 2), in UTF-8; None for anything else."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic" or len(encoded) > LONGEST_CREDENTIALS:
        return None
    try:
        text = b64decode(encoded.strip(), validate=True).decode()
    except (NotBase64, UnicodeDecodeError, ValueError):
        return None
    username, colon, password = text.partition(":")
    return BasicCredentials(username, password) if colon and text.isprintable() else None


class Secrets:
    """Judges enrolment secrets."""

    def __init__(self, database: Database, passwords: Passwords) -> None:
        self._database = database
        self._passwords = passwords

    async def judge(self, asking: Asking) -> Entitlement | Refuse:
        """Return what the secret speaks for, or why it does not count.

        Raises:
            Refused: (throttled) Too many did not fit, or too many at once.
        """
        shown = read_basic(asking.evidence.authorization)
        if shown is None:
            return Refuse(Refusal.NO_SECRET)
        digest = sha256(shown.password.encode()).digest()
        # Everywhere: a device has no tenant yet.
        async with self._database.transaction(EVERYWHERE) as transaction:
            found = await find_secrets(transaction, asking.profile.id, shown.username, digest)
        made = [one for one in found if one.password_hash is None]
        if made:
            return _entitled(made[0])
        return await self._judge_chosen(asking, shown, found[0] if found else None)

    async def _judge_chosen(
        self, asking: Asking, shown: BasicCredentials, found: FoundSecret | None
    ) -> Entitlement | Refuse:
        account, address = f"est/{asking.profile.name}/{shown.username}", asking.evidence.address
        async with self._database.transaction(EVERYWHERE) as transaction:
            await charge(transaction, [by_account(account), by_address(address)])
        holds = await self._passwords.verify(shown.password, found.password_hash if found else None)
        if found is None or isinstance(holds, Mismatched):
            return Refuse(Refusal.SECRET_REFUSED, f"of {shown.username!r} from {address}")
        async with self._database.transaction(EVERYWHERE) as transaction:
            await forgive(transaction, account, address)
        return _entitled(found)


def _entitled(found: FoundSecret) -> Entitlement:
    named = NONE if found.device is None else Extent(names=frozenset({found.device}))
    return Entitlement(
        Way.SECRET,
        f"secret {found.id}",
        named,
        Refusal.SECRET_NOT_NAMED,
        goes_by_pattern=found.device is None,
        secret=found.id,
    )
