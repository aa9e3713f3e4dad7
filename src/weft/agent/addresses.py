"""The addresses of this node: taken for pods out of its blocks; who holds what is in the journal."""

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from weft.agent.blocks import Blocks
from weft.agent.claims import BlockTaken, claim_this
from weft.agent.records import ClusterError
from weft.ipam import shares
from weft.ipam.pool import AddressInUse, Pool, PoolExhausted
from weft.ipam.ranges import IPAddress, IPNetwork, PodRange, common, listed
from weft.plugins.main.weave_requests import AddressRequest, Wanted
from weft.store import StoreError
from weft.troubles import Concern

_log = logging.getLogger(__name__)

#: Seconds between two looks at the blocks where nothing calls for one.
CARE_INTERVAL = 10.0
#: The same while nothing can be given out: a Node object that was deleted and is there again tells nobody.
SUSPENDED_INTERVAL = 1.0


class AddressesExhausted(Exception):
    """The node has no free address and cannot get another block now."""


class AddressRefused(Exception):
    """The address that was asked for is no pod's ever; the message says why."""


class AddressTaken(Exception):
    """The address that was asked for is somebody else's now; the message says whose."""


@dataclass(frozen=True, slots=True)
class Count:
    """Of one range, on this node: addresses with a holder (the bridge's included) and free, and whole blocks."""

    pods: PodRange
    blocks: tuple[IPNetwork, ...]
    in_use: int
    free: int
    spare: int


