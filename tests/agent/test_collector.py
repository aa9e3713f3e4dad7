"""Real agents free what runtimes leave behind, and nothing else."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.agent.test_agent import address_of, eventually, reaches
from tests.agent.test_in_a_cluster import Cluster, kind, serve_with_rights
from tests.namespaces import ip, path
from tests.nodes import LAUNCHER, Node, cluster, pod
from weft.agent.status import fetch

FAST = ("--collect-after", "1")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with cluster(tmp_path, ("worker",), *FAST) as (made,):
        made.start()
        yield made


@pytest.fixture
def in_a_cluster(tmp_path: Path) -> Iterator[Cluster]:
    with serve_with_rights(tmp_path, ("worker",), *FAST) as made:
        yield made


def uid(text: str) -> dict[str, dict[str, str]]:
    return {"environment": {"CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_UID={text}"}}


def collected(node: Node) -> dict[str, int]:
    return {reason: count for reason, count in node.report()["ipam"]["collected"].items() if count}


def in_use(node: Node) -> int:
    return int(node.report()["ipam"]["inUse"])


def map_a_port(node: Node, container: str, netns: str, result: Any) -> None:
    """What portmap, the second of the node's plugins, does on ADD."""
    configuration = {
        "cniVersion": "1.0.0", "name": "weave", "type": "portmap", "capabilities": {"portMappings": True},
        "snat": True, "prevResult": result,
        "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]},
    }  # fmt: skip
    environment = {
        "CNI_COMMAND": "ADD", "CNI_CONTAINERID": container, "CNI_NETNS": netns, "CNI_IFNAME": "eth0",
        "CNI_PATH": "/opt/cni/bin", "WEFT_SOCKET": str(node.socket), "PATH": os.environ["PATH"],
    }  # fmt: skip
    subprocess.run(
        ["portmap"], executable=LAUNCHER, env=environment, input=json.dumps(configuration).encode(),
        capture_output=True, check=True, timeout=60,
    )  # fmt: skip


def rules(node: Node) -> str:
    return subprocess.run(
        ["ip", "netns", "exec", node.namespace, "nft", "list", "ruleset"],
        capture_output=True, text=True, check=True, timeout=30,
    ).stdout  # fmt: skip


def test_a_sandbox_that_vanished_without_a_del_is_freed_with_its_host_ports(node: Node) -> None:
    with pod() as kept:
        stays = node.add("kept", str(path(kept)))
        with pod() as gone:
            result = node.add("gone", str(path(gone)))
            map_a_port(node, "gone", str(path(gone)), result)
            assert address_of(result) in rules(node)
            before = in_use(node)
        assert eventually(lambda: in_use(node) == before - 1)
        assert collected(node) == {"no-interface": 1}
        assert address_of(result) not in rules(node)
        assert f"eth0 of container gone is freed with {address_of(result)}: its interface is gone" in (
            node.log.read_text()
        )
        text = fetch(node.folder / "run" / "status.sock", "/status")[1].decode()
        assert "Collected: 1 no-interface" in text
        metrics = fetch(node.folder / "run" / "status.sock", "/metrics")[1].decode()
        assert 'weft_attachments_collected_total{reason="no-interface"} 1.0' in metrics
        # The runtime's late DEL is as welcome as ever, and nobody else was touched.
        node.delete("gone", str(path(gone)))
        assert reaches(node.namespace, address_of(stays))
        node.delete("kept", str(path(kept)))


def test_of_two_sandboxes_of_a_pod_the_older_goes(node: Node) -> None:
    with pod() as old, pod() as new, pod() as other:
        first, stays = (
            node.add("old", str(path(old)), **uid("u1")),
            node.add("other", str(path(other)), **uid("u2")),
        )
        second = node.add("new", str(path(new)), **uid("u1"))
        before = in_use(node)
        assert eventually(lambda: in_use(node) == before - 1)
        assert collected(node) == {"replaced": 1}
        assert "eth0" not in ip("link", namespace=old)
        assert reaches(node.namespace, address_of(second))
        assert reaches(node.namespace, address_of(stays))
        assert not reaches(node.namespace, address_of(first))


def test_an_interface_that_was_renamed_still_has_its_address(node: Node) -> None:
    with pod() as renamed, pod() as gone:
        result = node.add("renamed", str(path(renamed)))
        node.add("gone", str(path(gone)))
        name = result["interfaces"][1]["name"]
        for command in (f"link set {name} down", f"link set {name} name other", "link set other up"):
            ip(*command.split(), namespace=node.namespace)
        ip("link", "delete", "eth0", namespace=gone)
        # The second is the measure for how long the first had to be collected.
        assert eventually(lambda: collected(node) == {"no-interface": 1})
        assert reaches(node.namespace, address_of(result))
        with ExitStack() as stack:
            more = [stack.enter_context(pod()) for _ in range(3)]
            assert address_of(result) not in {address_of(node.add(one, str(path(one)))) for one in more}


def test_a_pod_that_the_api_server_forgets_is_freed_though_its_namespace_stays(in_a_cluster: Cluster) -> None:
    (node,) = in_a_cluster.nodes
    created = {}
    for name in ("going", "staying"):
        spec = {"nodeName": "worker", "terminationGracePeriodSeconds": 0, "containers": []}
        made = in_a_cluster.storage.create(kind("Pod"), "default", {"metadata": {"name": name}, "spec": spec})
        created[name] = made["metadata"]["uid"]
    mirror = {"name": "static", "annotations": {"kubernetes.io/config.mirror": "0123"}}
    in_a_cluster.storage.create(kind("Pod"), "default", {"metadata": mirror, "spec": {"nodeName": "worker"}})
    with pod() as going, pod() as staying, pod() as static:
        node.add("going", str(path(going)), **uid(created["going"]))
        stays = node.add("staying", str(path(staying)), **uid(created["staying"]))
        stays_too = node.add("static", str(path(static)), **uid("0123"))
        journal = node.folder / "state" / "journal.db"
        assert eventually(lambda: graces(journal) == {"going": 0, "staying": 0, "static": None})
        # Nobody says that a pod is gone while the API server is away.
        in_a_cluster.server.stop()
        in_a_cluster.storage.delete(kind("Pod"), "default", "going")
        in_a_cluster.storage.delete(kind("Pod"), "default", "static")
        before = in_use(node)
        assert not eventually(lambda: in_use(node) != before, 3)
        in_a_cluster.restart()
        assert eventually(lambda: in_use(node) == before - 1, 20), node.log.read_text()[-3000:]
        assert collected(node) == {"pod-gone": 1}
        assert "eth0" not in ip("link", namespace=going)
        assert not eventually(lambda: in_use(node) != before - 1, 2)
        assert reaches(node.namespace, address_of(stays))
        assert reaches(node.namespace, address_of(stays_too))


def graces(journal: Path) -> dict[str, int | None]:
    import sqlite3

    with sqlite3.connect(f"file:{journal}?mode=ro", uri=True) as connection:
        return dict(connection.execute("SELECT container_id, termination_grace FROM attachments").fetchall())
