"""What a lab's pods run in, by its ``--runtime``: processes of this machine, or containerd's sandboxes.

- ``base``: what both are, seen from outside of the nodes and from within one.
- ``processes``: network namespaces with a process each, attached by Weft's own CNI library.
- ``containerd``: a real containerd on each node, spoken to through CRI as a kubelet does.
"""

from typing import TYPE_CHECKING

from weft.lab.topology import LabError

if TYPE_CHECKING:  # a node needs one of them, and is to be there soon
    from weft.lab.runtimes.base import NodeSide, Runtime
    from weft.lab.state import LabState


def of(lab: "LabState") -> "Runtime":
    """The runtime of a lab."""
    return by_name(lab.settings.runtime)


def by_name(name: str) -> "Runtime":
    """A runtime by its name, one of ``topology.RUNTIMES``. What the other needs is not imported.

    Raises LabError where that is not installed.
    """
    if name == "containerd":
        return _containerd()
    from weft.lab.runtimes.processes.runtime import Processes  # noqa: PLC0415

    return Processes()


def _containerd() -> "Runtime":
    try:
        from weft.lab.runtimes.containerd.runtime import Containerd  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise LabError(
            f"the Python package {error.name} is not installed: run 'make setup-containerd', "
            "or leave out --runtime containerd"
        ) from None
    return Containerd()


def on_node(name: str) -> "NodeSide":
    """What a node has of a runtime."""
    if name == "containerd":
        from weft.lab.runtimes.containerd.daemon import Daemon  # noqa: PLC0415

        return Daemon()
    from weft.lab.runtimes.processes.node_side import SharedNamespaces  # noqa: PLC0415

    return SharedNamespaces()
