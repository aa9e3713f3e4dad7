"""The take-over in its order, written down first: whatever is killed goes on where it was at the next start.

planned   the journal has plan, gateway and the pods with their addresses; nothing else was touched
claimed   the blocks are this node's: from here on Weave's datapath is replaced, and what was its own taken away
done      nothing of Weave Net is left but what the plan keeps
"""

import logging
import socket
import threading
from collections.abc import Callable, Sequence
from enum import StrEnum
from ipaddress import ip_network

import msgspec

from weft.agent.attachments import ADOPTED
from weft.agent.cluster import Cluster
from weft.agent.journal import Journal, State
from weft.agent.settings import Settings
from weft.agent.takeover import carrying_out, looking
from weft.agent.takeover.foreign import ForeignAddresses
from weft.agent.takeover.planner import Plan, Refusal, Situation, plan
from weft.agent.view import View
from weft.fabric import weave
from weft.ipam.ranges import IPNetwork
from weft.kernel import announce
from weft.kernel.iptables import IptablesError
from weft.kernel.netlink import NetlinkError

_log = logging.getLogger(__name__)

_FACT = "takeover"
#: Seconds between two looks whether policies are in force, so that Weave's can go.
_INTERVAL = 0.5
#: Seconds before what failed is tried again.
_RETRY = 5.0


class Stage(StrEnum):
    """How far a take-over came."""

    PLANNED = "planned"
    CLAIMED = "claimed"
    DONE = "done"


class _Written(msgspec.Struct, frozen=True):
    stage: Stage
    plan: Plan


class TakeoverRefused(Exception):
    """This node cannot be taken over, and nothing was touched. The message has every reason and its mend."""

    def __init__(self, refusal: Refusal) -> None:
        lines = (f"\n  - {item.reason}\n    mend: {item.mend}" for item in refusal.reasons)
        super().__init__(
            f"node {refusal.node} cannot be taken over from Weave Net; nothing was touched:{''.join(lines)}"
        )
        self.refusal = refusal


def examine(
    settings: Settings, underlay_mtu: int, cluster: Cluster | None, foreign: ForeignAddresses
) -> Plan | Refusal | None:
    """What a take-over of this node would do; None where Weave Net is not here. Only reads.

    Without a ``cluster`` nobody owns anything yet. Raises ClusterError, StoreError, NetlinkError, OSError.
    """
    layout = looking.look()
    if not layout.found:
        return None
    agreed = cluster.ranges_in_force(settings.ranges, settings.sized) if cluster else None
    ranges = agreed.ranges if agreed else settings.ranges
    held = {interface.network for interface in layout.bridge_addresses}
    view = cluster.view() if cluster else View()
    known = [peer.name for peer in view.peers(settings.node_name)]
    situation = Situation(
        settings.node_name,
        next((pods for pods in ranges if pods.network in held), ranges[0]),
        view.owners,
        foreign.in_use(known),
        (weave.SMALLEST_MTU, underlay_mtu - weave.OVERHEAD),
    )
    return plan(layout, situation)


def is_fresh(journal: Journal) -> bool:
    """Whether no agent of ours ever served this node."""
    return not (journal.fact(_FACT) or journal.fact("gateway") or journal.blocks())


