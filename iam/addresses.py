"""Whom an address stands for where attempts or connections are counted.

An IPv4 address stands for itself, also when it is written as an IPv6 one (RFC 4291 2.5.5.2). Of IPv6 the /64 counts: it
is the least that one customer is given whole (RFC 6177 2), and whoever has it can fill it at will.
"""

from ipaddress import AddressValueError, IPv6Address, ip_network

_CUSTOMER_BITS = 64


def counted_address(address: str) -> str:
    """Return what `address`, with or without a zone, is counted as; what is no IP address counts as it is."""
    if ":" not in address:
        return address
    try:
        parsed = IPv6Address(address.partition("%")[0])
    except AddressValueError:
        return address
    return str(parsed.ipv4_mapped or ip_network((parsed, _CUSTOMER_BITS), strict=False))
