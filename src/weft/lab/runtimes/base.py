"""What a lab asks of whatever its pods run in."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from weft.lab.state import LabState, NodeState, PodState

#: The one process that every pod has.
POD_PROGRAM = Path(__file__).parents[1] / "pod.py"


class Runtime(Protocol):
    """A runtime as ``weft lab`` uses it, from outside of the nodes. Refusals are raised as LabError."""

    #: Namespaces that a node has beside that of its network, in the words of unshare(1).
    node_namespaces: Sequence[str]

    def require(self) -> None:
        """Raise LabError, with the mend, where something is not installed."""
        ...

    def version(self) -> str:
        """Its name and version as a Node object has them: ``containerd://1.6.20``."""
        ...

    def namespaces(self, lab: LabState) -> list[str]:
        """The pods' network namespaces among the machine's named ones."""
        ...

    def await_node(self, lab: LabState, node: NodeState) -> None:
        """Return when pods can be made on a node whose agent is ready."""
        ...

    def prepare(self, lab: LabState, pods: Sequence[PodState]) -> None:
        """Make what pods need before anybody is told of them."""
        ...

    def attach(self, lab: LabState, node: str, pods: Sequence[PodState]) -> Iterator[tuple[PodState, str]]:
        """Make pods run on a node, side by side; each as soon as it is known, with what went wrong or "".

        A pod that is well has its addresses, container ID and network namespace.
        """
        ...

    def remove(self, lab: LabState, pod: PodState) -> None:
        """Detach a pod and remove what it consisted of, as much of it as there is."""
        ...

    def remove_strays(self, lab: LabState) -> int:
        """Remove what nodes have of pods that the lab does not have; how many."""
        ...

    def running(self, lab: LabState) -> frozenset[str]:
        """The names of the lab's pods that run. A node that is down runs none."""
        ...

    def enter(self, lab: LabState, pod: PodState) -> list[str]:
        """The words before a command that is to run in a pod."""
        ...


class NodeSide(Protocol):
    """A runtime as a node has it, from within the node."""

    def lay(self, lab_folder: Path, folder: Path) -> None:
        """Prepare the node's private folders, before they are laid over the machine's."""
        ...

    def program(self) -> list[str] | None:
        """What runs on the node beside its agent, and is started again when it dies."""
        ...
