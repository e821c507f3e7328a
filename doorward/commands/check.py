"""`check`: whether a node can run as it is configured, and whether what it holds is whole.

It reads and asks, and makes nothing: what is missing is a finding.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib import metadata

import asyncpg
import nats
from nats.errors import Error as NatsError

from ca.crl import Head
from ca.keystore import Backend, Token
from ca.partition import WHOLE
from ca.store.authorities import list_authorities
from ca.store.responders import responders_end
from ca.store.revocation_lists import list_heads
from certs.pem import read_certificate
from doorward.addresses import Addresses, nats_trust, read_addresses
from doorward.clock import utc_now
from doorward.commands.printing import print_json, print_lines
from doorward.config import Configuration, known_keys
from doorward.database import Pool
from doorward.keys import keys_folder, keystore, random_bytes, tokens
from doorward.master_key import read_master_key, read_secrets
from iam.errors import Refused
from iam.service.audit import AuditService
from iam.store.database import EVERYWHERE

PACKAGES = ("ca", "callout", "certs", "challenge", "doorward", "est", "iam")
"""Our top-level packages: their names are short, and another distribution may have the same."""

_CLOCK_SKEW = timedelta(seconds=2)
_NATS_SECONDS = 5.0
_OVERDUE = timedelta(minutes=1)


@dataclass(frozen=True)
class Finding:
    """What one question came to."""

    question: str
    holds: bool
    said: str


def check(configuration: Configuration, *, as_json: bool) -> int:
    """Ask every question and print what it came to; return 0 if all hold."""
    findings = asyncio.run(_ask_all(configuration))
    if as_json:
        print_json(
            {
                "holds": all(one.holds for one in findings),
                "findings": [{"question": one.question, "holds": one.holds, "said": one.said} for one in findings],
                "configuration": _settings(configuration),
            }
        )
    else:
        settings = [f"  {key} = {value}" for key, value in _settings(configuration).items()]
        print_lines("Configuration", *settings, "", "Findings")
        print_lines(*(f"  {'ok    ' if one.holds else 'FAILED'} {one.question}: {one.said}" for one in findings))
    return 0 if all(one.holds for one in findings) else 1


async def _ask_all(configuration: Configuration) -> list[Finding]:
    findings = [_packages(), _master_key(configuration), *_tokens(configuration)]
    try:
        addresses = read_addresses(configuration)
    except Refused as refusal:
        return [*findings, Finding("node", False, refusal.detail)]

    questions: tuple[tuple[str, Callable[[], Awaitable[str]]], ...] = (
        ("database", lambda: _database(addresses)),
        ("clock", lambda: _clock(addresses)),
        ("NATS", lambda: _nats(configuration, addresses)),
        ("authorities", lambda: _authorities(configuration, addresses)),
        ("revocation", lambda: _revocation(addresses)),
        ("audit chain", lambda: _audit(addresses)),
    )
    for question, ask in questions:
        try:
            findings.append(Finding(question, True, await ask()))
        except Refused as refusal:
            findings.append(Finding(question, False, f"{refusal.detail} {refusal.reason}"))
        except (OSError, TimeoutError, asyncpg.PostgresError, NatsError, _Wrong) as error:
            findings.append(Finding(question, False, str(error) or type(error).__name__))
    return findings


class _Wrong(Exception):
    """A finding that is not as it must be."""


def _packages() -> Finding:
    owners = metadata.packages_distributions()
    others = {name: owner for name in PACKAGES for owner in owners.get(name, []) if owner != "doorward"}
    if others:
        said = ", ".join(f"{name} also belongs to {owner}" for name, owner in others.items())
        return Finding("packages", False, f"{said}: uninstall it, or install Doorward into an environment of its own")
    return Finding("packages", True, "no other distribution owns our top-level packages")


def _master_key(configuration: Configuration) -> Finding:
    try:
        secrets = read_secrets(configuration)
    except Refused as refusal:
        return Finding("master key", False, refusal.detail)
    if len(secrets.in_order) > 1:
        return Finding("master key", True, "there, and being changed: `doorward keys rotate-master` finishes that")
    return Finding("master key", True, "there, 32 bytes")


def _tokens(configuration: Configuration) -> list[Finding]:
    try:
        found = tokens(configuration)
    except Refused as refusal:
        return [Finding("hardware token", False, f"{refusal.detail} {refusal.reason}")]
    return [_token(name, one) for name, one in found.items()]


def _token(name: str, token: Token) -> Finding:
    about = "hardware token" if name == Backend.PKCS11 else f"hardware token {name}"
    try:
        return Finding(about, True, token.check())
    except Refused as refusal:
        return Finding(about, False, f"{refusal.detail} {refusal.reason}")


async def _database(addresses: Addresses) -> str:
    connection = await asyncpg.connect(addresses.database, timeout=5)
    try:
        version = await connection.fetchval("SHOW server_version")
        migration = await connection.fetchval("SELECT max(number) FROM schema_migration")
    finally:
        await connection.close()
    return f"PostgreSQL {version}, schema {migration:04}"


async def _clock(addresses: Addresses) -> str:
    connection = await asyncpg.connect(addresses.database, timeout=5)
    try:
        skew = abs(await connection.fetchval("SELECT clock_timestamp()") - utc_now())
    finally:
        await connection.close()
    if skew > _CLOCK_SKEW:
        raise _Wrong(f"the database's clock is {skew.total_seconds():.1f} s away from ours")
    return f"within {skew.total_seconds() * 1000:.0f} ms of the database's"


async def _nats(configuration: Configuration, addresses: Addresses) -> str:
    for user, password in (
        (addresses.callout_user, addresses.callout_password),
        (addresses.system_user, addresses.system_password),
        (addresses.bus_user, addresses.bus_password),
    ):
        async with asyncio.timeout(_NATS_SECONDS):  # by itself the client library tries a dead server for minutes
            client = await nats.connect(
                list(addresses.nats),
                user=user,
                password=password,
                tls=nats_trust(configuration),
                connect_timeout=3,
                allow_reconnect=False,
                error_cb=_say_nothing,
            )
        version = client.connected_server_version
        await client.close()
    return f"nats-server {str(version).strip('<>').rpartition(' ')[2]}, all three users may connect"


async def _say_nothing(_: Exception) -> None:
    """Leave it to the finding to say what is wrong."""


async def _authorities(configuration: Configuration, addresses: Addresses) -> str:
    keys = keystore(configuration, read_master_key(configuration), random_bytes)
    # Everywhere: the node looks at every tenant's.
    async with _pool(addresses) as pool, pool.transaction(EVERYWHERE) as transaction:
        authorities = await list_authorities(transaction)
    if not authorities:
        raise _Wrong("there are none yet: they are made when the node first starts")
    for one in authorities:
        if one.key is not None and one.key.backend is not Backend.FILE:
            keys.signer(one.key)
    ends = {one.name: read_certificate(one.certificate).not_valid_after_utc for one in authorities}
    names = [f"{name} until {end:%Y-%m-%d}" for name, end in ends.items()]
    root = "here; it can be taken away" if (keys_folder(configuration) / "root.sealed").exists() else "taken away"
    return f"{', '.join(names)}; the root's key is {root}"


async def _revocation(addresses: Addresses) -> str:
    """Tell until when what relying parties are told counts, and what should have been made anew long ago."""
    now = utc_now()
    # Everywhere: lists belong to no tenant.
    async with _pool(addresses) as pool, pool.transaction(EVERYWHERE) as transaction:
        authorities = [one for one in await list_authorities(transaction) if one.key is not None]
        heads = {one.id: (await list_heads(transaction, one.id, [WHOLE]))[WHOLE].complete for one in authorities}
        responders = await responders_end(transaction)
    found = [_standing_of(one.name, heads[one.id], responders.get(one.id), now) for one in authorities]
    said = "; ".join(standing for _, standing in found)
    if not found or not all(holds for holds, _ in found):
        raise _Wrong(said or "there are no authorities yet")
    return said


def _standing_of(name: str, head: Head | None, responder: datetime | None, now: datetime) -> tuple[bool, str]:
    if head is None or responder is None:
        return False, f"{name} has no {'revocation list' if head is None else 'OCSP responder'} yet"
    said = f"{name}: list {head.number} until {head.next_update:%F %H:%M}, OCSP until {responder:%F %H:%M}"
    if head.next_update <= now or responder <= now:
        return False, f"{said}, which is over: is its key away?"
    if now > head.half + _OVERDUE:
        said += ", and a new list is due: is its key away?"
    return True, said


async def _audit(addresses: Addresses) -> str:
    async with _pool(addresses) as pool:
        holds, broken = await AuditService(pool).check()
    if broken is not None:
        raise _Wrong(f"line {broken} does not follow from those before it; {holds} lines hold")
    return f"{holds} lines, each follows from the one before"


@asynccontextmanager
async def _pool(addresses: Addresses) -> AsyncIterator[Pool]:
    """Give a way into the database that is closed afterwards."""
    pool = await Pool.connect(addresses.database, utc_now, random_bytes, size=2)
    try:
        yield pool
    finally:
        await pool.close()


def _settings(configuration: Configuration) -> dict[str, str]:
    values = configuration.model_dump()
    return {
        f"{section}.{key}": str(_shown(values[section][key])) for section, keys in known_keys().items() for key in keys
    }


def _shown(value: object) -> object:
    """Show a value as one would write it; a URL without its password."""
    if value is None:
        return "(not set)"
    if isinstance(value, timedelta):
        return f"{value.total_seconds():.0f}"
    if isinstance(value, tuple | dict):  # of tables, their names
        return ", ".join(value) or "(none)"
    if isinstance(value, str) and "://" in value and "@" in value:
        scheme, _, rest = value.partition("://")
        credentials, _, place = rest.rpartition("@")
        return f"{scheme}://{credentials.partition(':')[0]}:***@{place}"
    return value
