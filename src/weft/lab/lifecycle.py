"""A lab comes up, is repaired, goes down."""

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence

from weft.lab import etcd, network, nodes, pods, runtimes, state
from weft.lab.cluster import containers, control_plane, objects
from weft.lab.node import STORE
from weft.lab.state import LabState, NodeState
from weft.lab.topology import LabError, Settings, node_namespace, underlay_namespace

#: Seconds that a node gets to stop before it is killed.
STOP_TIMEOUT = 12.0
Say = Callable[[str], None]


def up(settings: Settings, say: Say = lambda text: None) -> tuple[LabState, bool]:
    """Bring a lab up; it and whether it was there already. A lab of the same settings is repaired.

    Raises LabError for settings that cannot be used, for a lab of other settings, and for what fails; what
    was made until then is removed.
    """
    settings.check()
    _require_root()
    with state.locked(settings.name):
        present = state.read(settings.name)
        if present is not None and present.complete:
            _refuse_differences(present, settings)
            return present, not _repair(present, say)
        if present is not None:
            say("removing what an interrupted 'up' left")
            _remove(settings.name, present)
        if settings.store == "etcd":
            etcd.require()
        runtimes.by_name(settings.runtime).require()
        lab = LabState(settings, _nodes(settings))
        try:
            _make(lab, say)
        except BaseException:
            _remove(settings.name, lab)
            raise
        return lab, False


def down(name: str) -> list[str]:
    """Remove a lab, whatever state it is in; the namespaces that were there."""
    _require_root()
    with state.locked(name):
        try:
            lab = state.read(name)
        except LabError:
            lab = None  # an unreadable file keeps nothing from being removed
        return _remove(name, lab)


def _nodes(settings: Settings) -> list[NodeState]:
    return [
        NodeState(name, str(settings.node_address(number).ip)) for number, name in enumerate(settings.node_names())
    ]


def _make(lab: LabState, say: Say) -> None:
    settings = lab.settings
    lab.policies.mkdir(mode=0o700, parents=True, exist_ok=True)
    state.ensure_covered()
    # Taken names are refused before the lab's file claims them.
    for name in _namespaces(lab):
        if network.exists(name):
            lab.nodes.clear()
            raise LabError(f"namespace {name} exists and is not this lab's: remove it, or give another --lab")
    lab.write()
    say(f"underlay {settings.underlay}")
    wire = underlay_namespace(settings.name)
    network.add_namespaces([wire])
    network.make_underlay(wire, str(settings.gateway), settings.underlay_mtu)
    if settings.store != "sqlite":
        say(settings.store)
    _start_services(lab)
    for number, node in enumerate(lab.nodes):
        say(f"node {node.name} ({node.address})")
        namespace = node_namespace(settings.name, node.name)
        network.add_namespaces([namespace])
        network.plug_in(
            wire, node.name, namespace, str(settings.node_address(number)), str(settings.gateway.ip),
            settings.underlay_mtu,
        )  # fmt: skip
        _start_node(lab, node)
        # The next node looks for its addresses when this one has its own: so they come out in Weave's order.
        _await_node(lab, node)
    nodes.await_peers(lab)
    if lab.has_api:
        objects.await_ready_nodes(lab)
    wanted = [
        pods.new_pod(f"web-{number}", node.name, {"app": "web"})
        for number, node in enumerate((node for _ in range(settings.pods_per_node) for node in lab.nodes), start=1)
    ]
    lab.pods = wanted
    lab.write()
    if wanted:
        made: list[str] = []

        def count(pod: state.PodState) -> None:
            made.append(pod.name)
            say(f"pods {len(made)} of {len(wanted)}")

        say(f"pods 0 of {len(wanted)}")
        pods.make(lab, wanted, count)
    lab.complete = True
    lab.write()


def _start_services(lab: LabState) -> None:
    """Start what holds the lab's state, where that is a process."""
    if lab.settings.store == "etcd":
        etcd.start(lab)
    elif lab.has_api:
        control_plane.start(lab)


def _store_options(lab: LabState) -> list[str]:
    """Where a node's agent finds the lab's state and policies."""
    if lab.has_api:
        access = f"kubernetes://{STORE}/{lab.kubeconfig.name}"
        return ["--store", access, "--policy-api", access]
    store = etcd.url(lab.settings) if lab.settings.store == "etcd" else f"sqlite://{STORE}/store.db"
    return ["--store", store, "--policy-dir", f"{STORE}/policy"]


def _start_node(lab: LabState, node: NodeState) -> None:
    settings = lab.settings
    options = ["--range", settings.range, *_store_options(lab)]
    if lab.has_api:
        objects.register(lab, node)
    if settings.ipalloc_init:
        options += ["--ipalloc-init", settings.ipalloc_init]
    nodes.start(lab, node, list(runtimes.of(lab).node_namespaces), options)


def _await_node(lab: LabState, node: NodeState) -> None:
    nodes.await_ready(lab, node)
    runtimes.of(lab).await_node(lab, node)


def _repair(lab: LabState, say: Say) -> bool:
    """Start what has died; whether there was anything."""
    repaired, runtime = False, runtimes.of(lab)
    if any(not process.alive for process in lab.services.values()):
        say(f"{', '.join(lab.services)} starts again")
        _end_processes([underlay_namespace(lab.settings.name)])
        _start_services(lab)
        repaired = True
    for node in lab.nodes:
        if node.process is None or not node.process.alive:
            say(f"node {node.name} starts again")
            _end_processes([node_namespace(lab.settings.name, node.name)])
            _start_node(lab, node)
            _await_node(lab, node)
            repaired = True
        else:
            runtime.await_node(lab, node)
    if strays := runtime.remove_strays(lab):
        say(f"{strays} sandboxes of no pod are removed")
        repaired = True
    running = runtime.running(lab)
    ended = [pod for pod in lab.pods if not (pod.ip and pod.name in running)]
    for pod in ended:
        say(f"pod {pod.name} starts again")
    pods.restart(lab, ended)
    return repaired or bool(ended)


def _remove(name: str, lab: LabState | None) -> list[str]:
    """End the lab's processes, remove its namespaces, then its files."""
    if lab is not None and not lab.nodes:
        names: list[str] = []
    else:
        names = _namespaces(lab) if lab is not None else []
    for node in lab.nodes if lab is not None else ():
        if node.process is not None and node.process.alive:
            os.kill(node.process.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT
    while lab and any(node.process and node.process.alive for node in lab.nodes) and time.monotonic() < deadline:
        time.sleep(0.02)
    _end_processes(names)
    containers.remove_cgroups(name)
    removed = network.delete_namespaces(names)
    shutil.rmtree(state.ROOT / name, ignore_errors=True)
    state.remove_covered()
    return removed


def _end_processes(names: Sequence[str]) -> None:
    """Kill whatever runs in the lab's own namespaces: no PID from a file can be mistaken for another's."""
    for _ in range(100):
        found = network.processes_in(names)
        if not found:
            return
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _namespaces(lab: LabState) -> list[str]:
    name = lab.settings.name
    return [
        *runtimes.of(lab).namespaces(lab),
        *(node_namespace(name, node.name) for node in lab.nodes),
        underlay_namespace(name),
    ]


def _refuse_differences(present: LabState, wanted: Settings) -> None:
    differences = present.settings.differences(wanted)
    if differences:
        raise LabError(
            f"lab {wanted.name!r} is up with other settings ({', '.join(differences)}): "
            "'weft lab down' removes it, --lab NAME makes a second one"
        )


def _require_root() -> None:
    if os.geteuid() != 0:
        raise LabError("must run as root: a lab is made of network namespaces (try sudo)")
