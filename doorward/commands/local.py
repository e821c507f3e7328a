"""What whoever can read the data folder may do: a token of root, a bootstrap certificate, a revocation.

These commands speak with the node's database directly, as the node's own role and with its keys.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from ca.inventory import RevocationReason
from ca.service import Credential
from doorward.addresses import read_addresses
from doorward.app import App, build
from doorward.clock import utc_now
from doorward.commands.printing import print_json, print_lines
from doorward.config import Configuration
from doorward.embedded.process import write_private
from doorward.keys import random_bytes
from doorward.preparation import root_file
from iam.access import Denied
from iam.errors import Kind, Refused, conflict, malformed
from iam.service.foundation import root_identity
from iam.service.tokens import Issued
from iam.store.database import EVERYWHERE

_TOKEN_LIFETIME = timedelta(minutes=15)
_METHOD = "data-folder"


@asynccontextmanager
async def local_app(configuration: Configuration) -> AsyncIterator[App]:
    """Wire the node's parts in this process, without listening to anything."""
    app = await build(configuration, read_addresses(configuration), utc_now, random_bytes)
    try:
        yield app
    finally:
        await app.pool.close()
        app.passwords.close()


async def root_token(configuration: Configuration) -> Issued:
    """Return a new access token of the root identity."""
    async with local_app(configuration) as app:
        root = await root_identity(app.pool, app.system.id)
        access = await app.directory.access(root.id)
        if isinstance(access, Denied):
            raise Refused(Kind.FORBIDDEN, "The root identity may do nothing.", reason=access.reason)
        return await app.login.start_session(access, (_METHOD,), lifetime=_TOKEN_LIFETIME)


def print_token(configuration: Configuration, *, as_json: bool) -> int:
    """Print a token of the root identity."""
    issued = asyncio.run(root_token(configuration))
    if as_json:
        print_json({"token": issued.token, "identity": issued.identity, "expiresAt": issued.expires})
    else:
        print_lines(issued.token)
    return 0


def bootstrap(configuration: Configuration, identifier: str, folder: Path, *, as_json: bool) -> int:
    """Write a bootstrap certificate, its key, and the root to trust into a folder."""

    async def issue() -> Credential:
        async with local_app(configuration) as app:
            return await app.certificates.issue_bootstrap(identifier, actor="data-folder")

    credential = asyncio.run(issue())
    folder.mkdir(parents=True, exist_ok=True)
    key = write_private(folder / "bootstrap.key", credential.private_key.decode())
    certificate, root = folder / "bootstrap.pem", folder / "root.pem"
    certificate.write_bytes(credential.chain)
    root.write_bytes(root_file(configuration.node.data).read_bytes())
    (folder / "device.id").write_text(identifier + "\n", encoding="utf-8")
    made = {
        "deviceIdentifier": identifier,
        "certificate": str(certificate),
        "key": str(key),
        "root": str(root),
        "notAfter": credential.not_after.isoformat(),
    }
    if as_json:
        print_json(made)
    else:
        print_lines(
            f"Bootstrap certificate of {identifier}, valid until {made['notAfter']}:",
            f"  {made['certificate']}",
            f"  {made['key']}",
            f"  {made['root']}",
            f"Next: doorward device enroll --out {folder}",
        )
    return 0


def revoke(configuration: Configuration, serial: str, reason: str, *, as_json: bool) -> int:
    """Revoke a certificate that is no authority's: with that, more ends, and is told to whoever keeps connections."""
    try:
        number = bytes.fromhex(serial.replace(":", ""))
        why = RevocationReason(reason)
    except ValueError as error:
        known = ", ".join(RevocationReason)
        raise malformed(f"Give the serial number in hexadecimal, and one of these reasons: {known}.") from error

    async def run() -> None:
        async with local_app(configuration) as app:
            if app.authorities.has_certificate(number):
                raise conflict("The certificate is an authority's: revoke that (POST /api/ca/v1/cas/<id>/status).")
            # Everywhere: whoever reads the data folder stands above all tenants.
            await app.revocation.revoke(EVERYWHERE, number, why, actor="data-folder")

    asyncio.run(run())
    if as_json:
        print_json({"serial": number.hex(), "reason": why})
    else:
        print_lines(f"Certificate {number.hex()} is revoked ({why}).")
    return 0