class Addresses(Blocks):
    """Takes addresses for pods, out of blocks of the first range that has room. Safe for several threads."""

    def take(self, wanted: AddressRequest | None = None) -> tuple[IPAddress, ...]:
        """An address of each family for a pod: what is ``wanted`` of it, else the next one.

        Raises AddressesExhausted, naming what is missing, AddressRefused or AddressTaken.
        """
        wanted = wanted or {}
        for version, asked in wanted.items():
            if version not in self._pools.versions:
                raise AddressRefused(
                    f"{asked.origin}: address {asked.address or listed(asked.within)}: "
                    f"this cluster has no range of IPv{version}"
                )
        if self._suspended:
            raise AddressesExhausted(self._suspended)
        taken: list[IPAddress] = []
        try:
            for version in self._pools.versions:
                if version in wanted:
                    taken.append(self._take_wanted(version, wanted[version]))
                elif self._pools.is_open(version):
                    taken.append(self._take(version))
            self._serve()
        except BaseException:
            self.release(taken)
            raise
        return tuple(taken)

    def hold(self, address: IPAddress) -> bool:
        """Mark an address as held that was found in use; False where it is not this node's, or held already."""
        pool = self._pools.at(address)
        with self._lock:
            try:
                if pool is None:
                    return False
                pool.hold(address)
            except (KeyError, AddressInUse):
                return False
            try:
                self._gateways.ensure(pool)
            except PoolExhausted as error:
                _log.error("%s has no gateway: %s", address, error)
        self._serve()
        return True

    def release(self, addresses: Iterable[IPAddress]) -> None:
        """The addresses are free: nothing in the kernel has them any more."""
        with self._lock:
            for address in addresses:
                if pool := self._pools.at(address):
                    pool.release(address)
                    if pool.pods.closed:
                        self.wake()

    def counts(self) -> list[Count]:
        """What is in use and what is free, per range."""
        with self._lock:
            return [
                Count(pool.pods, tuple(pool.blocks), pool.in_use, pool.free, len(pool.empty_blocks))
                for pool in self._pools
            ]

    @property
    def suspended(self) -> str:
        """Why nothing is given out and pods may be cut off from other nodes; empty where that is not so."""
        return self._suspended

    def lacking(self) -> str:
        """Why no pod can get an address now, as far as is known without asking the store; empty where one can."""
        for version in self._pools.versions:
            family = self._pools.family(version)
            with self._lock:
                missing = "" if any(pool.free for pool in family) else self._missing(version, ())
            why = self._why_no_further([pool.pods for pool in family]) if missing else ""
            if why and self._pools.is_open(version):
                return f"{missing}, and no further block can be had: {why}"
        return ""

    def _why_no_further(self, family: Sequence[PodRange]) -> str:
        if self._claiming.away or not self._live.heard:
            return self._claiming.away or "the store is away"
        claimed = self._live.claimed()
        if any(claimed.gaps(pods) for pods in family if not pods.closed):
            return ""
        return f"every block of {listed([pods.network for pods in family])} has an owner"

    def suspend(self, reason: str) -> None:
        """Give out nothing for this reason; an empty one ends that."""
        self._suspended = reason

    def care(self, stopping: threading.Event, check: Callable[[], None], concern: Concern) -> None:
        """Keep one empty block ahead and give back what is beyond it, until told to stop.

        ``check`` is called first, each time: whether what this node holds is still its own. ``concern`` is told
        where something of that cannot be.
        """
        while not stopping.is_set():
            try:
                check()
                self.keep_one_spare()
                concern.over()
            except (StoreError, ClusterError, shares.RangeExhausted) as error:
                refused = isinstance(error, StoreError) and error.refused
                concern.note(str(error), "pods get what is free here", refused=refused)
            self._wake.wait(SUSPENDED_INTERVAL if self._suspended else CARE_INTERVAL)
            self._wake.clear()

    def wake(self) -> None:
        """Let ``care`` look at once."""
        self._wake.set()

    def _take(self, version: int, within: Sequence[IPNetwork] = ()) -> IPAddress:
        with self._lock:
            address = self._next(version, within)
            missing = "" if address else self._missing(version, within)
            spare = any(pool.empty_blocks for pool in self._pools.family(version))
        if address is None:
            return self._take_of_further_block(version, within, missing)
        if not spare:
            self.wake()
        return address

    def _next(self, version: int, within: Sequence[IPNetwork]) -> IPAddress | None:
        """The next address of the first range that has one, and one for the bridge."""
        for pool in self._pools.family(version):
            parts = common(within, pool.pods.network)
            if pool.free and (parts or not within):
                try:
                    self._gateways.ensure(pool)
                    return pool.take(parts)
                except PoolExhausted:
                    continue
        return None

    def _take_of_further_block(self, version: int, within: Sequence[IPNetwork], missing: str) -> IPAddress:
        try:
            with self._claiming.held():
                with self._lock:
                    if address := self._next(version, within):
                        return address
                    missing = self._missing(version, within)
                with self._claiming.asking():
                    self._add_block(version, within)
                with self._lock:
                    if address := self._next(version, within):
                        return address
        except (StoreError, shares.RangeExhausted) as error:
            raise AddressesExhausted(f"{missing}, and no further block can be had: {error}") from error
        raise AddressesExhausted(f"{missing}, and a further block has none for a pod")

    def _missing(self, version: int, within: Sequence[IPNetwork]) -> str:
        if within:
            return f"no address of this node's blocks in {listed(within)} is free"
        in_use = sum(pool.in_use for pool in self._pools.family(version))
        count = sum(len(pool.blocks) for pool in self._pools.family(version))
        return f"all {in_use} addresses of this node's {count} blocks are in use"

    def _take_wanted(self, version: int, asked: Wanted) -> IPAddress:
        try:
            if asked.address is None:
                return self._take(version, asked.within)
            return self._take_named(asked.address)
        except (AddressesExhausted, AddressRefused, AddressTaken) as error:
            raise type(error)(f"{asked.origin}: {error}") from error

    def _take_named(self, address: IPAddress) -> IPAddress:
        pool = self._pools.at(address)
        if pool is None:
            family = [pool.pods.network for pool in self._pools.family(address.version)]
            raise AddressRefused(f"address {address} is not in the range {listed(family)}")
        if not pool.pods.usable(address):
            raise AddressRefused(f"address {address} is given to no pod: it is excluded, or an end of {pool.pods}")
        try:
            try:
                with self._lock:
                    pool.hold(address)
            except KeyError:
                self._claim_for(pool, address)
                with self._lock:
                    pool.hold(address)
        except AddressInUse:
            if address in self._gateways.holders():
                raise AddressRefused(f"address {address} is this node's bridge's") from None
            raise AddressTaken(f"address {address} is taken: it belongs to {self._holder(address)}") from None
        try:
            with self._lock:
                self._gateways.ensure(pool)
        except PoolExhausted as error:
            self.release([address])
            raise AddressesExhausted(f"address {address} has no gateway: {error}") from error
        return address

    def _claim_for(self, pool: Pool, address: IPAddress) -> None:
        """Make the address's block this node's own where it is nobody's."""
        block = pool.pods.block_at(address)
        try:
            with self._claiming.held():
                if block in pool.blocks:
                    return
                with self._claiming.asking():
                    if any(other in block for other in self._used_elsewhere()):
                        raise AddressTaken(f"address {address} is in block {block}, where pods of other nodes are")
                    self.note_claim(block, claim_this(self._cluster, block, self._node))
        except BlockTaken as taken:
            own = [block for pool in self._pools.family(address.version) for block in pool.blocks]
            raise AddressTaken(
                f"address {address} is in {taken}, not of this node: ask for one of {listed(own)}, "
                f"or run the pod on {taken.owner}"
            ) from None
        except (StoreError, ClusterError) as error:
            raise AddressesExhausted(f"address {address} is in no block of this node: {error}") from error

    def _holder(self, address: IPAddress) -> str:
        for attachment in self._journal.attachments():
            if address in attachment.addresses:
                return attachment.holder
        return "another pod"
