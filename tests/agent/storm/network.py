"""Nodes with agents and the three members of their etcd, all on one wire."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.namespaces import ip, network_namespace, path, run
from tests.nodes import Node, cluster
from tests.store.etcd import Etcd
from tests.store.trio import Trio, trio_on

#: 16 blocks of 8 addresses: nodes that grow need the store often. Their first blocks are 32 addresses apart: the
#: first node grows into what the third one leaves.
RANGE = "10.244.0.0/25"
TUNNEL = "vxlan-6784"
NAMES = ("node01", "node02", "node03")

_ISLAND = "island"
_FIRST_MEMBER = 11


@dataclass
class Network:
    """The calling thread is on the wire. ``island`` is a bridge beside it, for what is cut off together."""

    nodes: list[Node]
    members: Trio
    url: str
    routes: dict[str, "RouteLog"] = field(default_factory=dict)

    @property
    def wire(self) -> str:
        return self.members.wire

    def cut_off_together(self, node: Node, member: Etcd) -> None:
        """They reach each other and nobody else."""
        for name in (node.name, member.name):
            ip("link", "set", name, "master", _ISLAND, namespace=self.wire)

    def rejoin(self, node: Node, member: Etcd) -> None:
        for name in (node.name, member.name):
            ip("link", "set", name, "master", "wire", namespace=self.wire)

    def ways(self, node: Node) -> set[str]:
        """Destinations of a node's routes to its peers, as CIDR."""
        shown = json.loads(run("ip", "-j", "route", "show", "dev", TUNNEL, namespace=node.namespace))
        return {route["dst"] for route in shown}


class RouteLog:
    """What the kernel says of a node's routes to its peers as they change."""

    def __init__(self, node: Node) -> None:
        self._path = node.folder / "routes.log"
        with self._path.open("wb") as log:
            self._monitor = subprocess.Popen(
                ["nsenter", f"--net={path(node.namespace)}", "--", "ip", "monitor", "route"],
                stdout=log, stderr=subprocess.DEVNULL,
            )  # fmt: skip

    def withdrawn(self) -> list[str]:
        """Destinations whose route was deleted, in order."""
        return re.findall(rf"^Deleted (\S+) .*dev {TUNNEL}", self._path.read_text(), re.MULTILINE)

    def close(self) -> None:
        self._monitor.kill()
        self._monitor.wait(timeout=20)


@contextmanager
def network(folder: Path, *options: str, store: str = "") -> Iterator[Network]:
    """Agents that serve and know each other. ``store`` are options of the store's URL, such as ``timeout=2``."""
    hosts = [f"172.25.1.{_FIRST_MEMBER + number}" for number in range(3)]
    url = f"etcd://{','.join(hosts)}/weft" + (f"?{store}" if store else "")
    with ExitStack() as stack:
        nodes = stack.enter_context(cluster(folder, NAMES, "--range", RANGE, "--store", url, *options))
        wire = nodes[0].wire
        ip("link", "add", _ISLAND, "type", "bridge", namespace=wire)
        ip("link", "set", _ISLAND, "up", namespace=wire)
        members = stack.enter_context(trio_on(wire, "172.25.1", _FIRST_MEMBER))
        made = Network(nodes, members, url)
        for node in nodes:
            node.start()
        for node in nodes:
            made.routes[node.name] = log = RouteLog(node)
            stack.callback(log.close)
        yield made


@contextmanager
def sandboxes(count: int) -> Iterator[list[str]]:
    """Empty sandboxes, many at once."""
    with network_namespace() as first:
        names = [f"{first}-{number}" for number in range(count)]
        _batch(["netns add " + name for name in names])
        try:
            yield names
        finally:
            _batch(["netns delete " + name for name in names])


def rmpeer(node: Node, name: str) -> str:
    """What ``weft rmpeer`` says on a node. It must succeed."""
    return run(sys.executable, "-m", "weft", "rmpeer", "--run-dir", str(node.folder / "run"), name)


def _batch(lines: Sequence[str]) -> None:
    script = "\n".join(lines)
    done = subprocess.run(
        ["ip", "-batch", "-"], input=script, text=True, capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
