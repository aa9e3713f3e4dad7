"""The lab's nodes from outside: started, waited for, entered."""

import contextlib
import subprocess
import sys
import time
from pathlib import Path

from weft.agent.status import fetch, fetch_report
from weft.lab import network, service
from weft.lab.state import LabState, NodeState, Process
from weft.lab.topology import LabError, node_namespace

#: Seconds for a node's agent to be ready.
READY_TIMEOUT = 30.0
#: How nsenter's words end where a PID namespace is entered: it forks then, and its child is to end with it.
IN_PID_NAMESPACE = ("--pid", "--", "setpriv", "--pdeathsig", "KILL")


def start(lab: LabState, node: NodeState, namespaces: list[str], options: list[str]) -> None:
    """Start a node's first process, with these namespaces of its own beside network, mounts and host name."""
    lab.node_folder(node.name).mkdir(mode=0o700, parents=True, exist_ok=True)
    namespace = network.NAMESPACES / node_namespace(lab.settings.name, node.name)
    process = subprocess.Popen(
        ["nsenter", f"--net={namespace}", "--",
         "unshare", "--mount", "--uts", "--propagation=slave", *namespaces, "--",
         sys.executable, "-m", "weft.lab.node", str(lab.folder), node.name, lab.settings.runtime, *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=service.environment(),
    )  # fmt: skip
    # Where there is a PID namespace, its first process is the only child of what made it.
    node.process = Process.of(_only_child(process) if "--fork" in namespaces else process.pid)
    lab.write()


def _only_child(process: "subprocess.Popen[bytes]") -> int:
    """Raises LabError where it ends before it has one."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while process.poll() is None:
        with contextlib.suppress(OSError):
            if found := children.read_text().split():
                return int(found[0])
        time.sleep(0.005)
    raise LabError(f"a node does not start: unshare ended with status {process.returncode}")


def enter(lab: LabState, node: str) -> list[str]:
    """The words before a command that is to run on a node. Raises LabError where the node is down."""
    process = first_process(lab, node)
    words = ["nsenter", f"--target={process.pid}", "--net", "--mount", "--uts"]
    if Path(f"/proc/{process.pid}/ns/pid").readlink() == Path("/proc/self/ns/pid").readlink():
        return [*words, "--"]
    return [*words, *IN_PID_NAMESPACE]


def first_process(lab: LabState, node: str) -> Process:
    """A node's first process. Raises LabError where the node is down."""
    process = lab.node(node).process
    if process is None or not process.alive:
        raise LabError(f"node {node} is down: 'weft lab up' brings it back")
    return process


def status(lab: LabState, node: NodeState) -> str:
    """A node's condition in kubectl's words."""
    if node.process is None or not node.process.alive:
        return "NotReady"
    try:
        return "Ready" if fetch(lab.status_socket(node.name), "/status")[0] == 200 else "NotReady"
    except OSError:
        return "NotReady"


def await_ready(lab: LabState, node: NodeState) -> None:
    """Return when a node's agent is ready. Raises LabError with what the agent said."""
    deadline = time.monotonic() + READY_TIMEOUT
    while status(lab, node) != "Ready":
        log = lab.agent_log(node.name)
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        refused = any("ended with status 2" in line for line in lines)
        dead = node.process is None or not node.process.alive
        if refused or dead or time.monotonic() > deadline:
            said = [line for line in lines if "starting it again" not in line]
            raise LabError(f"node {node.name} is not ready: {said[-1] if said else 'no word from its agent'}")
        time.sleep(0.02)


def await_peers(lab: LabState) -> None:
    """Return when every node knows the way to every other. Raises LabError."""
    deadline = time.monotonic() + READY_TIMEOUT
    for node in lab.nodes:
        while len(_peers_with_blocks(lab, node.name)) < len(lab.nodes) - 1:
            if time.monotonic() > deadline:
                raise LabError(f"node {node.name} does not find its peers: see 'weft lab logs {node.name}'")
            time.sleep(0.02)


def _peers_with_blocks(lab: LabState, node: str) -> list[str]:
    try:
        report = fetch_report(lab.status_socket(node))
    except (OSError, ValueError):
        return []
    return [peer["name"] for peer in report["peers"] if peer["blocks"]]
