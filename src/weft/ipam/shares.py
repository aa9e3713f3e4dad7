"""Where a node looks for its blocks.

Ownership itself is decided by the store (create-if-absent); this module only says where to try, so that
nodes seldom meet and addresses come out as Weave Net's users know them. Weave kept a ring whose peers
halved the range among those that started together, or donated part of their share to one that came later.
The same arithmetic, done on paper by every node alike, gives the first places to look.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from ipaddress import collapse_addresses
from itertools import islice

from weft.ipam.claimed import ClaimedBlocks
from weft.ipam.ranges import IPAddress, IPNetwork, PodRange, listed

#: How many places that Weave's first peer would have donated are tried; each costs more than the one before.
PLACES = 64


@dataclass(frozen=True, slots=True)
class Consensus:
    """``consensus=N``: N nodes start together and share the range by halving, in the order of arrival."""

    nodes: int


@dataclass(frozen=True, slots=True)
class Seed:
    """``seed=a,b,…``: the named nodes share the range by halving, in the order of their names."""

    names: tuple[str, ...]


#: How the first shares are found; None where nodes come one by one.
Init = Consensus | Seed | None


class RangeExhausted(Exception):
    """Every block of the range has an owner."""


def parse_init(text: str) -> Init:
    """IPALLOC_INIT as Weave spelled it: ``consensus``, ``consensus=N`` or ``seed=name,name``.

    Raises ValueError naming the value and the mend.
    """
    kind, _, value = text.partition("=")
    if kind == "consensus" and not value:
        return None
    if kind == "consensus" and value.isascii() and value.isdigit() and 0 < int(value) <= 65536:
        return Consensus(int(value)) if int(value) > 1 else None
    if kind == "seed" and value and all(name.strip() for name in value.split(",")):
        return Seed(tuple(sorted({name.strip() for name in value.split(",")})))
    if kind == "observer":
        raise ValueError("ipalloc-init 'observer' has no meaning here: every node asks the store; leave it out")
    raise ValueError(f"ipalloc-init {text!r} is not known: use consensus=N or seed=NAME,NAME,…")


def first_block(pods: PodRange, claimed: ClaimedBlocks, init: Init, node: str) -> IPNetwork:
    """The block that a node without any should try to claim.

    ``claimed`` are the blocks that have an owner. Raises RangeExhausted where nothing is free.
    """
    for start in _first_places(pods, init, node):
        block = pods.block_at(start)
        if block not in claimed and _is_served(pods, block):
            return block
    return middle_of_largest_gap(pods, claimed)


def further_block(pods: PodRange, claimed: ClaimedBlocks, own: Sequence[IPNetwork]) -> IPNetwork:
    """The block that a node with blocks should try next: the one behind its newest, if that is free.

    Raises RangeExhausted where nothing is free.
    """
    if own:
        behind = int(own[-1].broadcast_address) + 1
        if behind <= int(pods.network.broadcast_address):
            block = pods.block_at(pods.address(behind))
            if block not in claimed and _is_served(pods, block):
                return block
    return middle_of_largest_gap(pods, claimed)


def scattered_block(
    pods: PodRange, claimed: ClaimedBlocks, node: str, attempt: int, within: Sequence[IPNetwork] = ()
) -> IPNetwork:
    """A free block that depends on the node's name and the attempt: for nodes that lost a race for another.

    All that start at the same time look at the same places first; where each looks elsewhere afterwards, a
    thousand of them need a few attempts each, not a thousand. ``within`` are parts of the range, one of which the
    block has to have addresses of. Raises RangeExhausted where nothing is free.
    """
    parts = [replace(pods, network=network) for network in _whole_blocks(pods, within)] if within else [pods]
    free = [(part, first, length) for part in parts for first, length in claimed.gaps(part)]
    total = sum(length for _, _, length in free)
    if total == 0:
        raise RangeExhausted(f"no block in {listed(within)} is free") if within else _exhausted(pods)
    digest = hashlib.sha256(f"{node}\0{attempt}".encode()).digest()
    chosen = int.from_bytes(digest[:16]) % total
    for part, first, length in free:
        if chosen < length:
            return part.block(first + chosen)
        chosen -= length
    raise AssertionError("the gaps are shorter than their sum")


def middle_of_largest_gap(pods: PodRange, claimed: ClaimedBlocks) -> IPNetwork:
    """The block in the middle of the longest run of free blocks; of equal runs the last."""
    longest = max(claimed.gaps(pods), key=lambda gap: (gap[1], gap[0]), default=None)
    if longest is None:
        raise _exhausted(pods)
    first, length = longest
    return pods.block(first + length // 2)


def donations(pods: PodRange) -> Iterator[IPAddress]:
    """The places that Weave's first peer would have given away, one by one, to peers that came later.

    The donor holds the whole range and one address of it. It looks for its largest free CIDR-aligned part:
    in one run of free addresses the first such part, of several runs' equal parts the last run's. Where
    that is more than half of all it has free, it gives away only the upper half.
    """
    base, last = int(pods.network.network_address), int(pods.network.broadcast_address)
    runs = [(base + 2, last)]
    while True:
        start, size = max(
            (_largest_aligned(*run) for run in runs), key=lambda part: (part[1], part[0]), default=(0, 0)
        )
        free = sum(stop - begin + 1 for begin, stop in runs)
        if size > free // 2:
            start, size = start + size // 2, size // 2
        if size < pods.block_size:
            return
        yield pods.address(start)
        runs = [piece for run in runs for piece in _without(run, start, start + size - 1)]


def halves(pods: PodRange, nodes: int) -> list[IPNetwork]:
    """The range shared among nodes by recursive halving, always along CIDR boundaries."""
    return _halves(pods.network, pods.block_prefix, nodes)


def _halves(share: IPNetwork, longest: int, nodes: int) -> list[IPNetwork]:
    if nodes <= 1 or share.prefixlen >= longest:
        return [share]
    lower, upper = share.subnets()
    return _halves(lower, longest, nodes // 2) + _halves(upper, longest, nodes - nodes // 2)


def _whole_blocks(pods: PodRange, networks: Iterable[IPNetwork]) -> list[IPNetwork]:
    """The networks, smaller ones widened to their block, none of them twice."""
    widened = (
        network.supernet(new_prefix=pods.block_prefix) if network.prefixlen > pods.block_prefix else network
        for network in networks
    )
    return list(collapse_addresses(widened))  # type: ignore[type-var]


def _first_places(pods: PodRange, init: Init, node: str) -> Iterator[IPAddress]:
    if isinstance(init, Seed) and node in init.names:
        yield halves(pods, len(init.names))[init.names.index(node)].network_address
    elif isinstance(init, Consensus):
        for share in halves(pods, init.nodes):
            yield share.network_address
    else:
        yield pods.network.network_address
    yield from _donated(pods)


@cache
def _donated(pods: PodRange) -> tuple[IPAddress, ...]:
    return tuple(islice(donations(pods), PLACES))


def _is_served(pods: PodRange, block: IPNetwork) -> bool:
    """Whether the block is not excluded as a whole."""
    return not any(block.network_address in part and block.broadcast_address in part for part in pods.excluded)


def _exhausted(pods: PodRange) -> RangeExhausted:
    return RangeExhausted(f"all {pods.block_count} blocks of {pods} have an owner")


def _largest_aligned(begin: int, stop: int) -> tuple[int, int]:
    """(start, size) of the first largest CIDR-aligned part of the addresses begin … stop."""
    size = 1 << (stop - begin + 1).bit_length() - 1
    while size:
        start = -(-begin // size) * size
        if start + size - 1 <= stop:
            return start, size
        size //= 2
    return begin, 0


def _without(run: tuple[int, int], begin: int, stop: int) -> list[tuple[int, int]]:
    """What is left of a run when begin … stop is taken out of it."""
    if stop < run[0] or begin > run[1]:
        return [run]
    return [piece for piece in ((run[0], begin - 1), (stop + 1, run[1])) if piece[0] <= piece[1]]
