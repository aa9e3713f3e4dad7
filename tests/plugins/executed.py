"""Hosts that call plugins as a runtime does: real executables, through the agent and without it.

Beside ``tests.plugins.twins``, whose ``Host`` calls our plugins in the test's own process.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.namespaces import network_namespace
from tests.nodes import cluster
from tests.plugins.twins import Host, Twins, shell
from weft.cli.install import install


@dataclass
class ExecutingHost(Host):
    """A host whose plugins are executed; ``go`` only tells the twins apart here."""

    bin: Path = Path()
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def executables(self) -> Path:
        """The folder that CNI_PATH names."""
        return self.bin

    def _ours(self, kind: str, environment: dict[str, str], data: bytes) -> tuple[int, bytes]:
        return self.execute_plugin(self.bin / kind, {**environment, **self.environment}, data)

    _go = _ours


@contextmanager
def both_ways(folder: Path) -> Iterator[Twins]:
    """A host whose plugins are served by its agent, and one where an agent runs, too, but is not asked."""
    with ExitStack() as stack:
        hosts = []
        for name in ("agent", "alone"):
            home = folder / name
            home.mkdir()
            (node,) = stack.enter_context(cluster(home, ("node",)))
            pod = stack.enter_context(network_namespace())
            for each in (node.namespace, pod):
                # Duplicate address detection would make every look at IPv6 wait for a second.
                shell(each, "ip link set lo up; echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad")
            node.start()
            files = home / "host"
            files.mkdir()
            install(files / "bin", without_agent=name == "alone")
            asked = {"WEFT_SOCKET": str(node.socket), "WEFT_DELETIONS": str(node.folder / "state" / "deletions")}
            hosts.append(ExecutingHost(node.namespace, files, name == "agent", {"pod": pod}, files / "bin", asked))
        yield Twins(*hosts)
