"""What is written down of the cluster's ranges: under the store's key ``cluster``, and in a node's journal.

A cluster with one range of each family and nothing excluded is written as it always was.
"""

import re
from ipaddress import ip_network

import msgspec

from weft.ipam.agreement import Agreement
from weft.ipam.ranges import IPNetwork, PodRange, collapsed, inside, usual_block_prefix

#: Prefix length of the blocks in clusters that were founded before the size was written down.
_LARGEST_UNTOLD = 24


class _Further(msgspec.Struct, frozen=True, rename="camel"):
    range: str
    block_size: int


class _Ranges(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """``range`` and ``range6`` are the first of each family."""

    range: str
    block_size: int | None = None
    range6: str | None = None
    block_size6: int | None = None
    further: tuple[_Further, ...] = ()
    excluded: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


def encoded(agreed: Agreement) -> bytes:
    """As it is written."""
    four = [pods for pods in agreed.ranges if pods.version == 4]
    six = [pods for pods in agreed.ranges if pods.version == 6]
    return msgspec.json.encode(
        _Ranges(
            str(four[0]),
            four[0].block_prefix,
            str(six[0]) if six else None,
            six[0].block_prefix if six else None,
            tuple(_Further(str(pods), pods.block_prefix) for pods in (*four[1:], *six[1:])),
            tuple(str(part) for pods in agreed.ranges for part in pods.excluded),
            tuple(sorted(map(str, agreed.removed))),
        )
    )


def decoded(content: bytes) -> Agreement:
    """What was written. Raises ValueError for what is not ours."""
    try:
        told = msgspec.json.decode(content, type=_Ranges)
        return _agreement(told)
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from None


def decoded_fact(text: str) -> Agreement | None:
    """What a journal's fact says; of before there were several ranges: ``10.32.0.0/12 26,fd00:10:32::/48 120``."""
    if text.startswith("{"):
        return decoded(text.encode())
    if not re.fullmatch(r"\S+ \d+(,\S+ \d+)?", text):
        return None
    parts = [part.split(" ") for part in text.split(",")]
    return Agreement(tuple(PodRange(ip_network(network), int(prefix)) for network, prefix in parts))


def _agreement(told: _Ranges) -> Agreement:
    first = ip_network(told.range)
    sizes = [(first, told.block_size or min(max(_LARGEST_UNTOLD, first.prefixlen + 6), 29))]
    if told.range6 is not None:
        six = ip_network(told.range6)
        sizes.append((six, told.block_size6 or usual_block_prefix(six)))
    sizes += [(ip_network(item.range), item.block_size) for item in told.further]
    excluded: list[IPNetwork] = [ip_network(text) for text in told.excluded]
    ranges = [PodRange(network, size, collapsed(inside(excluded, network))) for network, size in sizes]
    ranges.sort(key=lambda pods: pods.version)
    return Agreement(tuple(ranges), frozenset(map(ip_network, told.removed)))
