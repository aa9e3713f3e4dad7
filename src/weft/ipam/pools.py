"""A node's pools, one of each range of the cluster, by the family that a pod has one address of each of."""

from collections.abc import Iterable, Iterator

from weft.ipam.pool import Pool
from weft.ipam.ranges import IPAddress, PodRange


class Pools:
    """Pools in the order in which they are drawn on, IPv4 first."""

    def __init__(self, ranges: Iterable[PodRange] = ()) -> None:
        self._pools = [Pool(pods) for pods in ranges]
        self._families = {
            version: [pool for pool in self._pools if pool.pods.version == version]
            for version in sorted({pool.pods.version for pool in self._pools})
        }

    def __iter__(self) -> Iterator[Pool]:
        return iter(self._pools)

    @property
    def versions(self) -> list[int]:
        """The families that there are ranges of: 4, 6."""
        return list(self._families)

    def family(self, version: int) -> list[Pool]:
        """The pools of one family."""
        return self._families.get(version, [])

    def at(self, address: IPAddress) -> Pool | None:
        """The pool of the range that an address is in."""
        return next((pool for pool in self.family(address.version) if address in pool.pods.network), None)

    def is_open(self, version: int) -> bool:
        """Whether anything of a family may be given out: not where all of its ranges are excluded."""
        return any(not pool.pods.closed for pool in self.family(version))
