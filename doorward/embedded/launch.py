"""Becomes another program that ends with its parent.

Run as a program by `doorward.embedded.process`, with nothing but the standard library:

    python -I -S launch.py PARENT DEATH_SIGNAL ACCOUNT PROGRAM [ARGUMENT...]

A program of its own, and not a function called between fork and exec, because Python code there can
deadlock when the parent has threads.

Rules, in this order:

1. ACCOUNT is taken first: `same` changes nothing, `UID:GID` gives up every other group and identity,
   `namespace:UID` enters a user namespace in which we are called UID and own the same files as before.
2. The death signal is asked for after that, because a change of identity clears it (prctl(2),
   PR_SET_PDEATHSIG).
3. A parent that died before rule 2 took effect sends no signal: so its number is compared afterwards.
"""

import ctypes
import os
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1
CLONE_NEWUSER = 0x10000000
CANNOT_START = 127


def take_account(account: str, libc: ctypes.CDLL) -> None:
    """Give up the identity that we have for `account`.

    Raises:
        OSError: the kernel refuses.
    """
    if account == "same":
        return
    if account.startswith("namespace:"):
        enter_user_namespace(libc, int(account.removeprefix("namespace:")))
        return
    uid, gid = (int(number) for number in account.split(":"))
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def enter_user_namespace(libc: ctypes.CDLL, called: int) -> None:
    """Become user `called` of a new user namespace; outside of it we stay who we were (user_namespaces(7))."""
    uid, gid = os.geteuid(), os.getegid()
    if libc.unshare(CLONE_NEWUSER) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"unshare(CLONE_NEWUSER): {os.strerror(number)}")
    # user_namespaces(7): an unprivileged gid_map is accepted only after setgroups is denied
    Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
    Path("/proc/self/uid_map").write_text(f"{called} {uid} 1", encoding="ascii")
    Path("/proc/self/gid_map").write_text(f"{called} {gid} 1", encoding="ascii")


def main(parent: str, death_signal: str, account: str, *command: str) -> None:
    """Take the account, tie our life to the parent's and become `command`; returns only by an exception."""
    libc = ctypes.CDLL(None, use_errno=True)
    os.umask(0o077)
    take_account(account, libc)
    if libc.prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl(PR_SET_PDEATHSIG): {os.strerror(number)}")
    if os.getppid() != int(parent):
        raise ProcessLookupError("the parent is gone")
    os.execv(command[0], command)  # noqa: S606 (no shell on purpose: the arguments are the parent's own list)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except OSError as error:
        sys.stderr.write(f"{sys.argv[4]} cannot be started: {error}\n")
        sys.exit(CANNOT_START)
