"""The addresses of this node: its blocks, claimed in the store, and who holds what, in the journal."""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_interface

from weft.agent.claims import BlockTaken, claim_block, claim_this
from weft.agent.cluster import Cluster, ClusterError, NodeRecord, View
from weft.agent.journal import Attachment, Journal
from weft.agent.live_view import LiveView
from weft.agent.store_turn import StoreTurn
from weft.ipam import shares
from weft.ipam.claimed import ClaimedBlocks
from weft.ipam.ownership import holdings
from weft.ipam.pool import AddressInUse, Pool, PoolExhausted
from weft.ipam.ranges import IPAddress, IPNetwork, PodRange, listed
from weft.plugins.main.weave_requests import AddressRequest, Wanted
from weft.store import StoreError

_log = logging.getLogger(__name__)

#: Seconds that more than one empty block is kept, so that a pod that comes and goes moves no ownership.
SURPLUS_SECONDS = 60.0
#: Seconds between two looks at the blocks where nothing calls for one.
CARE_INTERVAL = 10.0


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


class Addresses:
    """Takes addresses for pods and keeps one empty block per range ahead of them. Safe for several threads."""

    def __init__(
        self, cluster: Cluster, journal: Journal, live: LiveView, node: str, init: shares.Init,
        used_elsewhere: Callable[[], Collection[IPAddress]] = tuple,
    ) -> None:  # fmt: skip
        self._used_elsewhere = used_elsewhere  # their blocks are not claimed; may raise StoreError
        self._cluster = cluster
        self._journal = journal
        self._live = live
        self._node = node
        self._init = init
        self._lock = threading.Lock()
        self._claiming = StoreTurn()
        self._wake = threading.Event()
        self._pools: dict[int, Pool] = {}
        self._claimed_at: dict[IPNetwork, int] = {}
        self._surplus_since: dict[int, float] = {}
        self._gateways: dict[int, IPAddress] = {}
        self._displaced: dict[int, str] = {}
        self._suspended = ""

    def join(self, ranges: Sequence[PodRange], view: View, *, affirm: bool) -> None:
        """Take up this node's blocks as the cluster has them, claiming the first where there is none.

        ``affirm``: this node had no record, so others may be about to give its blocks back; each is changed
        first.

        What it remembers and nobody owns (it was removed from the cluster) is claimed again where pods are in it;
        pods whose block is another node's are displaced. Raises ClusterError, StoreError, or RangeExhausted where
        no block is left for this node.
        """
        remembered = self._remembered(ranges)
        found = holdings(self._node, list(remembered), view.owners)
        claimed_at = {block: view.held[self._node][block] for block in view.blocks_of(self._node)}
        if affirm:
            claimed_at = self._affirmed(claimed_at)
        for block, owner in found.lost.items():
            _log.warning("block %s belongs to %s now: this node was removed from the cluster", block, owner)
            self._journal.drop_block(block)
        for block in sorted(found.vacant, key=lambda block: (block.version, int(block.network_address))):
            revision = self._cluster.claim(block, self._node) if remembered[block] else None
            if revision is None:
                self._journal.drop_block(block)
            else:
                _log.warning("block %s had no owner any more and is claimed again", block)
                claimed_at[block] = revision
        for pods in ranges:
            mine = [block for block in claimed_at if pods.holds(block)]
            if not self._has_room(pods, mine):
                block, revision = self._claim(pods, mine, view.claimed.copy())
                claimed_at[block] = revision
        own = [block for block in claimed_at if any(pods.holds(block) for pods in ranges)]
        for block in own:
            self._journal.add_block(block)
        self._fill(ranges, own, view.nodes.get(self._node), view.owners)
        self._claimed_at = claimed_at

    def resume(self, ranges: Sequence[PodRange]) -> bool:
        """Take up this node's blocks as the journal has them, while the store is away; False where it has none."""
        own = [block for block in self._journal.blocks() if any(pods.holds(block) for pods in ranges)]
        if not all(any(pods.holds(block) for block in own) for pods in ranges):
            return False
        self._fill(ranges, own, None, {})
        self._claimed_at = dict.fromkeys(own, 0)
        return True

    @property
    def gateway(self) -> IPv4Interface:
        """The bridge's address, with the range's prefix."""
        return IPv4Interface((int(self._gateways[4]), self._pools[4].pods.network.prefixlen))

    @property
    def gateway6(self) -> IPv6Interface | None:
        """The bridge's IPv6 address, where there is a range."""
        if 6 not in self._gateways:
            return None
        return IPv6Interface((int(self._gateways[6]), self._pools[6].pods.network.prefixlen))

    @property
    def ranges(self) -> tuple[PodRange, ...]:
        """The ranges that pods get an address of each from."""
        return tuple(pool.pods for pool in self._pools.values())

    def displaced(self, attachment: Attachment) -> str:
        """Why a pod of the journal cannot keep its address; empty where it can."""
        return self._displaced.get(attachment.id, "")

    def take(self, wanted: AddressRequest | None = None) -> tuple[IPAddress, ...]:
        """An address of each range for a pod: what is ``wanted`` of its family, else the next one.

        Raises AddressesExhausted, naming what is missing, AddressRefused or AddressTaken.
        """
        wanted = wanted or {}
        for version, asked in wanted.items():
            if version not in self._pools:
                raise AddressRefused(
                    f"{asked.origin}: address {asked.address or listed(asked.within)}: "
                    f"this cluster has no range of IPv{version}"
                )
        if self._suspended:
            raise AddressesExhausted(self._suspended)
        taken: list[IPAddress] = []
        try:
            for version, pool in self._pools.items():
                taken.append(self._take_wanted(pool, wanted[version]) if version in wanted else self._take(pool))
        except BaseException:
            self.release(taken)
            raise
        return tuple(taken)

    def hold(self, address: IPAddress) -> bool:
        """Mark an address as held that was found in use; False where it is not this node's, or held already."""
        pool = self._pools.get(address.version)
        with self._lock:
            try:
                if pool is None:
                    return False
                pool.hold(address)
            except (KeyError, AddressInUse):
                return False
        return True

    def release(self, addresses: Iterable[IPAddress]) -> None:
        """The addresses are free: nothing in the kernel has them any more."""
        with self._lock:
            for address in addresses:
                if pool := self._pools.get(address.version):
                    pool.release(address)

    def counts(self) -> list[Count]:
        """What is in use and what is free, per range."""
        with self._lock:
            return [
                Count(pool.pods, tuple(pool.blocks), pool.in_use, pool.free, len(pool.empty_blocks))
                for pool in self._pools.values()
            ]

    def blocks(self) -> dict[IPNetwork, int]:
        """This node's blocks, and the revision at which each was claimed, 0 where that is not known."""
        with self._lock:
            return {
                block: self._claimed_at.get(block, 0) for pool in self._pools.values() for block in pool.blocks
            }

    def note_claim(self, block: IPNetwork, revision: int) -> None:
        """The store says that the block is this node's as of the revision: take it in where it is new."""
        pool = self._pools.get(block.version)
        if pool is None or not pool.pods.holds(block):
            return
        self._journal.add_block(block)
        with self._lock:
            self._claimed_at[block] = revision
            pool.add_block(block, self._journal.released())

    def suspend(self, reason: str) -> None:
        """Give out nothing for this reason; an empty one ends that."""
        self._suspended = reason

    def care(self, stopping: threading.Event, check: Callable[[], None]) -> None:
        """Keep one empty block ahead and give back what is beyond it, until told to stop.

        ``check`` is called first, each time: whether what this node holds is still its own.
        """
        while not stopping.is_set():
            try:
                check()
                self.keep_one_spare()
            except (StoreError, ClusterError, shares.RangeExhausted) as error:
                _log.warning("no spare block: %s", error)
            self._wake.wait(CARE_INTERVAL)
            self._wake.clear()

    def wake(self) -> None:
        """Let ``care`` look at once."""
        self._wake.set()

    def keep_one_spare(self) -> None:
        """Claim a spare block per range where there is none; give back what was too much for a while."""
        if self._suspended:
            return
        for version, pool in self._pools.items():
            with self._lock:
                empty = pool.empty_blocks
            if not empty:
                with self._claiming.held(), self._claiming.asking():
                    self._add_block(pool)
            if len(empty) < 2:
                self._surplus_since.pop(version, None)
            elif version not in self._surplus_since:
                self._surplus_since[version] = time.monotonic()
            elif time.monotonic() - self._surplus_since[version] > SURPLUS_SECONDS:
                for block in empty[1:]:
                    self._give_back(pool, block)
                self._surplus_since.pop(version)

    def _take(self, pool: Pool, within: Sequence[IPNetwork] = ()) -> IPAddress:
        with self._lock:
            missing = ""
            try:
                address = pool.take(within)
            except PoolExhausted as error:
                missing = str(error)
            spare = bool(pool.empty_blocks)
        if missing:
            return self._take_of_further_block(pool, within, missing)
        if not spare:
            self._wake.set()
        return address

    def _take_of_further_block(self, pool: Pool, within: Sequence[IPNetwork], missing: str) -> IPAddress:
        try:
            with self._claiming.held():
                with self._lock:
                    try:
                        return pool.take(within)
                    except PoolExhausted as error:
                        missing = str(error)
                with self._claiming.asking():
                    self._add_block(pool, within)
                with self._lock:
                    return pool.take(within)
        except (StoreError, PoolExhausted, shares.RangeExhausted) as error:
            raise AddressesExhausted(f"{missing}, and no further block can be had: {error}") from error

    def _take_wanted(self, pool: Pool, asked: Wanted) -> IPAddress:
        try:
            if asked.address is None:
                return self._take(pool, asked.within)
            return self._take_named(pool, asked.address)
        except (AddressesExhausted, AddressRefused, AddressTaken) as error:
            raise type(error)(f"{asked.origin}: {error}") from error

    def _take_named(self, pool: Pool, address: IPAddress) -> IPAddress:
        if address not in pool.pods.network:
            raise AddressRefused(f"address {address} is not in the range {pool.pods}")
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
            if address in self._gateways.values():
                raise AddressRefused(f"address {address} is this node's bridge's") from None
            raise AddressTaken(f"address {address} is taken: it belongs to {self._holder(address)}") from None
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
            raise AddressTaken(
                f"address {address} is in {taken}, not of this node: ask for one of {listed(pool.blocks)}, "
                f"or run the pod on {taken.owner}"
            ) from None
        except (StoreError, ClusterError) as error:
            raise AddressesExhausted(f"address {address} is in no block of this node: {error}") from error

    def _holder(self, address: IPAddress) -> str:
        for attachment in self._journal.attachments():
            if address in attachment.addresses:
                return attachment.holder
        return "another pod"

    def _has_room(self, pods: PodRange, own: Sequence[IPNetwork]) -> bool:
        """Whether the bridge can have an address: not where pods have all that is left of this node's blocks."""
        held = {address for attachment in self._journal.attachments() for address in attachment.addresses}
        return any(pods.usable(address) and address not in held for block in own for address in block)

    def _remembered(self, ranges: Sequence[PodRange]) -> dict[IPNetwork, bool]:
        """Blocks that this node had by its journal, and whether somebody is in each."""
        remembered = {
            block: False for block in self._journal.blocks() if any(pods.holds(block) for pods in ranges)
        }
        held = [address for attachment in self._journal.attachments() for address in attachment.addresses]
        for pods in ranges:
            remembered |= {pods.block_at(address): True for address in held if address in pods.network}
        return remembered

    def _affirmed(self, claimed_at: dict[IPNetwork, int]) -> dict[IPNetwork, int]:
        """The claims that could be changed, or made anew: they stay, whatever others are about to do."""
        affirmed = {}
        for block, seen_at in claimed_at.items():
            revision = self._cluster.affirm(block, self._node, seen_at) or self._cluster.claim(block, self._node)
            if revision is not None:
                affirmed[block] = revision
            else:
                _log.warning("block %s was given back for this node and is another's now", block)
                self._journal.drop_block(block)
        return affirmed

    def _fill(
        self,
        ranges: Sequence[PodRange],
        own: Sequence[IPNetwork],
        record: NodeRecord | None,
        owners: Mapping[IPNetwork, str],
    ) -> None:
        """Make the pools, and hold in them what the journal says."""
        released = self._journal.released()
        pools = {}
        for pods in ranges:
            pool = pools[pods.version] = Pool(pods)
            for block in own:
                if pods.holds(block):
                    pool.add_block(block, released)
        displaced: dict[int, str] = {}
        for attachment in self._journal.attachments():
            for address in attachment.addresses:
                own_pool = pools.get(address.version)
                if own_pool is None or address not in own_pool.pods.network:
                    _log.error("%s of %s is in no range of the cluster", address, attachment.container_id)
                    continue
                try:
                    own_pool.hold(address)
                except (KeyError, AddressInUse):
                    owner = owners.get(own_pool.pods.block_at(address), "nobody")
                    displaced[attachment.id] = f"{address} is in a block of {owner} now"
        for pool in pools.values():
            self._gateways[pool.pods.version] = self._choose_gateway(pool, record)
        self._pools, self._displaced = pools, displaced

    def _choose_gateway(self, pool: Pool, record: NodeRecord | None) -> IPAddress:
        """The bridge's address: the one it had, else the first of the node's first block that no pod has."""
        fact = "gateway" if pool.pods.version == 4 else "gateway6"
        known = self._journal.fact(fact)
        told = None if record is None else record.gateway if pool.pods.version == 4 else record.gateway6
        candidates: list[IPAddress] = [ip_interface(known).ip] if known else [told] if told else []
        for block in pool.blocks:
            candidates += [address for address in block if pool.pods.usable(address)]
        for address in candidates:
            try:
                pool.hold(address)
            except (KeyError, AddressInUse):
                continue
            self._journal.set_fact(fact, str(address))
            return address
        raise PoolExhausted(f"no address of {pool.pods} is left for this node's bridge")

    def _add_block(self, pool: Pool, within: Sequence[IPNetwork] = ()) -> None:
        with self._lock:
            own = pool.blocks
        block, revision = self._claim(pool.pods, own, self._live.claimed(), within)
        self.note_claim(block, revision)

    def _claim(
        self, pods: PodRange, own: Sequence[IPNetwork], claimed: ClaimedBlocks, within: Sequence[IPNetwork] = ()
    ) -> tuple[IPNetwork, int]:
        used = (pods.block_at(address) for address in self._used_elsewhere() if address in pods.network)
        for block in (*used, *own):
            claimed.add(block)
        return claim_block(self._cluster, pods, self._node, self._init, claimed, own, within)

    def _give_back(self, pool: Pool, block: IPNetwork) -> None:
        # Nobody claims meanwhile: it might be this block, for an address that a pod asks for.
        with self._claiming.held():
            with self._lock:
                try:
                    pool.remove_block(block)
                except AddressInUse:
                    return
                self._claimed_at.pop(block, None)
            # From here a crash leaves the block with us in the store: the next start takes it up again.
            self._journal.drop_block(block)
            self._cluster.give_back(block, self._node)
        _log.info("block %s given back", block)
