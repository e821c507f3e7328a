"""As whom the embedded PostgreSQL runs, which refuses to run as root.

Rules, the first that fits:

1. An ordinary user: as that user; one without a name (a container's number) under a name in a user
   namespace, because initdb asks for the name. A cluster of somebody else is refused.
2. Root, and there is a cluster that is not root's: as its owner.
3. Root, and `nobody` can run the program and pass through to the data folder: as `nobody`.
4. Root otherwise: as ourselves under another number in a user namespace, which owns root's files without
   being root. Kernels and containers may forbid that; then the error says what to change.
"""

import os
import pwd
import stat
from pathlib import Path

from doorward.embedded.process import OURSELVES, Account, ChildProcess, EmbeddedError, Failure


async def choose_account(program: Path, data: Path, cluster: Path) -> Account:
    """Decide as whom `program` runs on a cluster under `data`.

    Raises:
        EmbeddedError: nobody can run it, and what to do.
    """
    nobody = ids_of_nobody()
    owner = owner_of(cluster)
    if os.geteuid() != 0:
        if owner is not None and owner[0] != os.geteuid():
            raise EmbeddedError(
                Failure.INCOMPATIBLE, f"{cluster} belongs to user {owner[0]}: run as that user, or as root"
            )
        return OURSELVES if has_name(os.geteuid()) else await in_namespace(program, nobody[0])
    if owner is not None and owner[0] != 0:
        return Account(*owner)
    if owner is None and may_pass(data, nobody[0]) and await can_run(program, Account(*nobody)):
        return Account(*nobody)
    return await in_namespace(program, nobody[0])


async def in_namespace(program: Path, called: int) -> Account:
    """Give the account of a user namespace, if the kernel lets us make one."""
    account = Account(called, in_namespace=True)
    if await can_run(program, account):
        return account
    raise EmbeddedError(
        Failure.UNREACHABLE,
        "PostgreSQL does not run as root, `nobody` cannot reach its program and the data folder, and this "
        "kernel allows no user namespace: run doorward as an ordinary user, or give it a data folder and a virtual "
        "environment that every user may pass through (chmod o+x on each folder above them)",
    )


async def can_run(program: Path, account: Account) -> bool:
    """Try `program --version` as the account."""
    attempt = ChildProcess([str(program), "--version"], log=Path(os.devnull), account=account, environment={})
    attempt.start()
    return await attempt.wait() == 0


def has_name(uid: int) -> bool:
    """Say whether the user has a name, without which initdb does not run."""
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def may_pass(folder: Path, uid: int) -> bool:
    """Say whether the user may pass through the folder and all above it, by owner and others' bits alone."""
    for each in (folder, *folder.parents):
        facts = each.stat()
        needed = stat.S_IXUSR if facts.st_uid == uid else stat.S_IXOTH
        if not facts.st_mode & needed:
            return False
    return True


def owner_of(folder: Path) -> tuple[int, int] | None:
    """Give user and group of the folder, or nothing when there is none yet."""
    try:
        facts = folder.stat()
    except FileNotFoundError:
        return None
    return facts.st_uid, facts.st_gid


def ids_of_nobody() -> tuple[int, int]:
    """Give user and group of `nobody`; a system that does not name it still has the kernel's own numbers."""
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        return 65534, 65534
    return nobody.pw_uid, nobody.pw_gid


def make_data_folder(data: Path) -> None:
    """Make the data folder if there is none: ours alone, or under root passable (not readable) for rule 3."""
    data.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)


def make_private_folder(folder: Path, account: Account) -> None:
    """Make the folder 0700 for the account, or make sure that it is one and nobody else's.

    Raises:
        EmbeddedError: somebody else made it, as anyone can in the temporary folder.
    """
    uid = os.geteuid() if account.uid is None or account.in_namespace else account.uid
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        facts = folder.lstat()
        if not stat.S_ISDIR(facts.st_mode) or facts.st_uid not in {uid, os.geteuid()}:
            raise EmbeddedError(Failure.INCOMPATIBLE, f"{folder} belongs to user {facts.st_uid}: remove it") from None
    folder.chmod(0o700)
    if uid != os.geteuid():
        os.chown(folder, uid, -1 if account.gid is None else account.gid)
