"""Agents whose store is an API server, with the rights of the manifest and no more."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.agent.test_agent import address_of, eventually, reaches
from tests.namespaces import inside, ip, path
from tests.nodes import Node, cluster, pod
from tests.store.engines import kubeconfig
from weft.lab.api import ApiServer
from weft.lab.api.kinds import KINDS, Kind
from weft.lab.api.rbac import RoleBasedAccess
from weft.lab.api.storage import Selection, Storage
from weft.store.kubernetes import NODE_ANNOTATION

ADDRESS = ("172.25.1.1", 6443)
MANIFEST = Path(__file__).parents[2] / "deploy" / "weave-daemonset-k8s.yaml"
NAMES = ("controlplane", "node01")


def kind(name: str) -> Kind:
    return next(item for item in KINDS if item.name == name)


@dataclass
class Cluster:
    """Nodes and their API server, which can go away and come back."""

    nodes: list[Node]
    storage: Storage
    server: ApiServer

    def restart(self) -> None:
        self.server = serve(self.nodes[0].wire, self.storage)

    def owners(self) -> dict[str, str]:
        leases = self.storage.list(Selection(kind("Lease"), "kube-system"))[0]
        return {
            item["metadata"]["name"]: item["spec"]["holderIdentity"]
            for item in leases
            if item["metadata"]["name"].startswith("weft-blocks-")
        }

    def node(self, name: str) -> dict[str, Any]:
        return self.storage.get(kind("Node"), "", name)


def serve(wire: str, storage: Storage) -> ApiServer:
    """The socket is the wire's, whoever accepts on it."""
    server = inside(wire, lambda: ApiServer(ADDRESS, storage=storage, authorize=RoleBasedAccess(storage)))
    server.start()
    return server


def new_node(storage: Storage, name: str) -> None:
    storage.create(kind("Node"), "", {"metadata": {"name": name}, "spec": {}, "status": {"conditions": []}})


def apply_manifest(storage: Storage) -> None:
    """What ``kubectl apply`` makes of it: the agents' rights."""
    for document in yaml.safe_load_all(MANIFEST.read_text()):
        item = kind(document["kind"])
        storage.create(item, "kube-system" if item.namespaced else "", document)


@contextmanager
def serve_with_rights(
    folder: Path, names: tuple[str, ...], *options: str, late: tuple[str, ...] = ()
) -> Iterator[Cluster]:
    """Nodes that are up but for the ``late`` ones, and an API server that has the manifest."""
    storage = Storage()
    apply_manifest(storage)
    for name in (*names, *late):
        new_node(storage, name)
    access = folder / "kubeconfig"
    access.write_text(kubeconfig(f"http://{ADDRESS[0]}:{ADDRESS[1]}", token="kube-system/weave-net"))  # noqa: S106
    with cluster(
        folder, (*names, *late), "--range", "10.244.0.0/16", "--store", f"kubernetes://{access}", *options
    ) as nodes:
        result = Cluster(nodes, storage, serve(nodes[0].wire, storage))
        try:
            for node in nodes[: len(names)]:
                node.start()
            yield result
        finally:
            result.server.stop()


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Cluster]:
    with serve_with_rights(tmp_path, NAMES) as result:
        for node in result.nodes:
            assert eventually(lambda node=node: [peer for peer in node.report()["peers"] if peer["blocks"]])
        yield result


def test_a_network_over_the_api_server(made: Cluster) -> None:
    first, second = made.nodes
    with pod() as a, pod() as b:
        near, far = first.add("a", str(path(a))), second.add("b", str(path(b)))
        assert (address_of(near), address_of(far)) == ("10.244.0.2", "10.244.192.1")
        assert reaches(a, address_of(far))
        assert reaches(b, address_of(near))
    assert set(made.owners().values()) == set(NAMES)
    assert json.loads(made.node("node01")["metadata"]["annotations"][NODE_ANNOTATION])["gateway"] == "10.244.192.0"
    assert eventually(lambda: made.node("node01")["status"]["conditions"])
    assert [
        (one["type"], one["status"], one["reason"]) for one in made.node("node01")["status"]["conditions"]
    ] == [
        ("NetworkUnavailable", "False", "WeaveIsUp"),
        ("CNIConfigurationShadowed", "False", "WeaveIsFirst"),
    ]


def test_without_the_api_server_pods_come_and_go_and_agents_start(made: Cluster) -> None:
    first, second = made.nodes
    with pod() as a, pod() as b, pod() as c:
        near, far = first.add("a", str(path(a))), second.add("b", str(path(b)))
        made.server.stop()
        late = first.add("c", str(path(c)))
        assert reaches(c, address_of(far))
        assert first.kill(signal.SIGTERM) == 0
        assert reaches(a, address_of(far))
        first.start()
        assert reaches(c, address_of(far))
        assert len(ip("-o", "route", "show", "dev", "vxlan-6784", namespace=first.namespace).splitlines()) >= 1
        first.delete("c", str(path(c)))
        made.restart()
        assert address_of(late) != address_of(near)
        # What changes now is heard of again.
        new_node(made.storage, "node02")
        made.storage.delete(kind("Node"), "", "node01")
        assert eventually(lambda: not first.report()["peers"], 30), first.log.read_text()[-3000:]


def test_the_blocks_of_a_node_whose_object_is_gone_come_back(made: Cluster) -> None:
    first, second = made.nodes
    second.kill()
    before = made.owners()
    assert "node01" in before.values()
    made.storage.delete(kind("Node"), "", "node01")
    assert eventually(lambda: "node01" not in made.owners().values(), 30), first.log.read_text()[-3000:]
    assert not first.report()["peers"]
    # It comes back as a new node: what it thinks it owns is not its own any more.
    new_node(made.storage, "node01")
    second.start()
    with pod() as a, pod() as b:
        near, far = first.add("a", str(path(a))), second.add("b", str(path(b)))
        assert eventually(lambda: reaches(a, address_of(far)))
        assert address_of(near) != address_of(far)


def test_a_node_that_is_not_ready_keeps_its_blocks(made: Cluster) -> None:
    first, second = made.nodes
    second.kill()
    conditions = [{"type": "Ready", "status": "Unknown"}]
    made.storage.change(
        kind("Node"), "", "node01", lambda item: item | {"status": {"conditions": conditions}}, status=True
    )
    assert not eventually(lambda: "node01" not in made.owners().values(), 3)
    assert [peer["name"] for peer in first.report()["peers"]] == ["node01"]


def test_without_its_rights_an_agent_says_what_to_apply(made: Cluster) -> None:
    made.storage.delete(kind("RoleBinding"), "kube-system", "weave-net")
    node = made.nodes[1]
    node.kill()
    for name in ("state/view.json", "state/journal.db"):
        (node.folder / name).unlink(missing_ok=True)
    agent = node.spawn()
    assert eventually(lambda: "ClusterRole and Role of the manifest" in node.log.read_text(), 20), (
        node.log.read_text()
    )
    assert node.status() != 200
    agent.kill()
