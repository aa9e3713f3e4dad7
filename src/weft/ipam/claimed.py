"""Which blocks have an owner, in an order that shows at once where there is room."""

from bisect import bisect_left, insort
from collections.abc import Iterable
from typing import Self

from weft.ipam.ranges import IPNetwork, PodRange


class ClaimedBlocks:
    """A set of blocks, of any ranges, kept in order: what is looked for at each claim is not sorted each time.

    Not safe for use by several threads at once.
    """

    def __init__(self, blocks: Iterable[IPNetwork] = ()) -> None:
        #: First addresses in ascending order, by version and prefix length.
        self._firsts: dict[tuple[int, int], list[int]] = {}
        for block in blocks:
            self.add(block)

    def __contains__(self, block: IPNetwork) -> bool:
        firsts, first, place = self._place(block)
        return place < len(firsts) and firsts[place] == first

    def add(self, block: IPNetwork) -> None:
        """The block has an owner."""
        if block not in self:
            insort(self._firsts.setdefault((block.version, block.prefixlen), []), int(block.network_address))

    def discard(self, block: IPNetwork) -> None:
        """The block has no owner any more, if it had one."""
        if block in self:
            firsts, _, place = self._place(block)
            del firsts[place]

    def copy(self) -> Self:
        """The same blocks, to be changed on their own."""
        copied = type(self)()
        copied._firsts = {kind: list(firsts) for kind, firsts in self._firsts.items()}
        return copied

    def gaps(self, pods: PodRange) -> list[tuple[int, int]]:
        """Runs of a range's free blocks, as (number of the first, length), in ascending order.

        Blocks that are excluded as a whole are not free.
        """
        base, size, total = int(pods.network.network_address), pods.block_size, pods.block_count
        firsts = self._firsts.get((pods.version, pods.block_prefix), [])
        inside = firsts[bisect_left(firsts, base) : bisect_left(firsts, base + total * size)]
        runs, begin = [], base
        for first in inside:
            if first != begin:
                runs.append((begin, first))
            begin = first + size
        if begin < base + total * size:
            runs.append((begin, base + total * size))
        for part in pods.excluded:
            # Whole blocks only: of others some addresses are left.
            start = base - (base - int(part.network_address)) // size * size
            stop = base + (int(part.broadcast_address) + 1 - base) // size * size
            if start < stop:
                runs = [piece for run in runs for piece in _without(run, start, stop)]
        return [((start - base) // size, (stop - start) // size) for start, stop in runs]

    def _place(self, block: IPNetwork) -> tuple[list[int], int, int]:
        firsts, first = self._firsts.get((block.version, block.prefixlen), []), int(block.network_address)
        return firsts, first, bisect_left(firsts, first)


def _without(run: tuple[int, int], start: int, stop: int) -> list[tuple[int, int]]:
    """What is left of a run, its end not in it, when start … stop is taken out of it."""
    pieces = (run[0], min(run[1], start)), (max(run[0], stop), run[1])
    return [piece for piece in pieces if piece[0] < piece[1]]
