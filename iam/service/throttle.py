"""The throttle: how often one may fail to prove oneself, by account and by address, over all nodes.

The rules:

1. An attempt is charged before it is judged, by one statement; so of many at once only the free ones are judged.
2. The first failures are free. After that each one doubles the wait, up to `LONGEST_WAIT`.
3. A proof that holds forgives the account everything, and the address this one attempt.
4. An address counts as `iam.addresses` says.
"""

import hashlib
from datetime import timedelta

from iam.addresses import counted_address
from iam.errors import Kind, Refused
from iam.store import throttle
from iam.store.database import Transaction

FREE_FAILURES = 5
FREE_FAILURES_OF_ADDRESS = 50
LONGEST_WAIT = timedelta(minutes=15)
MEMORY = timedelta(hours=1)


def by_account(name: str) -> throttle.Account:
    """Return the account that a login name stands for, known or not."""
    return throttle.Account(f"account:{hashlib.sha256(name.lower().encode()).hexdigest()}", FREE_FAILURES)


def by_address(address: str) -> throttle.Account:
    """Return the account of a peer's address."""
    return throttle.Account(f"address:{counted_address(address)}", FREE_FAILURES_OF_ADDRESS)


async def charge(transaction: Transaction, accounts: list[throttle.Account]) -> None:
    """Charge an attempt to each account.

    Raises:
        Refused: (throttled) One of them has to wait; the attempt is not to be judged.
    """
    for account in accounts:
        until = await throttle.charge(transaction, account, longest=LONGEST_WAIT, memory=MEMORY)
        if until is not None:
            wait = max(1, round((until - transaction.now).total_seconds()))
            raise Refused(
                Kind.THROTTLED,
                "Too many failed attempts; wait a little.",
                reason=f"{account.key} waits until {until}",
                retry_after=wait,
            )


async def forgive(transaction: Transaction, name: str, address: str) -> None:
    """A proof held: forget the account's failures and give the address its attempt back."""
    await throttle.forget(transaction, by_account(name))
    await throttle.give_back(transaction, by_address(address))
