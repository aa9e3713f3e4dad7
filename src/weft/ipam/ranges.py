"""Pod ranges and the blocks they are divided into."""

import ipaddress
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network

#: A range is divided into 64 blocks or more, but no block is larger than this (256 addresses).
LARGEST_BLOCK = 24
#: A block smaller than eight addresses would hold hardly a pod beside its bridge address.
SMALLEST_BLOCK = 29


def parse_range(text: str) -> IPv4Network:
    """The pod range written as CIDR, such as ``10.32.0.0/12``.

    Raises ValueError, naming the value and the mend, for anything else, for host bits that are set, for
    addresses that no pod can have, and for ranges too small to be shared by two nodes.
    """
    if "/" not in text:
        raise ValueError(f"{text!r} is not a range: write it as CIDR, such as 10.32.0.0/12")
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a range: {error}; write it as CIDR, such as 10.32.0.0/12") from None
    if isinstance(network, ipaddress.IPv6Network):
        raise ValueError(f"{text!r} is an IPv6 range, which Weft does not serve yet: give an IPv4 range")
    if str(network.network_address) != text.partition("/")[0]:
        raise ValueError(f"{text!r} has host bits set: did you mean {network}?")
    if network.prefixlen >= SMALLEST_BLOCK:
        raise ValueError(f"{text!r} is too small for two nodes: give a /{SMALLEST_BLOCK - 1} or larger")
    if network.prefixlen < 8:
        raise ValueError(f"{text!r} is larger than any private range: give a /8 or smaller")
    if network.is_multicast or network.is_loopback or network.is_link_local or network.is_unspecified:
        raise ValueError(f"{text!r} cannot hold pods: it is reserved; give a private range such as 10.32.0.0/12")
    return network


def block_prefix(universe: IPv4Network) -> int:
    """The prefix length of the blocks of a range: /24 down to /18 ranges, longer for smaller ones."""
    return min(max(LARGEST_BLOCK, universe.prefixlen + 6), SMALLEST_BLOCK)


def block_at(universe: IPv4Network, address: IPv4Address) -> IPv4Network:
    """The block of the range that holds the address."""
    return IPv4Network((address, block_prefix(universe)), strict=False)


def usable(universe: IPv4Network, address: IPv4Address) -> bool:
    """Whether a pod may have the address.

    Only the whole range's network and broadcast addresses are out: pods see the range's prefix length,
    so a block's first and last addresses are ordinary ones (10.244.192.0/16 is legal).
    """
    return address in universe and address not in (universe.network_address, universe.broadcast_address)


def overlapping(universe: IPv4Network, routes: Iterable[IPv4Network]) -> IPv4Network | None:
    """The first route that overlaps the range; default routes overlap everything and do not count."""
    return next((route for route in routes if route.prefixlen > 0 and route.overlaps(universe)), None)
