"""This node's place in the cluster: signed in, its blocks its own; and what to do where that is so no longer."""

import logging
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address

from weft.agent.addresses import Addresses
from weft.agent.cluster import Cluster, ClusterError, NodeRecord
from weft.agent.journal import Journal
from weft.agent.live_view import LiveView
from weft.ipam.ranges import IPNetwork, PodRange
from weft.store import StoreError, StoreUnavailable

_log = logging.getLogger(__name__)

#: The journal's fact that this node is new to the cluster, or was removed, and has not taken up its blocks yet.
_ENTERING = "entering"
#: A node's record, given its bridge's addresses.
MakeRecord = Callable[[IPv4Address | None, IPv6Address | None], NodeRecord]


class BlockLost(ClusterError):
    """A block that this node must have is another node's."""


class Enrolment:
    """Brings a node into the cluster and keeps it there."""

    def __init__(
        self,
        cluster: Cluster,
        journal: Journal,
        addresses: Addresses,
        live: LiveView,
        name: str,
        record: MakeRecord,
    ) -> None:
        self._cluster = cluster
        self._journal = journal
        self._addresses = addresses
        self._live = live
        self._name = name
        self._record = record
        self._registered_at = 0
        #: Why this agent must start anew; empty while it need not.
        self.outdated = ""

    def enter(
        self, ranges: Sequence[PodRange], *, with_block_size: bool, needed: Sequence[IPNetwork] = ()
    ) -> bool:
        """Sign in, take up or claim blocks, the ``needed`` ones first, tell the peers.

        False where the store is away and this node goes on with what it knew.

        Raises ClusterError, BlockLost, RangeExhausted, and StoreError where it knows too little to go on.
        """
        try:
            agreed = self._cluster.agree_on_ranges(ranges, with_block_size=with_block_size)
            is_new = self._sign_in()
            self._claim_needed(needed)
            view = self._cluster.view()
            self._addresses.join(agreed, view, affirm=is_new)
            self._journal.set_fact("ranges", _written(agreed))
            self._register()
            self._journal.set_fact(_ENTERING, "")
        except StoreUnavailable as error:
            known = self._known_ranges(ranges)
            # One that has learned of its removal must not go on with blocks that may be others' by now.
            if self._is_entering() or known is None or not self._addresses.resume(known):
                raise
            self._live.read()
            _log.warning("the store is away (%s); going on with the blocks and peers known before", error)
            return False
        self._live.replace(view)
        self._live.keep(at_once=True)
        return True

    def _claim_needed(self, needed: Sequence[IPNetwork]) -> None:
        for block in needed:
            if self._cluster.claim(block, self._name) is None:
                found = self._cluster.owner(block)
                if found is None or found[0] != self._name:
                    raise BlockLost(f"block {block} belongs to {found[0] if found else 'another node'} now")

    def check(self) -> None:
        """Whether what this node holds is still its own, as far as the view tells; claims what nobody owns.

        Sets ``outdated`` where another node owns a block of this one. Raises StoreError.
        """
        if not self._live.heard:
            return
        revision, own = self._live.revision, set(self._live.blocks_of(self._name))
        if not self._live.has_record(self._name) and self._registered_at <= revision:
            self._sign_in_again()
        blocks = self._addresses.blocks()
        for block, claimed_at in blocks.items():
            if block in own or claimed_at > revision:
                continue
            found = self._cluster.owner(block)
            if found is None and (at := self._cluster.claim(block, self._name)) is not None:
                _log.warning("block %s had no owner any more and is claimed again", block)
                found = self._name, at
            if found is not None and found[0] == self._name:
                self._addresses.note_claim(block, found[1])
            else:
                self.outdated = f"block {block} belongs to {found[0] if found else 'another node'} now"
                self._addresses.suspend(f"this node was removed from the cluster: {self.outdated}")
        # A claim whose answer was lost, or a block whose return was.
        for block in own - blocks.keys():
            found = self._cluster.owner(block)
            if found is not None and found[0] == self._name:
                self._addresses.note_claim(block, found[1])

    def _sign_in(self) -> bool:
        """Write this node's record before any claim; whether it is new to the cluster. A gateway comes later.

        New it stays until it has taken up its blocks, however often it has to begin: that is journaled.
        """
        known = self._cluster.record_of(self._name)
        if known is None:
            self._journal.set_fact(_ENTERING, "yes")
        told = known[0] if known else None
        record = self._record(told.gateway, told.gateway6) if told else self._record(None, None)
        self._cluster.register(self._name, record)
        return self._is_entering()

    def _is_entering(self) -> bool:
        return bool(self._journal.fact(_ENTERING))

    def is_outdated(self) -> bool:
        """Whether the store has forgotten what it knew of this node: it was set back, and must be listed anew."""
        known = self._cluster.record_of(self._name)
        return known is None or known[1] < self._registered_at

    def wake(self) -> None:
        """Let ``check`` be called soon."""
        self._addresses.wake()

    def _sign_in_again(self) -> None:
        if self._cluster.record_of(self._name) is None:
            _log.warning("this node was removed from the cluster while it runs; it signs in again")
        try:
            self._register()
        except (StoreError, ClusterError) as error:
            self._addresses.suspend(f"this node was removed from the cluster and cannot sign in again: {error}")
            raise StoreError(str(error)) from error
        self._addresses.suspend("")

    def _register(self) -> None:
        bridge6 = self._addresses.gateway6
        record = self._record(self._addresses.gateway.ip, bridge6.ip if bridge6 else None)
        self._registered_at = self._cluster.register(self._name, record)

    def _known_ranges(self, ranges: Sequence[PodRange]) -> tuple[PodRange, ...] | None:
        """The ranges with the block sizes that were agreed on; None where other ranges were."""
        written = self._journal.fact("ranges")
        prefixes = dict(part.split(" ") for part in written.split(",")) if written else {}
        if set(prefixes) != set(map(str, ranges)):
            return None
        return tuple(PodRange(pods.network, int(prefixes[str(pods)]), pods.excluded) for pods in ranges)


def _written(ranges: Sequence[PodRange]) -> str:
    return ",".join(f"{pods} {pods.block_prefix}" for pods in ranges)
