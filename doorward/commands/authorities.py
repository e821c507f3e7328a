"""`doorward ca`: authorities, for whoever can read the data folder.

The commands speak with the node's database directly and act as its root identity, in the root tenant; running workers
follow within a second. They are where a root's key file is at hand for as long as a command runs, and no longer.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from ca.authority import Authority
from ca.importing import read_private_key
from ca.intake import Offer
from ca.wishes import KeyWish, Wish
from certs.duration import read_duration
from certs.errors import CertificateRefused, ProfileRefused
from certs.keys import KeyAlgorithm
from certs.pem import fingerprint_sha256, read_certificates
from doorward.app import App
from doorward.clock import utc_now
from doorward.commands.local import local_app
from doorward.commands.printing import print_json, print_lines
from doorward.config import Configuration
from iam.access import Access, Denied
from iam.errors import Kind, Refused, malformed
from iam.service.foundation import root_identity

Found = TypeVar("Found")

_KEYS: dict[str, KeyWish] = {
    **{one.value.lower(): KeyWish(one) for one in KeyAlgorithm if one is not KeyAlgorithm.RSA},
    **{f"rsa-{bits}": KeyWish(KeyAlgorithm.RSA, bits) for bits in (2048, 3072, 4096)},
}
"""By the words of the command line."""


def list_authorities(configuration: Configuration, *, as_json: bool) -> int:
    """Print all authorities, each key on a line."""

    async def act(app: App, _: Access) -> list[Authority]:
        return list(app.authorities.all)

    found = _run(configuration, act)
    shown = [_shown(one) for one in found]
    if as_json:
        print_json(shown)
        return 0
    width = max(len(one["name"]) for one in shown)
    print_lines(
        *(
            f"{one['name']:{width}}  {one['status']:8}  {one['kind']:8}  until {one['notAfter'][:10]}  {one['subject']}"
            for one in shown
        )
    )
    return 0


def create(
    configuration: Configuration,
    name: str,
    common_name: str,
    *,
    parent: str | None,
    key: str,
    path_length: int | None,
    validity: str | None,
    as_json: bool,
) -> int:
    """Make a root, or an authority below another."""
    wish = Wish(
        subject={"common_name": common_name},
        line=name,
        parent=parent,
        key=_KEYS[key],
        path_length=path_length,
        period=_period(validity),
    )

    async def act(app: App, access: Access) -> Authority:
        return await app.administration.create(access, app.system, wish)

    return _print_made(_run(configuration, act), as_json=as_json)


def take_in(
    configuration: Configuration, name: str, certificate: Path, *, key: Path | None, chain: Path | None, as_json: bool
) -> int:
    """Take in an authority that was made elsewhere."""
    try:
        own, *above = read_certificates(certificate.read_bytes())
        if chain is not None:
            above += read_certificates(chain.read_bytes())
        private_key = read_private_key(key.read_text(encoding="ascii")) if key is not None else None
    except OSError as error:
        raise malformed(f"{error.filename} cannot be read: {error.strerror}.") from error
    except (ValueError, CertificateRefused) as error:
        raise malformed(f"The files cannot be read: {error}.") from error
    offer = Offer(certificate=own, chain=tuple(above), key=private_key, line=name)

    async def act(app: App, access: Access) -> Authority:
        return await app.intake.take_in(access, app.system, offer)

    return _print_made(_run(configuration, act), as_json=as_json)


def roll_over(configuration: Configuration, name: str, *, key: str | None, validity: str | None, as_json: bool) -> int:
    """Give an authority its next key."""

    async def act(app: App, access: Access) -> Authority:
        wish = _KEYS[key] if key is not None else None
        return await app.administration.roll_over(access, app.system, name, wish, _period(validity))

    return _print_made(_run(configuration, act), as_json=as_json)


def _run(configuration: Configuration, act: Callable[[App, Access], Awaitable[Found]]) -> Found:
    async def run() -> Found:
        async with local_app(configuration) as app:
            root = await root_identity(app.pool, app.system.id)
            access = await app.directory.access(root.id)
            if isinstance(access, Denied):
                raise Refused(Kind.FORBIDDEN, "The root identity may do nothing.", reason=access.reason)
            return await act(app, access)

    return asyncio.run(run())


def _period(validity: str | None) -> timedelta | None:
    if validity is None:
        return None
    try:
        return read_duration(validity)
    except ProfileRefused as refused:
        raise malformed(f"The validity cannot be read: {refused.reason}.") from refused


def _shown(one: Authority) -> dict[str, Any]:
    return {
        "id": one.line,
        "name": one.name,
        "generation": one.generation,
        "kind": one.kind.value,
        "type": one.origin.value,
        "status": one.shown_status(utc_now()),
        "subject": one.certificate.subject.rfc4514_string(),
        "notAfter": one.certificate.not_valid_after_utc.isoformat(),
        "fingerprintSha256": fingerprint_sha256(one.der),
    }


def _print_made(one: Authority, *, as_json: bool) -> int:
    shown = _shown(one)
    if as_json:
        print_json(shown)
    else:
        print_lines(
            f"{shown['name']}: {shown['subject']}, valid until {shown['notAfter']}",
            f"  SHA-256 {shown['fingerprintSha256']}",
        )
    return 0
