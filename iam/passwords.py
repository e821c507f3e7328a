"""Passwords: which are accepted, and how they are kept and compared.

The rules (NIST SP 800-63B 3.1.1.2, and RFC 9106 for the hash):

1. A password has 12 to 256 characters. Nothing is asked of which ones, save that control characters are refused: HTTP
   Basic cannot carry them (RFC 7617 2).
2. It is not one that everybody tries first: not the user's name with something around it, not four characters over and
   over, and not made of common words and runs alone.
3. It is put into NFKC before it is hashed, so that it is the same on every keyboard.
4. It is kept as Argon2id with 64 MiB, one pass, four lanes, 16 bytes of salt and 32 of hash. A hash that was made
   otherwise still compares, and says that it should be made again.
5. As many are hashed at once as there are slots, each in a thread of its own; a bounded number waits; the next one is
   told to come back. So a flood of sign-ins costs bounded memory, and the loop goes on serving.
6. Comparing takes the same work whether or not there is such a user.
"""

import asyncio
import base64
import os
import re
import threading
import unicodedata
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeVar

from argon2 import PasswordHasher as Argon2
from argon2 import Type
from argon2.exceptions import InvalidHashError, VerificationError

from iam.errors import Kind, Refused, malformed
from iam.identifiers import Random

SHORTEST: Final = 12
LONGEST: Final = 256
MEMORY_KIB: Final = 64 * 1024
RETRY_AFTER_SECONDS: Final = 2

_SALT_BYTES: Final = 16
_HASH_BYTES: Final = 32
_PASSES: Final = 1
_LANES: Final = 4
_ARGON2ID: Final = Argon2(_PASSES, MEMORY_KIB, _LANES, _HASH_BYTES, _SALT_BYTES, type=Type.ID)
_FEWEST_DISTINCT: Final = 5
_SHORTEST_NAME_SOUGHT: Final = 4
_LEAST_OF_ITS_OWN: Final = 6

_COMMON: Final = (
    "000000 0987654321 111111 112233 121212 123 123123 1234 12345 123456 1234567 12345678 123456789 1234567890 "
    "1q2w3e 1q2w3e4r 1q2w3e4r5t 1qaz 1qaz2wsx 1qaz2wsx3edc 2wsx 3edc 2023 2024 2025 2026 2027 2028 2029 2030 321 "
    "4321 54321 654321 666666 987654321 aa123456 abc abcd abcde abcdef abcdefg abcdefgh abcdefghijkl access admin "
    "administrator asdf asdfgh asdfghjkl baseball batman changeme charlie daniel default dragon football freedom "
    "gateway hello hunter iloveyou jessica jordan letmein login love lovely master michael michelle monkey mustang "
    "naruto ninja p@ssw0rd p@ssword pass passwd password passwort passw0rd pokemon princess qazwsx qazwsxedc qwer "
    "qwert qwerty qwertyuiop qwertz qwertzuiop root secret shadow starwars summer sunshine superman superuser "
    "system test test123 trustno1 user welcome whatever winter zaq12wsx zxcv zxcvbn zxcvbnm doorward"
)
_COMMON_PIECE: Final = re.compile("|".join(sorted(map(re.escape, _COMMON.split()), key=len, reverse=True)))

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Matched:
    """It is the password.

    Attributes:
        needs_rehash: Its hash was made by other parameters than those of today.
    """

    needs_rehash: bool

    def __bool__(self) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Mismatched:
    """It is not, and why: a sentence for the log."""

    reason: str

    def __bool__(self) -> bool:
        return False


def check_password_policy(password: str, *, name: str) -> None:
    """Raise `Refused` (malformed) unless a user of this name may have this password (rules 1 and 2)."""
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in password):
        raise _not_accepted("A password has no control characters.")
    password = _normalized(password)
    if not SHORTEST <= len(password) <= LONGEST:
        raise _not_accepted(f"A password has {SHORTEST} to {LONGEST} characters.")
    folded = password.casefold()
    if any(part in folded for part in _parts_of_name(name)):
        raise _not_accepted("A password does not contain the user's name.")
    if len(set(folded)) < _FEWEST_DISTINCT:
        raise _not_accepted("This password repeats the same few characters.")
    if len(_COMMON_PIECE.sub("", folded)) < _LEAST_OF_ITS_OWN:
        raise _not_accepted("This password is made of those that everybody tries first.")


class PasswordHasher:
    """Hashes and compares passwords in threads, a bounded number at a time.

    Args:
        slots: How many at once, each with 64 MiB: as many as there are cores for this process.
        queue: How many more may wait.
    """

    def __init__(self, *, slots: int, queue: int, random: Random = os.urandom) -> None:
        self._threads = ThreadPoolExecutor(slots, thread_name_prefix="argon2")
        self._places = threading.BoundedSemaphore(slots + queue)
        self._random = random

    async def hash(self, password: str) -> str:
        """Return the hash to store, in PHC format.

        Raises:
            Refused: (throttled) Too many are waiting.
        """
        salt = self._random(_SALT_BYTES)
        return await self._in_thread(lambda: _ARGON2ID.hash(_bytes(password), salt=salt))

    async def verify(self, password: str, stored: str | None) -> Matched | Mismatched:
        """Say whether this is the password of `stored`, a hash in PHC format; None where there is no such user.

        Raises:
            Refused: (throttled) Too many are waiting.
        """
        if stored is None:
            nobodys = self._nobodys()
            await self._in_thread(lambda: _compare(password, nobodys))
            return Mismatched("there is no such user, or he has no password")
        return await self._in_thread(lambda: _compare(password, stored))

    def close(self) -> None:
        """Let the threads end; what waits is given up."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        if not self._places.acquire(blocking=False):
            raise Refused(
                Kind.THROTTLED,
                "Too many passwords are being checked at once; try again shortly.",
                retry_after=RETRY_AFTER_SECONDS,
            )
        try:
            working = self._threads.submit(work)
        except BaseException:
            self._places.release()
            raise
        # When the thread is done with it, not when the caller is: work that has begun goes on if he hangs up.
        working.add_done_callback(self._leave)
        return await asyncio.wrap_future(working)

    def _leave(self, _: "Future[_T]") -> None:
        self._places.release()

    def _nobodys(self) -> str:
        """Return a hash like all others that no password has: its bytes are random, not computed."""
        salt, digest = (
            base64.b64encode(self._random(length)).rstrip(b"=").decode() for length in (_SALT_BYTES, _HASH_BYTES)
        )
        return f"$argon2id$v=19$m={MEMORY_KIB},t={_PASSES},p={_LANES}${salt}${digest}"


def _compare(password: str, stored: str) -> Matched | Mismatched:
    try:
        _ARGON2ID.verify(stored, _bytes(password))
    except InvalidHashError:
        return Mismatched("the stored hash cannot be read")
    except VerificationError as error:
        return Mismatched(f"the password is another: {error}")
    return Matched(needs_rehash=_ARGON2ID.check_needs_rehash(stored))


def _parts_of_name(name: str) -> set[str]:
    """Return what of a name no password contains: all of it, and of an e-mail address also what stands before the @."""
    folded = _normalized(name).casefold()
    return {part for part in (folded, folded.partition("@")[0]) if len(part) >= _SHORTEST_NAME_SOUGHT}


def _normalized(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


def _bytes(password: str) -> bytes:
    return _normalized(password).encode("utf-8", "surrogatepass")


def _not_accepted(sentence: str) -> Refused:
    return malformed(sentence, password=sentence)
