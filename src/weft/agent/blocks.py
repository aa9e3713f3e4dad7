"""The blocks that this node owns, of every range: claimed in the store, kept in the journal, given back.

Of each family there may be several ranges. A node draws on the first one as long as it has room, then on the next.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from ipaddress import IPv4Interface, IPv6Interface

from weft.agent.claims import claim_of_first
from weft.agent.cluster import Cluster
from weft.agent.gateways import Gateways
from weft.agent.journal import Attachment, Journal
from weft.agent.live_view import LiveView
from weft.agent.records import NodeRecord
from weft.agent.store_turn import StoreTurn
from weft.agent.taking_up import addresses_of_pods, taken_up
from weft.agent.view import View
from weft.ipam import shares
from weft.ipam.claimed import ClaimedBlocks
from weft.ipam.pool import AddressInUse, Pool
from weft.ipam.pools import Pools
from weft.ipam.ranges import IPAddress, IPNetwork, PodRange

_log = logging.getLogger(__name__)

#: Seconds that more than one empty block is kept, so that a pod that comes and goes moves no ownership.
SURPLUS_SECONDS = 60.0


class Blocks:
    """This node's blocks, one empty one per family ahead of the pods. Safe for several threads."""

    def __init__(
        self, cluster: Cluster, journal: Journal, live: LiveView, node: str, init: shares.Init,
        used_elsewhere: Callable[[], Collection[IPAddress]] = tuple,
        on_bridge: Collection[IPAddress] = (),
        serve: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """``on_bridge`` are addresses that the bridge was found with; ``serve`` gives it those that it is to have,
        and is called before an address of a range is handed out, and before a block goes whose address it had."""
        self._used_elsewhere = used_elsewhere  # their blocks are not claimed; may raise StoreError
        self._on_bridge = on_bridge
        self._serve = serve
        self._cluster = cluster
        self._journal = journal
        self._live = live
        self._node = node
        self._init = init
        self._lock = threading.Lock()
        self._claiming = StoreTurn()
        self._pools = Pools()
        self._gateways = Gateways(journal)
        self._claimed_at: dict[IPNetwork, int] = {}
        self._unneeded_since: dict[object, float] = {}
        self._displaced: dict[int, str] = {}
        self._wake = threading.Event()
        self._suspended = ""

    def join(self, ranges: Sequence[PodRange], view: View, *, affirm: bool) -> None:
        """Take up this node's blocks as the cluster has them (``taking_up``), claiming what it needs beyond.

        Pods whose block is another node's are displaced. Raises ClusterError, StoreError, or RangeExhausted where
        no block is left for this node.
        """
        claimed_at = taken_up(self._cluster, self._journal, self._node, ranges, view, affirm=affirm)
        held = addresses_of_pods(self._journal)
        for version in sorted({pods.version for pods in ranges}):
            family = [pods for pods in ranges if pods.version == version]
            # Where pods have all that is left of this node's blocks, the bridge needs one more.
            crowded = [
                pods for pods in family
                if any(address in pods.network for address in held) and not _has_room(pods, claimed_at, held)
            ]  # fmt: skip
            for pods in crowded:
                claimed_at |= [self._claim([pods], claimed_at, view.claimed.copy())]
            still_open = [pods for pods in family if not pods.closed]
            if still_open and not any(_has_room(pods, claimed_at, held) for pods in still_open):
                try:
                    claimed_at |= [self._claim(family, claimed_at, view.claimed.copy())]
                except shares.RangeExhausted as error:
                    # Pods that are in a range which is excluded meanwhile are to be served all the same.
                    if not any(_has_room(pods, claimed_at, held) for pods in family):
                        raise
                    _log.warning("no block of a range that is not excluded: %s", error)
        own = [block for block in claimed_at if any(pods.holds(block) for pods in ranges)]
        for block in own:
            self._journal.add_block(block)
        self._fill(ranges, own, view.nodes.get(self._node), view.owners)
        self._claimed_at = claimed_at

    def resume(self, ranges: Sequence[PodRange]) -> bool:
        """Take up this node's blocks as the journal has them, while the store is away; False where it has none."""
        own = [block for block in self._journal.blocks() if any(pods.holds(block) for pods in ranges)]
        versions = {pods.version for pods in ranges if not pods.closed}
        if not versions <= {block.version for block in own}:
            return False
        self._fill(ranges, own, None, {})
        self._claimed_at = dict.fromkeys(own, 0)
        return True

    @property
    def gateway(self) -> IPv4Interface:
        """The bridge's address that peers know, with its range's prefix."""
        main = self._gateways.main(4)
        if not isinstance(main, IPv4Interface):
            raise RuntimeError("the node has not taken up its blocks yet")
        return main

    @property
    def gateway6(self) -> IPv6Interface | None:
        """The bridge's IPv6 address, where there is a range."""
        main = self._gateways.main(6)
        return main if isinstance(main, IPv6Interface) else None

    @property
    def gateways(self) -> tuple[IPv4Interface | IPv6Interface, ...]:
        """All addresses that the bridge is to have, one of each range that it serves; first what peers know."""
        with self._lock:
            return self._gateways.interfaces()

    @property
    def ranges(self) -> tuple[PodRange, ...]:
        """The cluster's ranges; pods get an address of one of each family."""
        return tuple(pool.pods for pool in self._pools)

    @property
    def obsolete(self) -> str:
        """Why the bridge's address that peers know is of no use any more; empty where it is."""
        with self._lock:
            for pool in self._pools:
                family = self._pools.family(pool.pods.version)
                another = any(other.blocks and not other.pods.closed for other in family)
                idle = self._gateways.is_main(pool) and not self._gateways.serves_pods(pool)
                if pool.pods.closed and idle and (another or not self._pools.is_open(pool.pods.version)):
                    return f"range {pool.pods} is excluded and no pod here is in it any more"
        return ""

    def displaced(self, attachment: Attachment) -> str:
        """Why a pod of the journal cannot keep its address; empty where it can."""
        return self._displaced.get(attachment.id, "")

    def blocks(self) -> dict[IPNetwork, int]:
        """This node's blocks, and the revision at which each was claimed, 0 where that is not known."""
        with self._lock:
            return {block: self._claimed_at.get(block, 0) for pool in self._pools for block in pool.blocks}

    def note_claim(self, block: IPNetwork, revision: int) -> None:
        """The store says that the block is this node's as of the revision: take it in where it is new."""
        pool = self._pools.at(block.network_address)
        if pool is None or not pool.pods.holds(block):
            return
        self._journal.add_block(block)
        with self._lock:
            self._claimed_at[block] = revision
            pool.add_block(block, self._journal.released())

    def keep_one_spare(self) -> None:
        """Claim a spare block per family where there is none; give back what was too much for a while.

        Raises StoreError, and RangeExhausted when all families were looked at.
        """
        if self._suspended:
            return
        exhausted = []
        for version in self._pools.versions:
            try:
                self._keep_one_spare(version)
            except shares.RangeExhausted as error:
                exhausted.append(str(error))
        if exhausted:
            raise shares.RangeExhausted("; ".join(exhausted))

    def _keep_one_spare(self, version: int) -> None:
        family = self._pools.family(version)
        for pool in family:
            self._let_go_of_gateway(pool)
        with self._lock:
            empty = [(pool, block) for pool in family for block in pool.empty_blocks]
            unused = [(pool, block) for pool in family for block in pool.unused_blocks]
        for pool, block in unused:
            if (pool, block) not in empty:  # nothing of it may be given out
                self._give_back(pool, block)
        if self._unneeded(version, len(empty) > 1):
            for pool, block in empty[1:]:
                self._give_back(pool, block)
        if not empty and self._pools.is_open(version):
            with self._claiming.held(), self._claiming.asking():
                self._add_block(version)

    def _let_go_of_gateway(self, pool: Pool) -> None:
        """Where no pod was in a range for a while, the bridge needs no address of it, unless peers know that."""
        with self._lock:
            served = self._gateways.of(pool) is not None
            idle = served and not self._gateways.is_main(pool) and not self._gateways.serves_pods(pool)
            if not (idle and pool.pods.closed) and not self._unneeded(pool, idle):
                return
            self._gateways.drop(pool)
        _log.info("no pod is in range %s any more: the bridge gives its address up", pool.pods)
        self._serve()

    def _unneeded(self, what: object, now: bool) -> bool:
        """Whether something is unneeded now and was so for a while."""
        if not now:
            self._unneeded_since.pop(what, None)
            return False
        since = self._unneeded_since.setdefault(what, time.monotonic())
        if time.monotonic() - since <= SURPLUS_SECONDS:
            return False
        del self._unneeded_since[what]
        return True

    def _add_block(self, version: int, within: Sequence[IPNetwork] = ()) -> None:
        """Make one more block this node's. Raises RangeExhausted, StoreError."""
        with self._lock:
            family = [pool.pods for pool in self._pools.family(version)]
            own = [block for pool in self._pools.family(version) for block in pool.blocks]
        block, revision = self._claim(family, own, self._live.claimed(), within)
        self.note_claim(block, revision)

    def _claim(
        self,
        family: Sequence[PodRange],
        own: Collection[IPNetwork],
        claimed: ClaimedBlocks,
        within: Sequence[IPNetwork] = (),
    ) -> tuple[IPNetwork, int]:
        """A further block, of the first range that has one left."""
        used = self._used_elsewhere()
        used_blocks = (pods.block_at(address) for pods in family for address in used if address in pods.network)
        for block in (*used_blocks, *own):
            claimed.add(block)
        return claim_of_first(self._cluster, family, self._node, self._init, claimed, own, within)

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

    def _fill(
        self,
        ranges: Sequence[PodRange],
        own: Sequence[IPNetwork],
        record: NodeRecord | None,
        owners: Mapping[IPNetwork, str],
    ) -> None:
        """Make the pools, and hold in them what the journal says."""
        released = self._journal.released()
        self._pools = Pools(ranges)
        for block in own:
            if pool := self._pools.at(block.network_address):
                pool.add_block(block, released)
        found = {item.id: self._hold_all(item, owners) for item in self._journal.attachments()}
        self._displaced = {number: why for number, why in found.items() if why}
        told = [address for address in (record.gateway, record.gateway6) if address] if record else []
        self._gateways.restore([*self._pools], [*told, *self._on_bridge])

    def _hold_all(self, attachment: Attachment, owners: Mapping[IPNetwork, str]) -> str:
        """Hold a pod's addresses: all of them, or none and the reason."""
        held: list[tuple[Pool, IPAddress]] = []
        for address in attachment.addresses:
            if (pool := self._pools.at(address)) is None:
                _log.error("%s of %s is in no range of the cluster", address, attachment.container_id)
                continue
            try:
                pool.hold(address)
            except (KeyError, AddressInUse):
                for other, of_it in held:
                    other.release(of_it)
                return f"{address} is in a block of {owners.get(pool.pods.block_at(address), 'nobody')} now"
            held.append((pool, address))
        return ""


def _has_room(pods: PodRange, own: Iterable[IPNetwork], held: Collection[IPAddress]) -> bool:
    """Whether the bridge can have an address: not where pods have all that is left of this node's blocks."""
    ends = (pods.network.network_address, pods.network.broadcast_address)
    return any(
        address not in held and (pods.usable(address) or (pods.closed and address not in ends))
        for block in own
        if pods.holds(block)
        for address in block
    )
