"""The addresses of one node's blocks."""

from collections import deque
from collections.abc import Iterable, Sequence

from weft.ipam.ranges import IPAddress, IPNetwork, PodRange, listed


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

    def __init__(self, pods: PodRange) -> None:
        self.pods = pods
        self._unused: dict[IPNetwork, deque[IPAddress]] = {}
        self._released: dict[IPNetwork, dict[IPAddress, int]] = {}
        self._in_use: dict[IPNetwork, set[IPAddress]] = {}
        self._clock = 0

    @property
    def blocks(self) -> list[IPNetwork]:
        """The node's blocks in the order in which they came."""
        return list(self._in_use)

    @property
    def empty_blocks(self) -> list[IPNetwork]:
        """Blocks without an address in use and with some to hand out, in the order in which they came."""
        return [block for block in self.unused_blocks if self._unused[block] or self._released[block]]

    @property
    def unused_blocks(self) -> list[IPNetwork]:
        """Blocks without an address in use, whether or not all of them are excluded."""
        return [block for block, addresses in self._in_use.items() if not addresses]

    @property
    def in_use(self) -> int:
        """How many addresses have a holder."""
        return sum(len(addresses) for addresses in self._in_use.values())

    @property
    def free(self) -> int:
        """How many addresses could be handed out."""
        return sum(len(self._unused[block]) + len(self._released[block]) for block in self._in_use)

    def add_block(self, block: IPNetwork, released: Iterable[IPAddress] = ()) -> None:
        """Take a block in; ``released`` are its addresses that were used before, longest-unused first."""
        if block in self._in_use:
            return
        history = [address for address in released if address in block and self.pods.usable(address)]
        self._in_use[block] = set()
        self._released[block] = {address: self._tick() for address in history}
        seen = set(history)
        self._unused[block] = deque(
            address for address in block if address not in seen and self.pods.usable(address)
        )

    def remove_block(self, block: IPNetwork) -> None:
        """Give a block up. Raises AddressInUse where one of its addresses has a holder."""
        if self._in_use.get(block):
            raise AddressInUse(f"block {block} has {len(self._in_use[block])} addresses in use")
        for table in (self._in_use, self._released, self._unused):
            table.pop(block, None)

    def first_usable(self, block: IPNetwork) -> IPAddress:
        """The lowest address of a block that is not excluded, whoever has it. Raises PoolExhausted."""
        for address in block:
            if self.pods.usable(address):
                return address
        raise PoolExhausted(f"every address of block {block} is excluded")

    def take(self, within: Sequence[IPNetwork] = ()) -> IPAddress:
        """Hand out the next address, of these networks if any are given. Raises PoolExhausted."""
        address = self._next_within(within) if within else self._next()
        self.hold(address)
        return address

    def hold(self, address: IPAddress) -> None:
        """Mark one address as held, whoever decided on it.

        Raises AddressInUse where it has a holder, KeyError where it is in none of the node's blocks.
        """
        block = self.pods.block_at(address)
        if address in self._in_use[block]:
            raise AddressInUse(f"{address} is held already")
        if self._released[block].pop(address, None) is None:
            unused = self._unused[block]
            if unused and unused[0] == address:
                unused.popleft()
            elif address in unused:  # what is excluded since it was given out is in no queue
                unused.remove(address)
        self._in_use[block].add(address)

    def release(self, address: IPAddress) -> None:
        """Take an address back; it goes to the end of the queue. Unknown addresses are ignored."""
        block = self.pods.block_at(address)
        if address in self._in_use.get(block, ()):
            self._in_use[block].discard(address)
            if self.pods.usable(address):
                self._released[block][address] = self._tick()

    def _next(self) -> IPAddress:
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

    def _next_within(self, networks: Sequence[IPNetwork]) -> IPAddress:
        # By whole block, as _next draws: first what was never used, then what has rested longest.
        for block in sorted(self._in_use, key=lambda block: not self._in_use[block]):
            if not any(network.overlaps(block) for network in networks):
                continue
            for address in (*self._unused[block], *self._released[block]):
                if any(address in network for network in networks):
                    return address
        raise PoolExhausted(f"no address of this node's blocks in {listed(networks)} is free")

    def _tick(self) -> int:
        self._clock += 1
        return self._clock
