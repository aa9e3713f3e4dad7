"""The addresses of this node: its blocks, claimed in the store, and who holds what, in the journal."""

import logging
import threading
import time
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from weft.agent.cluster import Cluster
from weft.agent.journal import Journal
from weft.ipam import shares
from weft.ipam.pool import AddressInUse, Pool, PoolExhausted
from weft.ipam.ranges import block_at
from weft.store import StoreError

_log = logging.getLogger(__name__)

#: Seconds that more than one empty block is kept, so that a pod that comes and goes moves no ownership.
SURPLUS_SECONDS = 60.0
#: Seconds between two looks at the blocks where nothing calls for one.
CARE_INTERVAL = 10.0


class AddressesExhausted(Exception):
    """The node has no free address and cannot get another block now."""


class Addresses:
    """Takes addresses for pods and keeps one empty block ahead of them. Safe for several threads."""

    def __init__(
        self, cluster: Cluster, journal: Journal, universe: IPv4Network, node: str, init: shares.Init
    ) -> None:
        self._cluster = cluster
        self._journal = journal
        self._universe = universe
        self._node = node
        self._init = init
        self._lock = threading.Lock()
        self._pool = Pool(universe)
        self._wake = threading.Event()
        self._surplus_since: float | None = None

    def start(self) -> IPv4Interface:
        """Take up this node's blocks, claiming the first where there is none; the bridge's address.

        Raises ClusterError, StoreError, or RangeExhausted where no block is left for this node.
        """
        own = self._cluster.view().blocks_of(self._node) or [self._claim([])]
        released = self._journal.released()
        for block in own:
            self._pool.add_block(block, released)
        gateway = self._gateway(own)
        self._pool.hold(gateway)
        self._journal.set_fact("gateway", str(gateway))
        for attachment in self._journal.attachments():
            if attachment.address is None:
                continue
            try:
                self._pool.hold(attachment.address)
            except (KeyError, AddressInUse):
                _log.error(
                    "%s of %s is outside of this node's blocks", attachment.address, attachment.container_id
                )
        return IPv4Interface((gateway, self._universe.prefixlen))

    def take(self) -> IPv4Address:
        """An address for a pod. Raises AddressesExhausted, naming what is missing."""
        try:
            with self._lock:
                address = self._pool.take()
                spare = bool(self._pool.empty_blocks)
        except PoolExhausted as exhausted:
            try:
                self._add_block()
                with self._lock:
                    return self._pool.take()
            except (StoreError, PoolExhausted, shares.RangeExhausted) as error:
                raise AddressesExhausted(f"{exhausted}, and no further block can be had: {error}") from error
        if not spare:
            self._wake.set()
        return address

    def hold(self, address: IPv4Address) -> bool:
        """Mark an address as held that was found in use; False where it is not this node's, or held already."""
        with self._lock:
            try:
                self._pool.hold(address)
            except (KeyError, AddressInUse):
                return False
        return True

    def release(self, address: IPv4Address) -> None:
        """The address is free: nothing in the kernel has it any more."""
        with self._lock:
            self._pool.release(address)

    def counts(self) -> tuple[int, int]:
        """How many addresses are in use, the bridge's included, and how many free."""
        with self._lock:
            return self._pool.in_use, self._pool.free

    def blocks(self) -> list[IPv4Network]:
        """This node's blocks in the order in which they came."""
        with self._lock:
            return self._pool.blocks

    def care(self, stopping: threading.Event) -> None:
        """Keep one empty block ahead and give back what is beyond it, until told to stop."""
        while not stopping.is_set():
            try:
                self._keep_one_spare()
            except (StoreError, shares.RangeExhausted) as error:
                _log.warning("no spare block: %s", error)
            self._wake.wait(CARE_INTERVAL)
            self._wake.clear()

    def wake(self) -> None:
        """Let ``care`` look at once."""
        self._wake.set()

    def _keep_one_spare(self) -> None:
        with self._lock:
            empty = self._pool.empty_blocks
        if not empty:
            self._add_block()
        if len(empty) < 2:
            self._surplus_since = None
        elif self._surplus_since is None:
            self._surplus_since = time.monotonic()
        elif time.monotonic() - self._surplus_since > SURPLUS_SECONDS:
            for block in empty[1:]:
                self._give_back(block)
            self._surplus_since = None

    def _add_block(self) -> None:
        block = self._claim(self.blocks())
        with self._lock:
            self._pool.add_block(block, self._journal.released())

    def _claim(self, own: list[IPv4Network]) -> IPv4Network:
        while True:
            claimed = self._cluster.view().owners
            block = (
                shares.further_block(self._universe, claimed, own)
                if own
                else shares.first_block(self._universe, claimed, self._init, self._node)
            )
            if self._cluster.claim(block, self._node):
                _log.info("block %s claimed", block)
                return block

    def _give_back(self, block: IPv4Network) -> None:
        with self._lock:
            try:
                self._pool.remove_block(block)
            except AddressInUse:
                return
        # From here a crash leaves the block with us in the store: the next start takes it up again.
        self._journal.forget_released(address for address in self._journal.released() if address in block)
        self._cluster.give_back(block, self._node)
        _log.info("block %s given back", block)

    def _gateway(self, own: list[IPv4Network]) -> IPv4Address:
        known = self._journal.fact("gateway")
        if known is None:
            record = self._cluster.view().nodes.get(self._node)
            known = str(record.gateway) if record else None
        if known is not None:
            gateway = IPv4Address(known)
            if gateway in self._universe and block_at(self._universe, gateway) in own:
                return gateway
        first = own[0].network_address
        return first + 1 if first == self._universe.network_address else first
