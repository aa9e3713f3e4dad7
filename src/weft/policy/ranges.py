"""Address blocks as disjoint, sorted intervals of whole numbers, both ends included."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

from weft.policy.objects import Block

Interval = tuple[int, int]


def allowed(blocks: Iterable[Block], version: int) -> tuple[Interval, ...]:
    """What blocks of one IP version allow: each less its own exceptions, then all of them merged."""
    found: list[Interval] = []
    for block in blocks:
        if block.network.version == version:
            whole = int(block.network.network_address), int(block.network.broadcast_address)
            holes = merged(
                (int(network.network_address), int(network.broadcast_address)) for network in block.excepted
            )
            found += subtracted(whole, holes)
    return merged(found)


def merged(intervals: Iterable[Interval]) -> tuple[Interval, ...]:
    """The same numbers in as few intervals as possible: nftables refuses those that overlap."""
    result: list[Interval] = []
    for low, high in sorted(intervals):
        if result and low <= result[-1][1] + 1:
            if high > result[-1][1]:
                result[-1] = (result[-1][0], high)
        else:
            result.append((low, high))
    return tuple(result)


def subtracted(whole: Interval, holes: Iterable[Interval]) -> list[Interval]:
    """An interval less sorted, disjoint holes."""
    result, (low, high) = [], whole
    for first, last in holes:
        if low < first:
            result.append((low, min(high, first - 1)))
        low = max(low, last + 1)
    if low <= high:
        result.append((low, high))
    return result


def text(interval: Interval, version: int) -> str:
    """An interval as nftables reads it."""
    address = IPv4Address if version == 4 else IPv6Address
    low, high = interval
    return f"{address(low)}" if low == high else f"{address(low)}-{address(high)}"
