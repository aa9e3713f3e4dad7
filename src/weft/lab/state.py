"""What a lab consists of, in ``lab.json``: written before anything is made, so that all of it can be removed."""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import msgspec

from weft.lab.topology import LabError, Settings

ROOT = Path("/var/lib/weft-lab")


@dataclass(slots=True)
class Process:
    """A process that the lab started: a PID alone may be somebody else's by now."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> "Process":
        """The process that has this PID now."""
        return cls(pid, start_time(pid) or 0)

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return bool(self.started) and start_time(self.pid) == self.started


@dataclass(slots=True)
class NodeState:
    """A node: its name, its address on the underlay, its first process."""

    name: str
    address: str
    process: Process | None = None


@dataclass(slots=True)
class PodState:
    """A pod: where it is, how the runtime knows it, its addresses once it is attached.

    ``uid`` is Kubernetes' and outlives sandboxes; ``container_id`` is what CNI is told: the sandbox's.
    """

    name: str
    node: str
    container_id: str
    labels: dict[str, str] = field(default_factory=dict)
    ip: str = ""
    process: Process | None = None
    namespace: str = "default"
    #: Named ports of its containers: name to ``tcp/80``.
    ports: dict[str, str] = field(default_factory=dict)
    ip6: str = ""
    uid: str = ""
    #: The name of its network namespace, where its runtime keeps namespaces.
    netns: str = ""
    annotations: dict[str, str] = field(default_factory=dict)
    #: Whether the lab's API server had its object: one that has none there any more was deleted.
    published: bool = False

    @property
    def addresses(self) -> dict[str, str]:
        """The pod's addresses by what is said of them in front of a protocol: "" for IPv4, "IPv6 "."""
        return {label: address for label, address in (("", self.ip), ("IPv6 ", self.ip6)) if address}


@dataclass(slots=True)
class LabState:
    """A lab. ``complete`` is set when ``up`` has come to its end."""

    settings: Settings
    nodes: list[NodeState] = field(default_factory=list)
    pods: list[PodState] = field(default_factory=list)
    complete: bool = False
    #: Labels of the namespaces that were given some.
    namespaces: dict[str, dict[str, str]] = field(default_factory=dict)
    #: Processes of the lab itself, by their name.
    services: dict[str, Process] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where the lab keeps its files."""
        return ROOT / self.settings.name

    def node_folder(self, node: str) -> Path:
        """Where a node's private folders are."""
        return self.folder / "nodes" / node

    def status_socket(self, node: str) -> Path:
        """The status API of a node's agent, as it is seen from outside of the node."""
        return self.node_folder(node) / "run" / "weft" / "status.sock"

    def policy_socket(self, node: str) -> Path:
        """The policy controller of a node, as it is seen from outside of the node."""
        return self.node_folder(node) / "run" / "weft" / "policy.sock"

    @property
    def has_api(self) -> bool:
        """Whether the lab has a Kubernetes API server, which then holds its pods, policies and namespaces."""
        return self.settings.store == "kubernetes"

    @property
    def kubeconfig(self) -> Path:
        """How clients speak to the lab's API server."""
        return self.folder / "store" / "kubeconfig"

    def service_log(self, name: str) -> Path:
        """What a process of the lab itself said."""
        return self.folder / f"{name}.log"

    @property
    def policies(self) -> Path:
        """The manifests that all nodes enforce."""
        return self.folder / "store" / "policy"

    def agent_log(self, node: str) -> Path:
        """What a node's agent said."""
        return self.node_folder(node) / "agent.log"

    def container_log(self, node: str, container: str) -> Path:
        """What the newest container of that name on a node said. Raises LabError."""
        folder = self.node_folder(node) / "run" / "weft-lab" / "logs"
        found = sorted(folder.glob(f"*_{container}.log"), key=lambda path: path.stat().st_mtime)
        if not found:
            raise LabError(f"no container {container!r} has run on {node}")
        return found[-1]

    def control_socket(self, pod: PodState) -> Path:
        """Where a pod takes orders."""
        return self.pod_folder(pod) / "control.sock"

    def pod_folder(self, pod: PodState) -> Path:
        """What a pod has of files. Its name may be longer than the path of a socket."""
        return self.folder / "pods" / hashlib.sha256(pod.name.encode()).hexdigest()[:12]

    def node(self, name: str) -> NodeState:
        """A node by its name. Raises LabError, naming those that there are."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise LabError(f"no node {name!r}; there are: {', '.join(node.name for node in self.nodes)}")

    def pod(self, name: str) -> PodState:
        """A pod by its name. Raises LabError, naming those that there are."""
        for pod in self.pods:
            if pod.name == name:
                return pod
        raise LabError(f"no pod {name!r}; there are: {', '.join(pod.name for pod in self.pods) or 'none'}")

    def write(self) -> None:
        """Keep it, whole or not at all."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self.folder / f".lab.json.{os.getpid()}"
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(asdict(self))))
        temporary.rename(self.folder / "lab.json")


def read(name: str) -> LabState | None:
    """The lab of that name, or None. Raises LabError where its file cannot be read."""
    path = ROOT / name / "lab.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=LabState)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise LabError(f"{path}: {error}; 'weft lab down --lab {name}' removes what is left") from None


def required(name: str) -> LabState:
    """The lab of that name. Raises LabError where there is none."""
    lab = read(name)
    if lab is None:
        raise LabError(f"no lab {name!r} is up: start one with 'weft lab up{_option(name)}'")
    return lab


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the lab against other commands that change it. Where no lab is left, nothing is left of the lock."""
    path = ROOT / f"{name}.lock"  # beside the lab's folder, which comes and goes
    while True:
        ROOT.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            file = path.open("w")
        except FileNotFoundError:
            continue  # whoever held it before has just removed the folder
        fcntl.flock(file, fcntl.LOCK_EX)
        if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
            break
        file.close()
    try:
        yield
    finally:
        if not (ROOT / name).exists():
            path.unlink()
            with suppress(OSError):
                ROOT.rmdir()
        file.close()


#: Folders of the machine that nodes lay their own over.
COVERED = ("/etc/cni", "/opt/cni")


def ensure_covered() -> None:
    """Make the folders that are laid over where there are none. Called when a folder of the lab's own is there."""
    with _all_labs():
        for folder in map(Path, COVERED):
            if not folder.exists():
                with (ROOT / _MADE).open("a") as made:
                    made.write(f"{folder}\n")
                folder.mkdir(parents=True)


def remove_covered() -> None:
    """Remove what ``ensure_covered`` made, where no lab is left.

    The kernel takes a folder away with all that other namespaces have mounted over it: no other lab may be up.
    """
    with suppress(FileNotFoundError), _all_labs():
        if any(entry.is_dir() for entry in ROOT.iterdir()):
            return
        for folder in (ROOT / _MADE).read_text().split():
            with suppress(OSError):
                Path(folder).rmdir()
        (ROOT / _MADE).unlink()


#: Beside the labs' folders: what of the machine's was made for them.
_MADE = "folders-made"


@contextmanager
def _all_labs() -> Iterator[None]:
    """Hold all labs of this machine against each other. Raises FileNotFoundError where there is none."""
    descriptor = os.open(ROOT, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def start_time(pid: int) -> int | None:
    """When a process began, in clock ticks since boot (proc(5), stat field 22); None where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _option(name: str) -> str:
    return "" if name == "weft" else f" --lab {name}"
