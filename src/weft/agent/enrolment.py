"""This node's place in the cluster: signed in, its blocks its own; and what to do where that is so no longer."""

import logging
import time
from collections.abc import Callable, Collection, Sequence
from ipaddress import IPv4Address, IPv6Address

from weft.agent.addresses import Addresses
from weft.agent.cluster import Cluster
from weft.agent.journal import Journal
from weft.agent.live_view import LiveView
from weft.agent.range_record import decoded_fact, encoded
from weft.agent.records import ClusterError, NodeRecord
from weft.agent.taking_up import addresses_of_pods
from weft.ipam.agreement import Agreement, Disagreement, settled, with_ranges
from weft.ipam.ownership import turn
from weft.ipam.ranges import IPNetwork, PodRange
from weft.store import StoreError, StoreUnavailable
from weft.troubles import Concern, Troubles

_log = logging.getLogger(__name__)

#: The journal's fact that this node is new to the cluster, or was removed, and has not taken up its blocks yet.
_ENTERING = "entering"
#: The journal's fact of the ranges that were agreed on last.
_RANGES = "ranges"
#: The journal's fact of the ranges that this node was told when it told the cluster of them.
_TOLD = "told ranges"
#: Seconds between two nodes' turns at taking up other ranges.
TURN = 0.01
#: A node's record, given its bridge's addresses.
MakeRecord = Callable[[IPv4Address | None, IPv6Address | None], NodeRecord]


def about_store(troubles: Troubles) -> Concern:
    """Whether the store answers this node."""
    return troubles.about("the store is away", "the store is back")


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
        refusal: Callable[[Sequence[PodRange]], str] = lambda ranges: "",
        troubles: Troubles | None = None,
    ) -> None:
        """``refusal`` tells why this node cannot have such ranges; empty where it can."""
        self._away = about_store(troubles or Troubles())
        self._refusal = refusal
        self._cluster = cluster
        self._journal = journal
        self._addresses = addresses
        self._live = live
        self._name = name
        self._record = record
        self._registered_at = 0
        #: What this node was told, and what is in force on it; whether the cluster has yet to hear of the former.
        self._told: tuple[Sequence[PodRange], Collection[IPNetwork]] = ((), ())
        self._in_force = Agreement(())
        self._unheard = False
        #: The ranges that are to be taken up, and since when (monotonic seconds) they are.
        self._changing: tuple[Agreement | None, float] = (None, 0.0)
        #: Why this agent must start anew; empty while it need not.
        self.outdated = ""

    def enter(
        self,
        ranges: Sequence[PodRange],
        *,
        sized: Collection[IPNetwork] = (),
        needed: Sequence[IPNetwork] = (),
    ) -> bool:
        """Sign in, take up or claim blocks, the ``needed`` ones first, tell the peers.

        ``sized`` are the ranges whose block size was asked for. False where the store is away and this node goes
        on with what it knew.

        Raises ClusterError, BlockLost, RangeExhausted, and StoreError where it knows too little to go on.
        """
        self._told = ranges, sized
        try:
            agreed = self._agree()
            is_new = self._sign_in()
            self._claim_needed(needed)
            view = self._cluster.view()
            self._addresses.join(agreed.ranges, view, affirm=is_new)
            self._journal.set_fact(_RANGES, encoded(agreed).decode())
            self._register()
            self._journal.set_fact(_ENTERING, "")
        except StoreUnavailable as error:
            known = self._known_ranges()
            # One that has learned of its removal must not go on with blocks that may be others' by now.
            if self._is_entering() or known is None or not self._addresses.resume(known.ranges):
                raise
            self._live.read()
            self._in_force, self._unheard = known, True
            known_before = "going on with the blocks and peers known before"
            self._away.note(str(error), known_before, refused=error.refused)
            return False
        self._away.over(proven=True)
        self._in_force, self._unheard = agreed, False
        self._live.replace(view)
        self._live.keep(at_once=True)
        return True

    def _agree(self) -> Agreement:
        """What is in force once the cluster knows what this node was told. Raises ClusterError, StoreError."""
        told = encoded(Agreement(tuple(self._told[0]))).decode()
        # What was told once is not told again: an operator's word counts more than settings that are older.
        adding = self._journal.fact(_TOLD) != told
        agreed = self._cluster.agree_on_ranges(*self._told, adding=adding)
        if adding:
            self._journal.set_fact(_TOLD, told)
        known = self._journaled()
        held = addresses_of_pods(self._journal)
        lost = [
            pods for pods in (known.ranges if known else ())
            if pods.network not in agreed.networks and any(address in pods.network for address in held)
        ]  # fmt: skip
        if lost:
            # It was removed although pods are in it: a block was claimed meanwhile, or the store was set back.
            agreed = self._cluster.change_ranges(
                lambda now: with_ranges(now, [pods for pods in lost if pods.network not in now.networks])
            )
            _log.warning("range %s is back: pods of this node are in it", ", ".join(map(str, lost)))
        if why := self._refusal(agreed.ranges):
            raise ClusterError(why)
        return agreed

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
        self._check_ranges()
        revision, own = self._live.revision, set(self._live.blocks_of(self._name))
        missing = not self._live.has_record(self._name) and self._registered_at <= revision
        if missing or self._live.is_illegible(self._name):
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
        if known and told is None:
            # Peers go on with what they knew until all is told again.
            _log.warning("this node's record in the store cannot be read; it is written anew")
            return self._is_entering()
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
        known = self._cluster.record_of(self._name)
        try:
            self._register()
        except (StoreError, ClusterError) as error:
            reason = f"this node was removed from the cluster and cannot sign in again: {error}"
            self._addresses.suspend(reason)
            raise StoreError(reason) from error
        if known is None:
            _log.warning("this node's record was taken out of the store while it runs; it has signed in again")
        elif known[0] is None:
            _log.warning("this node's record in the store could not be read; it is written anew")
        self._addresses.suspend("")

    def _register(self) -> None:
        bridge6 = self._addresses.gateway6
        record = self._record(self._addresses.gateway.ip, bridge6.ip if bridge6 else None)
        self._registered_at = self._cluster.register(self._name, record)

    def _check_ranges(self) -> None:
        """Have this node start anew where the cluster's ranges are not those in force here: not all nodes at once.

        Raises StoreError, and ClusterError where the cluster has others than this node was told.
        """
        agreed = self._live.agreed
        if self._unheard:
            agreed = self._agree()
            self._unheard = False
        elif agreed is None:
            agreed = self._cluster.agree_on_ranges(self._in_force.ranges)
        if agreed.ranges == self._in_force.ranges:
            self.outdated = self.outdated or self._addresses.obsolete
            return
        now = time.monotonic()
        if self._changing[0] != agreed:
            self._changing = agreed, now
            if why := self._refusal(agreed.ranges):
                _log.error("this node goes on with range %s: %s", self._in_force, why)
        if self._refusal(agreed.ranges):
            return
        # The first ones at once: it is the listing of a large cluster that must not be asked for by all.
        if now - self._changing[1] >= TURN * turn(self._name, str(agreed), self._live.nodes()) - 1:
            self.outdated = f"the cluster's range is {agreed} now"

    def _journaled(self) -> Agreement | None:
        return decoded_fact(self._journal.fact(_RANGES) or "")

    def _known_ranges(self) -> Agreement | None:
        """The ranges that were agreed on, less what this node is told to exclude; None where it is told others."""
        known = self._journaled()
        if known is None:
            return None
        try:
            agreed = settled(known, *self._told)
        except Disagreement:
            return None
        return Agreement(tuple(pods for pods in agreed.ranges if pods.network in known.networks), known.removed)
