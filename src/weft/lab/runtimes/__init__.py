"""What a lab's pods run in.

- ``base``: what a runtime is, seen from outside of the nodes and from within one.
- ``processes``: network namespaces with a process each, attached by Weft's own CNI library.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a node needs one of them, and is to be there soon
    from weft.lab.runtimes.base import NodeSide, Runtime
    from weft.lab.state import LabState


def of(lab: "LabState") -> "Runtime":
    """The runtime of a lab."""
    return by_name(lab.settings.runtime)


def by_name(name: str) -> "Runtime":
    """A runtime by its name, one of ``topology.RUNTIMES``. What the other needs is not imported."""
    from weft.lab.runtimes.processes.runtime import Processes  # noqa: PLC0415

    return Processes()


def on_node(name: str) -> "NodeSide":
    """What a node has of a runtime."""
    from weft.lab.runtimes.processes.node_side import SharedNamespaces  # noqa: PLC0415

    return SharedNamespaces()
