"""Nodes and clusters that are not as an agent needs them, and what the agent says there."""

import shlex
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.agent.test_agent import links
from tests.agent.test_in_a_cluster import ADDRESS, Cluster, kind
from tests.namespaces import inside
from tests.nodes import Node
from weft.agent.status import fetch


def page(node: Node, name: str = "/status") -> tuple[int, str]:
    """What the status API answers; 0 where there is none."""
    try:
        code, body = fetch(node.folder / "run" / "status.sock", name)
    except OSError:
        return 0, ""
    return code, body.decode()


def lines(node: Node, part: str) -> list[str]:
    """The lines of the agent's log with this in them."""
    return [line for line in node.log.read_text().splitlines() if part in line]


def ended(node: Node, status: int) -> str:
    """The one line that an agent said which ended with this status."""
    assert node.agent is not None
    assert node.agent.wait(60) == status, node.log.read_text()
    (line,) = node.log.read_text().splitlines()
    assert line.startswith("weft agent: ")
    return line


def untouched(node: Node) -> bool:
    """Whether nothing of an agent is in the kernel or in the store."""
    return not links(node.namespace).keys() & {"weave", "vxlan-6784"} and not node.store.exists()


@contextmanager
def without(made: Cluster, resource: str, verb: str) -> Iterator[None]:
    """The manifest's rights but for a verb on a resource."""
    role, namespace = ("Role", "kube-system") if resource == "leases" else ("ClusterRole", "")

    def edit(item: dict[str, Any]) -> dict[str, Any]:
        rules = []
        for rule in item["rules"]:
            others = [name for name in rule["resources"] if name != resource]
            rules.append(rule | {"resources": others})
            if resource in rule["resources"]:
                rules.append(
                    rule | {"resources": [resource], "verbs": [one for one in rule["verbs"] if one != verb]}
                )
        return item | {"rules": rules}

    before = made.storage.get(kind(role), namespace, "weave-net")["rules"]
    made.storage.change(kind(role), namespace, "weave-net", edit)
    try:
        yield
    finally:
        made.storage.change(kind(role), namespace, "weave-net", lambda item: item | {"rules": before})


class Deaf(threading.Thread):
    """Accepts and hangs up, where an API server was, and counts."""

    def __init__(self, wire: str) -> None:
        super().__init__(daemon=True)
        self.callers = 0
        self._listener = inside(wire, lambda: socket.create_server(ADDRESS))

    def run(self) -> None:
        while True:
            try:
                self._listener.accept()[0].close()
            except OSError:
                return
            self.callers += 1

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self.join()
        self._listener.close()


def read_only(*folders: Path) -> tuple[str, ...]:
    """What executes a program that can only read these folders, in mounts of its own."""
    mounts = [f"mount --bind {folder} {folder} && mount -o remount,bind,ro {folder}" for folder in folders]
    return "unshare", "--mount", "sh", "-c", " && ".join([*mounts, 'exec "$@"']), "sh"


def with_database(folder: Path) -> tuple[str, ...]:
    """What executes a program that finds in /var/lib/weave the database of another cluster: of peers and a range
    that are gone, in the form of BoltDB as far as anybody looks."""
    database = folder / "weave-netdata.db"
    page_of_meta = bytes(16) + bytes.fromhex("edda0ced 02000000 00100000") + bytes(4096 - 28)
    database.write_bytes(2 * page_of_meta + b"topLevel peers 10.99.0.0/16 ring 7a:3c:52:0f:11:9e" + bytes(1000))
    script = (
        "mount -t tmpfs none /var/lib && mkdir /var/lib/weave && "
        f'cp {shlex.quote(str(database))} /var/lib/weave/ && exec "$@"'
    )
    return "unshare", "--mount", "sh", "-c", script, "sh"
