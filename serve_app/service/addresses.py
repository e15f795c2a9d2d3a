"""Which addresses of the network an image may be fetched from."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_SITE_LOCAL = ipaddress.IPv6Network("fec0::/10")


def allowed(address: Address, networks: Sequence[str]) -> bool:
    """True for an address of one of `networks` (CIDR), and for a public one."""
    if any(address in ipaddress.ip_network(network, strict=False) for network in networks):
        return True
    return all(_public(part) for part in (address, *_embedded(address)))


def _public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and address in _SITE_LOCAL:
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _embedded(address: Address) -> list[Address]:
    """IPv4 addresses that an IPv6 address leads to."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    found: list[Address] = [part for part in (address.ipv4_mapped, address.sixtofour) if part is not None]
    found += address.teredo or ()
    if address in _NAT64 or int(address) >> 32 == 0:
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return found
