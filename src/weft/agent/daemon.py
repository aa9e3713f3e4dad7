"""An agent's life: start in an order in which a crash at any line is repaired by starting again."""

import logging
import os
import threading
import uuid
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address, IPv6Address

from weft.agent import leases, policy
from weft.agent.addresses import Addresses
from weft.agent.attachments import Attachments, free_addresses
from weft.agent.cluster import Cluster
from weft.agent.cni_configuration import CONFIG_FILE, ConfigurationWatch, write_configuration
from weft.agent.collector import Collector
from weft.agent.dataplane import Dataplane, addresses_of_bridge, find_underlay
from weft.agent.dispatch import Dispatcher
from weft.agent.enrolment import BlockLost, Enrolment
from weft.agent.journal import Journal, State
from weft.agent.live_view import LiveView
from weft.agent.membership import Membership
from weft.agent.node_condition import open_conditions
from weft.agent.node_pods import open_node_pods
from weft.agent.preconditions import overlap
from weft.agent.range_changes import change_ranges
from weft.agent.reaper import Reaper
from weft.agent.reclaim import Reclaimer, remove_peer
from weft.agent.records import NodeRecord
from weft.agent.report import ESTABLISHED, FAILED, PENDING, PeerReport, Report
from weft.agent.requests import open_objects
from weft.agent.requests.pods import PodRequests
from weft.agent.server import LauncherServer
from weft.agent.settings import Settings, SettingsError
from weft.agent.takeover.foreign import open_foreign
from weft.agent.takeover.looking import database_files
from weft.agent.takeover.planner import Refusal
from weft.agent.takeover.takeover import Takeover, TakeoverRefused, examine, is_fresh
from weft.agent.wire import Request
from weft.fabric import weave
from weft.fabric.plan import Node, derived_link_address
from weft.ipam.ranges import IPAddress, IPNetwork, PodRange
from weft.plugins.main.weave_net import WeaveNet
from weft.plugins.main.weave_requests import requested_by_runtime
from weft.plugins.main.weave_settings import TYPE
from weft.store import StoreError, open_when_possible
from weft.troubles import Troubles

_log = logging.getLogger(__name__)

#: Seconds between two looks at what others may have changed in the kernel.
REPAIR_INTERVAL = 30.0
#: Seconds between two looks for a DEL that the launcher could not hand over although the agent runs.
DELETIONS_INTERVAL = 5.0
#: Seconds a thread that requests under way get to end when the agent is told to stop.
STOP_TIMEOUT = 5.0
#: Seconds between two looks whether this node's place in the cluster has changed.
STOP_INTERVAL = 1.0


