"""The bridge's addresses on this node: one of each range that it serves, the gateway of the pods in that range.

Each is written down before the kernel has it. The main one of each family is what peers send to; it is of the
first range that the node has blocks of, or of the one that it always was.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from ipaddress import IPv4Interface, IPv6Interface, ip_interface

from weft.agent.journal import Journal
from weft.ipam.pool import AddressInUse, Pool, PoolExhausted
from weft.ipam.ranges import IPAddress, IPNetwork

#: The journal's facts: the main ones by family, and the further ones with commas between.
_MAIN = {4: "gateway", 6: "gateway6"}
_FURTHER = "further gateways"


class Gateways:
    """Chooses the addresses and remembers them. Not safe for use by several threads at once."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._main: dict[int, Pool] = {}
        self._chosen: dict[IPNetwork, IPAddress] = {}

    def restore(self, pools: Sequence[Pool], told: Collection[IPAddress]) -> None:
        """Take up what the journal says, else what is ``told`` by others, and choose what is missing. The pools
        hold the pods' addresses already.

        Raises PoolExhausted where there is none for a family, or for the pods in a range.
        """
        self._main, self._chosen = {}, {}
        known = [*self._remembered(), *told]
        for address in known:
            for pool in pools:
                if address in pool.pods.network and pool.pods.network not in self._chosen:
                    self._hold(pool, [address])
        for version, fact in _MAIN.items():
            family = [pool for pool in pools if pool.pods.version == version]
            former = _address(self._journal.fact(fact))
            candidates = [pool for pool in family if former is not None and former == self.of(pool)]
            candidates += [pool for pool in family if pool.blocks]
            # One that is excluded and empty is for the time when no other has a block left.
            candidates.sort(key=lambda pool: pool.pods.closed and not self.serves_pods(pool))
            if all(pool.pods.closed and not self.serves_pods(pool) for pool in family):
                continue
            main = next((pool for pool in candidates if self._choose(pool)), None)
            if main is not None:
                self._main[version] = main
            elif not all(pool.pods.closed for pool in family):
                raise _exhausted(family)
        for pool in pools:
            if self.serves_pods(pool) and not self._choose(pool):
                raise _exhausted([pool])
        self._write()

    def ensure(self, pool: Pool) -> IPAddress:
        """The bridge's address of a range, chosen now if there is none: the first that no pod has.

        Raises PoolExhausted.
        """
        if self.of(pool) is None:
            if not self._choose(pool):
                raise _exhausted([pool])
            self._write()
        return self._chosen[pool.pods.network]

    def drop(self, pool: Pool) -> None:
        """The bridge needs no address of this range any more."""
        address = self._chosen.pop(pool.pods.network)
        self._write()
        pool.release(address)

    def of(self, pool: Pool) -> IPAddress | None:
        """The bridge's address of a range; None where it needs none."""
        return self._chosen.get(pool.pods.network)

    def main(self, version: int) -> IPv4Interface | IPv6Interface | None:
        """The address of a family that peers know, with the prefix of its range."""
        pool = self._main.get(version)
        return (
            None if pool is None else ip_interface((self._chosen[pool.pods.network], pool.pods.network.prefixlen))
        )

    def is_main(self, pool: Pool) -> bool:
        """Whether the address that peers know is of this range."""
        return self._main.get(pool.pods.version) is pool

    def serves_pods(self, pool: Pool) -> bool:
        """Whether anybody but the bridge has an address of this range here."""
        return pool.in_use > (pool.pods.network in self._chosen)

    def holders(self) -> Collection[IPAddress]:
        """The bridge's addresses."""
        return self._chosen.values()

    def interfaces(self) -> tuple[IPv4Interface | IPv6Interface, ...]:
        """All of the bridge's addresses with the prefixes of their ranges, the main ones first."""
        mains = [main for version in _MAIN if (main := self.main(version)) is not None]
        every = [ip_interface((address, network.prefixlen)) for network, address in self._chosen.items()]
        return (*mains, *(item for item in every if item not in mains))

    def _choose(self, pool: Pool) -> bool:
        """Whether the bridge has an address of this range, chosen now where it had none."""
        return self.of(pool) is not None or self._hold(pool, _candidates(pool))

    def _hold(self, pool: Pool, candidates: Iterable[IPAddress]) -> bool:
        for address in candidates:
            try:
                pool.hold(address)
            except (KeyError, AddressInUse):
                continue
            self._chosen[pool.pods.network] = address
            return True
        return False

    def _remembered(self) -> list[IPAddress]:
        texts = [self._journal.fact(fact) or "" for fact in _MAIN.values()]
        texts += (self._journal.fact(_FURTHER) or "").split(",")
        return [ip_interface(text).ip for text in texts if text]

    def _write(self) -> None:
        mains = {fact: self.main(version) for version, fact in _MAIN.items()}
        addresses = {main.ip for main in mains.values() if main is not None}
        facts = {fact: "" if main is None else str(main.ip) for fact, main in mains.items()}
        facts[_FURTHER] = ",".join(str(item) for item in self._chosen.values() if item not in addresses)
        for fact, text in facts.items():
            if (self._journal.fact(fact) or "") != text:
                self._journal.set_fact(fact, text)


def _address(text: str | None) -> IPAddress | None:
    return ip_interface(text).ip if text else None


def _exhausted(pools: Sequence[Pool]) -> PoolExhausted:
    listed = ", ".join(str(pool.pods) for pool in pools)
    return PoolExhausted(f"no address of {listed} is left for this node's bridge")


def _candidates(pool: Pool) -> Iterator[IPAddress]:
    """The addresses of a node's blocks in order; where the whole range is excluded, pods that are left in it need
    a gateway all the same."""
    ends = (pool.pods.network.network_address, pool.pods.network.broadcast_address)
    for block in pool.blocks:
        for address in block:
            if pool.pods.usable(address) or (pool.pods.closed and address not in ends):
                yield address