class Takeover:
    """The take-over that this node's journal knows of; most know of none, and all of this does nothing then."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        content = journal.fact(_FACT)
        self._written = _decode(content) if content else None

    @property
    def needed(self) -> tuple[IPNetwork, ...]:
        """The blocks that must be claimed, the gateway's first; none where they are."""
        if self._written is None or self._written.stage is not Stage.PLANNED:
            return ()
        return tuple(ip_network(block) for block in self._written.plan.blocks)

    @property
    def plan(self) -> Plan | None:
        """What was planned."""
        return self._written.plan if self._written else None

    @property
    def pending(self) -> bool:
        """Whether something is left to be done."""
        return self._written is not None and self._written.stage is not Stage.DONE

    @property
    def mtu(self) -> int | None:
        """The MTU in bytes that the pods had, where there were any."""
        return (self._written.plan.mtu or None) if self._written else None

    @property
    def bridge_address(self) -> str:
        """The bridge's MAC, which the pods know; empty where ours is as good."""
        return self._written.plan.bridge_address if self._written else ""

    def begin(self, made: Plan) -> None:
        """Write the plan down, then the pods' addresses."""
        self._write(Stage.PLANNED, made)

    def write_pods(self) -> None:
        """The gateway and the pods of a plan as the journal has others; again after a crash between two."""
        if self._written is None or self._written.stage is not Stage.PLANNED:
            return
        if self._written.plan.gateway is not None:
            self._journal.set_fact("gateway", str(self._written.plan.gateway))
        for pod in self._written.plan.pods:
            container_id = ADOPTED + pod.host_interface
            known = self._journal.find(container_id, "")
            if known is None:
                known = self._journal.reserve(container_id, "", weave.BRIDGE, pod.host_interface, pod.address)
            if known.state is not State.ATTACHED:
                self._journal.set_state(known, State.ATTACHED)

    def abandon(self) -> None:
        """A block went to another node meanwhile: the plan is void, and the next start makes another."""
        if self._written is not None and self._written.stage is Stage.PLANNED:
            self._journal.forget(self._journal.attachments())
            self._journal.set_fact("gateway", "")
            self._journal.set_fact(_FACT, "")

    def note_claimed(self) -> None:
        """The blocks are this node's."""
        if self._written is not None and self._written.stage is Stage.PLANNED:
            self._write(Stage.CLAIMED, self._written.plan)
            _log.info("taken over from Weave Net: %d pods", len(self._written.plan.pods))

    def cut_old_way(self) -> None:
        """Make room for our tunnel. Raises NetlinkError."""
        if self.pending:
            carrying_out.cut_old_way()

    def announce(self, packets: socket.socket, blocks: Sequence[IPNetwork]) -> None:
        """Tell this node's pods that the bridge leads to the addresses of these blocks, which other nodes own.

        Under Weave Net pods knew the MACs of pods elsewhere, and would go on for half a minute to send to those.
        """
        if self._written is None:
            return
        for block in blocks:
            for address in block if block.version == 4 else ():
                announce.gratuitous_arp(packets, weave.BRIDGE, self._written.plan.bridge_address, address)

    def finish(self, policies_in_force: Callable[[], bool], stopping: threading.Event) -> None:
        """Take away what was Weave's, as often as it takes, until told to stop.

        Its network policies stay in force until ours are.
        """
        while self.pending and not stopping.is_set():
            try:
                done = self.attempt_to_finish(policies_in_force)
            except (IptablesError, NetlinkError) as error:
                _log.warning("something of Weave Net's is left: %s; trying again", error)
                stopping.wait(_RETRY)
                continue
            if not done:
                stopping.wait(_INTERVAL)

    def attempt_to_finish(self, policies_in_force: Callable[[], bool]) -> bool:
        """``finish`` once; whether nothing is left. Raises IptablesError, NetlinkError."""
        if self._written is None or not self.pending:
            return True
        made = self._written.plan
        closed = policies_in_force()
        for rules in made.rules:
            if closed or rules.table != "filter":
                carrying_out.remove_rules(rules.table, legacy=rules.legacy)
        if not closed:
            return False
        carrying_out.remove_sets(made.sets)
        carrying_out.remove_devices(made.devices)
        self._write(Stage.DONE, made)
        _log.info("nothing of Weave Net is left but what is kept")
        return True

    def _write(self, stage: Stage, made: Plan) -> None:
        self._written = _Written(stage, made)
        self._journal.set_fact(_FACT, msgspec.json.encode(self._written, enc_hook=str).decode())


def _decode(content: str) -> _Written:
    return msgspec.json.decode(content, type=_Written, dec_hook=lambda wanted, value: wanted(value))