class Agent:
    """One node's agent: builds the parts, starts them in order, ends them in reverse."""

    def __init__(
        self, settings: Settings, asked_to_stop: threading.Event, troubles: Troubles, opened: ExitStack
    ) -> None:
        """What is opened is closed with ``opened``, once ``run`` is over or this has failed.

        Raises StoreUnavailable where the store must be asked and does not answer, and what
        ``weft.agent.process.run`` ends with.
        """
        self._settings = settings
        self._asked_to_stop = asked_to_stop
        self._troubles = troubles
        self._ending = threading.Event()
        self._serving = False
        self._threads: list[threading.Thread] = []
        self._left_by_weave: list[str] = []
        underlay = find_underlay(settings.node_address)
        if why := overlap(settings.ranges):
            raise SettingsError(why)
        settings.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._objects = open_objects(settings)
        if self._objects is not None:
            opened.callback(self._objects.close)
        self._journal = opened.enter_context(closing(Journal(settings.state_dir / "journal.db")))
        self._store = opened.enter_context(closing(open_when_possible(settings.store)))
        self._cluster = Cluster(self._store)
        self._live = LiveView(settings.state_dir / "view.json")
        name = settings.node_name
        self._foreign = opened.enter_context(closing(open_foreign(settings.store, name)))
        self._takeover = self._begin_takeover(underlay.mtu)
        self._mtu = partial(weave.mtu, underlay.mtu, settings.mtu or self._takeover.mtu)
        self._addresses = Addresses(
            self._cluster, self._journal, self._live, name, settings.init, self._used_elsewhere,
            addresses_of_bridge(), self._serve_gateways,
        )  # fmt: skip
        vtep, instance = derived_link_address("vtep", name), _instance(self._journal)

        def record(gateway: IPv4Address | None, gateway6: IPv6Address | None) -> NodeRecord:
            return NodeRecord(underlay.address, vtep, gateway, instance, gateway6)

        self._enrolment = Enrolment(
            self._cluster, self._journal, self._addresses, self._live, name, record, self._why_not, troubles
        )
        self._enter()
        networks = [pods.network for pods in self._addresses.ranges]
        mtu = self._mtu(ipv6=any(pods.version == 6 for pods in networks))
        self._node = Node(name, underlay.address, self._addresses.gateway, mtu, self._addresses.gateway6)
        devices = weave.devices(self._node, self._takeover.bridge_address)
        self._dataplane = Dataplane(devices, networks, underlay, lambda: self._addresses.gateways)
        self._reaper = Reaper(self._journal, free_addresses(self._addresses))
        self._attachments = Attachments(self._journal, self._addresses, self._dataplane, self._reaper)
        self._membership = Membership(
            self._cluster, self._live, self._dataplane, self._node, self._enrolment, self._announce, troubles
        )
        self._reclaimer = Reclaimer(self._cluster, self._live, name, troubles)
        self._policy = policy.open_policy(settings)
        self._gate = policy.gate(settings, self._policy)
        self._leases = leases.open_daemon(settings)
        asked = PodRequests(lambda: self._addresses.ranges, self._journal, self._objects)
        requests = asked if settings.annotations else requested_by_runtime
        attach = WeaveNet(self._attachments, requests, self._gate)
        self._dispatcher = Dispatcher({TYPE: attach, **leases.plugins(settings)}, settings.deletions)
        self._server = LauncherServer(settings.cni_socket, self._dispatcher, self._undo)
        self._conditions = open_conditions(settings.store, name)
        self._configuration = ConfigurationWatch(settings.cni_conf_dir, troubles, self._conditions.shadowed)
        self._pods = open_node_pods(settings.store, name)
        self._collector = Collector(
            self._journal,
            self._attachments,
            self._pods,
            self._dispatcher.turns.attempt,
            self._dispatcher.run,
            settings.cni_conf_dir / CONFIG_FILE,
            settings.collect_after or 0.0,
        )

    def run(self) -> None:
        """Serve until told to stop, or until this node's place in the cluster has changed so much that a new agent
        must take over."""
        # Nothing is told to the peers before the node can take their packets, nothing is served before
        # the last agent's leftovers and the DELs it missed are done.
        self._connect()
        self._start_threads()
        if self._policy is not None:
            self._policy.start()
        self._replay_deletions()
        self._server.start()
        write_configuration(self._settings.cni_conf_dir, self._settings.hairpin)
        self._serving = True
        self._tell_of_node()
        for file in self._left_by_weave:
            _log.warning("%s is Weave Net's and is not read; delete it when there is no way back", file)
        _log.info("ready: %s at %s, pods at %s", self._node.name, self._node.address, self._node.bridge)
        while not (self._asked_to_stop.wait(STOP_INTERVAL) or self._enrolment.outdated):
            pass
        if self._asked_to_stop.is_set():
            _log.info("stopping; pods stay connected")
        else:
            _log.warning("starting anew: %s", self._enrolment.outdated)
        self._serving = False
        self._ending.set()
        self._server.stop(STOP_TIMEOUT)
        if self._leases is not None:
            self._leases.stop()
        for wake in (self._addresses.wake, self._membership.wake, self._reaper.wake):
            wake()
        for thread in self._threads:
            thread.join(STOP_TIMEOUT)
        self._live.keep(at_once=True)
        if self._policy is not None:
            self._policy.stop()

    def _begin_takeover(self, underlay_mtu: int) -> Takeover:
        """The take-over from Weave Net that the journal knows of, or a new one where it is here and we were not.

        Raises TakeoverRefused.
        """
        known = Takeover(self._journal)
        if is_fresh(self._journal):
            self._left_by_weave = database_files()
            outcome = examine(self._settings, underlay_mtu, self._cluster, self._foreign)
            if isinstance(outcome, Refusal):
                raise TakeoverRefused(outcome)
            if outcome is not None:
                known.begin(outcome)
        known.write_pods()
        return known

    def _enter(self) -> None:
        try:
            self._enrolment.enter(
                self._settings.ranges,
                sized=self._settings.sized,
                needed=self._takeover.needed,
            )
        except BlockLost:
            self._takeover.abandon()
            raise
        self._takeover.note_claimed()

    def _serve_gateways(self) -> None:
        self._dataplane.serve()

    def _why_not(self, ranges: Sequence[PodRange]) -> str:
        """Why this node cannot have such ranges; empty where it can."""
        try:
            self._mtu(ipv6=any(pods.version == 6 for pods in ranges))
        except ValueError as error:
            return str(error)
        return overlap(ranges)

    def _used_elsewhere(self) -> Collection[IPAddress]:
        known = [peer.name for peer in self._live.peers(self._settings.node_name)]
        return self._foreign.in_use(known).keys()

    def _connect(self) -> None:
        """Bring kernel and journal to what they should be, before anything is told or served."""
        self._takeover.cut_old_way()
        self._dataplane.ensure_devices()
        self._attachments.reconcile()
        self._membership.converge()

    def _announce(self, blocks: Sequence[IPNetwork]) -> None:
        if self._serving or self._takeover.pending:
            self._takeover.announce(self._attachments.packets, blocks)

    def _finish_takeover(self) -> None:
        self._takeover.finish(self._are_policies_in_force, self._ending)

    def _are_policies_in_force(self) -> bool:
        return policy.in_force(self._settings, self._policy)

    def take_over(self) -> bool:
        """Take the node over from Weave Net and serve nothing; whether all of Weave's is gone that goes."""
        self._connect()
        return self._takeover.attempt_to_finish(self._are_policies_in_force)

    def _start_threads(self) -> None:
        tasks: dict[str, Callable[[], None]] = {
            "addresses": self._care_for_addresses,
            "watch": lambda: self._membership.follow(self._ending),
            "peers": lambda: self._membership.keep_converged(self._ending, REPAIR_INTERVAL),
            "reclaim": lambda: self._reclaimer.run(self._ending),
            "presence": self._give_signs_of_life,
            "reaper": lambda: self._reaper.run(self._ending),
            "deletions": self._look_for_deletions,
            "takeover": self._finish_takeover,
        }
        if self._gate is not None:
            closed = self._troubles.about("no pod can be attached", "pods can be attached again")
            tasks["policy"] = partial(policy.watch, self._gate, self._ending, closed)
        if self._leases is not None:
            tasks["dhcp"] = self._leases.run
        if self._objects is not None:
            namespaces = self._troubles.about("namespaces are not told", "namespaces are told again")
            tasks["namespaces"] = partial(self._objects.follow, self._ending, namespaces)
        if self._settings.collect_after is not None:
            pods = self._troubles.about("which pods this node has is not told", "this node's pods are told again")
            tasks["pods"] = partial(self._pods.follow, self._ending, pods)
            tasks["collector"] = partial(self._collector.run, self._ending)
        for name, task in tasks.items():
            self._start_thread(name, task)

    def _start_thread(self, name: str, task: Callable[[], None]) -> None:
        thread = threading.Thread(target=self._guarded, args=(name, task), name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _guarded(self, name: str, task: Callable[[], None]) -> None:
        """A thread that dies would leave the agent half alive: end it, so that it is started anew."""
        try:
            task()
        except BaseException:
            _log.exception("%s failed; the agent ends", name)
            os._exit(1)

    def _tell_of_node(self) -> None:
        """From now on whoever asks is told how this node is."""
        self._configuration.look()
        untold = self._troubles.about("this node's conditions are not told", "this node's conditions are told")
        self._start_thread("configuration", partial(self._configuration.run, self._ending))
        self._start_thread("conditions", partial(self._conditions.run, self._ending, untold))

    def _care_for_addresses(self) -> None:
        concern = self._troubles.about("this node's blocks want care", "this node's blocks are as they should be")
        self._addresses.care(self._ending, self._enrolment.check, concern)

    def _look_for_deletions(self) -> None:
        while not self._ending.wait(DELETIONS_INTERVAL):
            self._replay_deletions()

    def _replay_deletions(self) -> None:
        if done := self._dispatcher.deletions.replay():
            _log.info("%d deferred DELs done", done)

    def _undo(self, request: Request, made: float) -> None:
        """Delete what nobody waits for any more; ``made`` is when its ADD was done, in seconds since the epoch."""
        key = (request.environment.get("CNI_CONTAINERID", ""), request.environment.get("CNI_IFNAME", ""))
        # An ADD that nobody waits for any more may be under way.
        with self._dispatcher.turns.turn(key):
            known = self._attachments.find(*key)
            if known is not None and known.created > made:
                return  # the container was added again
            self._dispatcher.run(request)

    def report(self) -> Report:
        """All that is told of this node."""
        reached = self._membership.peers()
        silent, removed = self._live.silent(self._node.name), self._live.removed()
        peers = [
            PeerReport(peer, FAILED if peer.name in silent else ESTABLISHED) for peer in reached if peer.blocks
        ]
        listed = {item.peer.name for item in peers}
        peers += [
            PeerReport(replace(peer, blocks=()), PENDING)
            for peer in self._live.peers(self._node.name)
            if peer.name not in listed
        ]
        return Report(
            serving=self._serving,
            name=self._node.name,
            address=str(self._node.address),
            gateway=str(self._node.bridge.ip),
            mtu=self._node.mtu,
            ranges=self._addresses.counts(),
            attachments=sum(item.state is State.ATTACHED for item in self._journal.attachments()),
            owners=self._live.owners(),
            peers=sorted(peers, key=lambda item: item.peer.name),
            unreachable=frozenset({*silent, *removed} - {self._node.name}),
            problems=self._live.problems,
            gateway6=str(self._node.bridge6.ip) if self._node.bridge6 else "",
            collected=self._collector.collected,
            gateways=self._addresses.gateways,
            troubles=self._troubles.present,
        )

    def _give_signs_of_life(self) -> None:
        """Where the store has such a thing. What could not be given is given soon: peers may miss it already."""
        if (lasts := self._cluster.presence) is None:
            return
        pause = 0.0
        while not self._ending.wait(pause):
            try:
                self._cluster.keep_present(self._node.name)
                pause = lasts / 3
            except StoreError as error:
                _log.debug("no sign of life can be given: %s", error)
                pause = lasts / 12

    def remove_peer(self, name: str) -> str:
        """Take a node that is gone for good out of the cluster; what to say. Raises NoSuchPeer, StoreError."""
        return remove_peer(self._cluster, name, self._node.name)

    def change_ranges(self, verb: str, value: str) -> str:
        """Change the cluster's ranges; what to say. Raises what ``weft.agent.range_changes`` does."""
        return change_ranges(self._cluster, verb, value, refusal=self._why_not)


def _instance(journal: Journal) -> str:
    instance = journal.fact("instance")
    if instance is None:
        instance = uuid.uuid4().hex
        journal.set_fact("instance", instance)
    return instance
