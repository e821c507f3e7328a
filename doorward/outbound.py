"""Asking other servers over HTTPS: webhooks of operators, and the keys of OpenID issuers.

Addresses come from those who configure labels, and a label's operator need not be the node's. The rules:

1. HTTPS only, by TLS 1.2 or better, with the server's name and chain checked: by the roots that the label names and no
   others, else by the system's.
2. Nothing is followed: a redirect is an answer like any other. No proxy and no credentials come from the environment.
3. A name is resolved here, and only addresses that anybody may reach are asked: not this machine's, not those of its
   network, not link-local ones (where clouds keep their credentials). An IPv6 address that stands for an IPv4 address
   is judged by that one. What the node's configuration allows beside (`est.outbound_networks`) is allowed. The address
   that was checked is the one that is connected to.
4. Everything together has one deadline; an answer has a largest size; only so many are asked at once.
"""

import asyncio
import ssl
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from socket import AF_UNSPEC, AddressFamily
from typing import Final
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from est.authentication.outbound import Incoming, Outgoing, Unanswered

MOST_AT_ONCE: Final = 64

Network = IPv4Network | IPv6Network

# What IANA allots of it: so neither site-local addresses (RFC 3879) nor what a network translates by itself (RFC 8215).
_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")

# RFC 4291 2.5.5: mapped and compatible addresses; RFC 6052 2.1: the prefix of NAT64.
_ENDS_IN_IPV4: Final = tuple(map(IPv6Network, ("::ffff:0:0/96", "::/96", "64:ff9b::/96")))


class _NotAllowed(OSError):
    """A name that leads only where this node does not ask."""


class _CheckedResolver(AbstractResolver):
    """Resolves names, and gives back only the addresses that may be asked."""

    def __init__(self, allowed: Sequence[Network]) -> None:
        self._allowed = allowed
        self._names = ThreadedResolver()

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: AddressFamily = AF_UNSPEC,
    ) -> list[ResolveResult]:
        found = await self._names.resolve(host, port, family)
        may_be_asked = [one for one in found if is_allowed(one["host"], self._allowed)]
        if not may_be_asked:
            raise _NotAllowed(f"{host} leads to no address that this node may ask")
        return may_be_asked

    async def close(self) -> None:
        await self._names.close()


class HttpsOutbound:
    """The one that implements `est.authentication.outbound.Outbound`.

    Args:
        allowed: Networks that may be asked though they are not everybody's.
    """

    def __init__(self, allowed: Sequence[Network]) -> None:
        self._allowed = tuple(allowed)
        self._places = asyncio.Semaphore(MOST_AT_ONCE)

    async def send(self, outgoing: Outgoing) -> Incoming | Unanswered:
        """Ask once."""
        parts = urlsplit(outgoing.url)
        if parts.scheme != "https" or not parts.hostname:
            return Unanswered(f"{outgoing.url} is not HTTPS")
        if _is_literal(parts.hostname) and not is_allowed(parts.hostname, self._allowed):  # these are not resolved
            return Unanswered(f"{parts.hostname} is no address that this node may ask")
        if self._places.locked():
            return Unanswered(f"{MOST_AT_ONCE} servers are being asked already")
        try:
            async with self._places:
                return await self._ask(outgoing)
        except TimeoutError:
            return Unanswered(f"{parts.hostname} did not answer within {outgoing.deadline.total_seconds():g} s")
        except (aiohttp.ClientError, ssl.SSLError, OSError, ValueError) as error:
            return Unanswered(f"{parts.hostname} could not be asked: {type(error).__name__}: {error}")

    async def _ask(self, outgoing: Outgoing) -> Incoming | Unanswered:
        trust = ssl.create_default_context(cadata=outgoing.authorities)
        trust.minimum_version = ssl.TLSVersion.TLSv1_2
        connector = aiohttp.TCPConnector(ssl=trust, resolver=_CheckedResolver(self._allowed))
        async with aiohttp.ClientSession(connector=connector, trust_env=False, auto_decompress=False) as session:
            exchange = asyncio.create_task(_exchange(session, outgoing))
            try:
                done, _ = await asyncio.wait({exchange}, timeout=outgoing.deadline.total_seconds())
                if not done:
                    raise TimeoutError
                return exchange.result()
            finally:
                # At once: who does not answer would not say goodbye either.
                await connector.close(abort_ssl=True)
                exchange.cancel()
                await asyncio.gather(exchange, return_exceptions=True)


async def _exchange(session: aiohttp.ClientSession, outgoing: Outgoing) -> Incoming | Unanswered:
    async with session.request(
        outgoing.method,
        outgoing.url,
        headers=dict(outgoing.headers),
        data=outgoing.body or None,
        allow_redirects=False,
    ) as answer:
        body = bytearray()
        async for part in answer.content.iter_any():
            body += part
            if len(body) > outgoing.largest_answer:
                return Unanswered(f"the answer is longer than {outgoing.largest_answer} bytes")
        return Incoming(answer.status, bytes(body))


def is_allowed(address: str, allowed: Sequence[Network]) -> bool:
    """Tell whether an address may be asked (rule 3)."""
    named = ip_address(address.partition("%")[0])
    meant = named if isinstance(named, IPv4Address) else _embedded(named) or named
    is_unicast = not meant.is_multicast if isinstance(meant, IPv4Address) else meant in _GLOBAL_UNICAST
    return (meant.is_global and is_unicast) or any(one in network for one in (named, meant) for network in allowed)


def _embedded(address: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address that an IPv6 address leads to by its form, if by any: mapped, 6to4, NAT64, compatible."""
    if any(address in network for network in _ENDS_IN_IPV4):
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.sixtofour  # RFC 3056 2: 2002::/16, the address behind it


def _is_literal(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
