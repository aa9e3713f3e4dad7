"""The addresses of one node's blocks."""

from collections import deque
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network

from weft.ipam.ranges import block_at, usable


class PoolExhausted(Exception):
    """The node's blocks have no free address."""


class AddressInUse(Exception):
    """The address has a holder already."""


class Pool:
    """Which addresses of a node's blocks are free, and which is next.

    The longest-unused address is handed out next: first those never used, in ascending order, then those
    given back, in the order in which they came back. Blocks that nobody uses are kept for the time when the
    store cannot give another: they are drawn on last. Not safe for use by several threads at once.
    """

    def __init__(self, universe: IPv4Network) -> None:
        self.universe = universe
        self._unused: dict[IPv4Network, deque[IPv4Address]] = {}
        self._released: dict[IPv4Network, dict[IPv4Address, int]] = {}
        self._in_use: dict[IPv4Network, set[IPv4Address]] = {}
        self._clock = 0

    @property
    def blocks(self) -> list[IPv4Network]:
        """The node's blocks in the order in which they came."""
        return list(self._in_use)

    @property
    def empty_blocks(self) -> list[IPv4Network]:
        """Blocks without an address in use, in the order in which they came."""
        return [block for block, addresses in self._in_use.items() if not addresses]

    @property
    def in_use(self) -> int:
        """How many addresses have a holder."""
        return sum(len(addresses) for addresses in self._in_use.values())

    @property
    def free(self) -> int:
        """How many addresses could be handed out."""
        return sum(len(self._unused[block]) + len(self._released[block]) for block in self._in_use)

    def add_block(self, block: IPv4Network, released: Iterable[IPv4Address] = ()) -> None:
        """Take a block in; ``released`` are its addresses that were used before, longest-unused first."""
        if block in self._in_use:
            return
        history = [address for address in released if address in block and usable(self.universe, address)]
        self._in_use[block] = set()
        self._released[block] = {address: self._tick() for address in history}
        seen = set(history)
        self._unused[block] = deque(
            address for address in block if address not in seen and usable(self.universe, address)
        )

    def remove_block(self, block: IPv4Network) -> None:
        """Give a block up. Raises AddressInUse where one of its addresses has a holder."""
        if self._in_use.get(block):
            raise AddressInUse(f"block {block} has {len(self._in_use[block])} addresses in use")
        for table in (self._in_use, self._released, self._unused):
            table.pop(block, None)

    def take(self) -> IPv4Address:
        """Hand out the next address. Raises PoolExhausted where none is free."""
        address = self._next()
        self.hold(address)
        return address

    def hold(self, address: IPv4Address) -> None:
        """Mark one address as held, whoever decided on it.

        Raises AddressInUse where it has a holder, KeyError where it is in none of the node's blocks.
        """
        block = block_at(self.universe, address)
        if address in self._in_use[block]:
            raise AddressInUse(f"{address} is held already")
        if self._released[block].pop(address, None) is None:
            unused = self._unused[block]
            if unused and unused[0] == address:
                unused.popleft()
            else:
                unused.remove(address)
        self._in_use[block].add(address)

    def release(self, address: IPv4Address) -> None:
        """Take an address back; it goes to the end of the queue. Unknown addresses are ignored."""
        block = block_at(self.universe, address)
        if address in self._in_use.get(block, ()):
            self._in_use[block].discard(address)
            self._released[block][address] = self._tick()

    def _next(self) -> IPv4Address:
        occupied = [block for block, addresses in self._in_use.items() if addresses]
        for blocks in (occupied, self.empty_blocks):
            for block in blocks:
                if self._unused[block]:
                    return self._unused[block][0]
            # Within a block the released addresses stand in the order in which they came back.
            oldest = [next(iter(self._released[block].items())) for block in blocks if self._released[block]]
            if oldest:
                return min(oldest, key=lambda item: item[1])[0]
        raise PoolExhausted(f"all {self.in_use} addresses of this node's {len(self._in_use)} blocks are in use")

    def _tick(self) -> int:
        self._clock += 1
        return self._clock
