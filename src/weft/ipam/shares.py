"""Where a node looks for its blocks.

Ownership itself is decided by the store (create-if-absent); this module only says where to try, so that
nodes seldom meet and addresses come out as Weave Net's users know them. Weave kept a ring whose peers
halved the range among those that started together, or donated part of their share to one that came later.
The same arithmetic, done on paper by every node alike, gives the first places to look.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from weft.ipam.ranges import block_at, block_prefix


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


def first_block(universe: IPv4Network, claimed: Collection[IPv4Network], init: Init, node: str) -> IPv4Network:
    """The block that a node without any should try to claim.

    ``claimed`` are the blocks that have an owner. Raises RangeExhausted where nothing is free.
    """
    for start in _first_places(universe, init, node):
        block = block_at(universe, start)
        if block not in claimed:
            return block
    return middle_of_largest_gap(universe, claimed)


def further_block(
    universe: IPv4Network, claimed: Collection[IPv4Network], own: Sequence[IPv4Network]
) -> IPv4Network:
    """The block that a node with blocks should try next: the one behind its newest, if that is free.

    Raises RangeExhausted where nothing is free.
    """
    if own:
        behind = int(own[-1].broadcast_address) + 1
        if behind <= int(universe.broadcast_address):
            block = block_at(universe, IPv4Address(behind))
            if block not in claimed:
                return block
    return middle_of_largest_gap(universe, claimed)


def middle_of_largest_gap(universe: IPv4Network, claimed: Collection[IPv4Network]) -> IPv4Network:
    """The block in the middle of the longest run of free blocks; of equal runs the last."""
    prefix = block_prefix(universe)
    size = 1 << (32 - prefix)
    base = int(universe.network_address)
    total = universe.num_addresses // size
    best_start, best_length = 0, 0
    previous = -1
    for index in [*sorted((int(block.network_address) - base) // size for block in claimed), total]:
        if index - previous - 1 >= best_length:
            best_start, best_length = previous + 1, index - previous - 1
        previous = index
    if best_length == 0:
        raise RangeExhausted(f"all {total} blocks of {universe} have an owner")
    return IPv4Network((base + (best_start + best_length // 2) * size, prefix))


def donations(universe: IPv4Network) -> Iterator[IPv4Address]:
    """The places that Weave's first peer would have given away, one by one, to peers that came later.

    The donor holds the whole range and one address of it. It looks for its largest free CIDR-aligned part:
    in one run of free addresses the first such part, of several runs' equal parts the last run's. Where
    that is more than half of all it has free, it gives away only the upper half.
    """
    base, last = int(universe.network_address), int(universe.broadcast_address)
    smallest = 1 << (32 - block_prefix(universe))
    runs = [(base + 2, last)]
    while True:
        start, size = max(
            (_largest_aligned(*run) for run in runs), key=lambda part: (part[1], part[0]), default=(0, 0)
        )
        free = sum(stop - begin + 1 for begin, stop in runs)
        if size > free // 2:
            start, size = start + size // 2, size // 2
        if size < smallest:
            return
        yield IPv4Address(start)
        runs = [piece for run in runs for piece in _without(run, start, start + size - 1)]


def halves(universe: IPv4Network, nodes: int) -> list[IPv4Network]:
    """The range shared among nodes by recursive halving, always along CIDR boundaries."""
    if nodes <= 1 or universe.prefixlen >= block_prefix(universe):
        return [universe]
    lower, upper = (IPv4Network(half) for half in universe.subnets())
    return halves(lower, nodes // 2) + halves(upper, nodes - nodes // 2)


def _first_places(universe: IPv4Network, init: Init, node: str) -> Iterator[IPv4Address]:
    if isinstance(init, Seed) and node in init.names:
        yield halves(universe, len(init.names))[init.names.index(node)].network_address
    elif isinstance(init, Consensus):
        for share in halves(universe, init.nodes):
            yield share.network_address
    else:
        yield universe.network_address
    yield from donations(universe)


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
