"""Agents that give pods what they and their namespaces ask for by annotations, over a real API server."""

import json
import signal
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from tests.agent.test_agent import address_of, eventually, reaches
from tests.agent.test_in_a_cluster import ADDRESS, Cluster, apply_manifest, kind, made, serve
from tests.namespaces import ip, path
from tests.nodes import CONFIGURATION, Node, cluster, pod
from tests.store.engines import kubeconfig
from weft.agent.requests.annotations import ADDRESSES, POOLS
from weft.cni.capabilities import POD_ANNOTATIONS
from weft.lab.api.storage import Storage

__all__ = ["made"]

#: What containerd tells of every pod.
PLAIN = {"kubernetes.io/config.source": "api"}


@pytest.fixture
def lone(tmp_path: Path) -> Iterator[Cluster]:
    """One node whose store is a file, and which asks an API server with the manifest's rights."""
    storage = Storage()
    apply_manifest(storage)
    access = tmp_path / "kubeconfig"
    access.write_text(kubeconfig(f"http://{ADDRESS[0]}:{ADDRESS[1]}", token="kube-system/weave-net"))  # noqa: S106
    options = ("--range", "10.244.0.0/16", "--request-api", f"kubernetes://{access}")
    with cluster(tmp_path, ("controlplane",), *options) as nodes:
        result = Cluster(nodes, storage, serve(nodes[0].wire, storage))
        try:
            nodes[0].start()
            yield result
        finally:
            result.server.stop()


def called(name: str, namespace: str = "default", uid: str = "") -> dict[str, str]:
    """CNI_ARGS of a pod."""
    return {"CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_UID={uid}"}


def call(node: Node, name: str, netns: str, annotations: dict[str, str] | None, namespace: str = "default") -> Any:
    """ADD as a runtime that tells annotations, or one that does not: status and answer."""
    told = {} if annotations is None else {"runtimeConfig": {POD_ANNOTATIONS: annotations}}
    return node.call(
        "ADD", name, str(path(netns)), configuration={**CONFIGURATION, **told}, environment=called(name, namespace)
    )


def refused(
    node: Node, name: str, netns: str, annotations: dict[str, str] | None, namespace: str = "default"
) -> Any:
    """The error of an ADD, which leaves nothing behind."""
    before = used(node)
    status, error = call(node, name, netns, annotations, namespace)
    assert status == 1, error
    assert [link["ifname"] for link in json.loads(ip("-j", "link", namespace=netns))] == ["lo"]
    assert used(node) <= before
    return error


def used(node: Node) -> int:
    return int(node.report()["ipam"]["inUse"])


def annotate(made: Cluster, name: str, annotations: dict[str, str]) -> None:
    made.storage.change(
        kind("Namespace"),
        "",
        name,
        lambda item: item | {"metadata": item["metadata"] | {"annotations": annotations}},
    )


def make_pod(made: Cluster, name: str, annotations: dict[str, str]) -> str:
    """A pod's object; its UID."""
    item = {
        "metadata": {"name": name, "namespace": "default", "annotations": annotations},
        "spec": {"nodeName": "controlplane", "containers": [{"name": "a", "image": "a"}]},
    }
    return str(made.storage.create(kind("Pod"), "default", item)["metadata"]["uid"])


def attached(node: Node, annotations: dict[str, str] | None = PLAIN, namespace: str = "default") -> str:
    """The address of a pod that comes and goes, or the error's code."""
    with pod() as sandbox:
        status, answer = call(node, "passing", sandbox, annotations, namespace)
        node.delete("passing")
        return address_of(answer) if status == 0 else str(answer["code"])


def within(network: str) -> Callable[[str], bool]:
    return lambda address: "." in address and ip_address(address) in ip_network(network)


def test_a_pod_has_the_address_that_its_annotation_names(made: Cluster) -> None:
    first, second = made.nodes
    with pod() as a, pod() as b, pod() as c:
        fixed = {**PLAIN, ADDRESSES: '["10.244.0.40"]'}
        status, result = call(first, "a", a, fixed)
        assert (status, address_of(result)) == (0, "10.244.0.40")
        # The block is nobody's: it is claimed, its way is told to the other node.
        status, result = call(second, "b", b, {ADDRESSES: '["10.244.77.9"]'})
        assert (status, address_of(result)) == (0, "10.244.77.9")
        assert made.owners()["weft-blocks-10.244.77.0-26"] == "node01"
        assert eventually(lambda: reaches(a, "10.244.77.9"))
        # Whose it is, by the pod's name; whose block; what no pod can have.
        error = refused(first, "c", c, fixed)
        assert error["code"] == 11
        assert (
            f"pod default/c: annotation {ADDRESSES}: address 10.244.0.40 is taken: it belongs to pod default/a"
            in (error["msg"])
        )
        error = refused(first, "c", c, {ADDRESSES: '["10.244.77.10"]'})
        assert error["code"] == 11
        assert "is in block 10.244.77.0/26 of node01, not of this node" in error["msg"]
        for wrong, said in (
            ('["10.99.0.1"]', "not in the range 10.244.0.0/16"),
            ('["10.244.0.1"]', "is this node's bridge's"),
            ("10.244.0.9", "give a JSON list"),
        ):
            error = refused(first, "c", c, {ADDRESSES: wrong})
            assert error["code"] == 7
            assert f"pod default/c: annotation {ADDRESSES}" in error["msg"]
            assert said in error["msg"]
        # The next sandbox of the pod has it again, although the last one's interface is just being deleted.
        first.delete("a", str(path(a)))
        status, result = call(first, "c", c, fixed)
        assert (status, address_of(result)) == (0, "10.244.0.40")
        # It outlives the agent.
        assert first.kill(signal.SIGKILL) < 0
        first.start()
        with pod() as d:
            assert "it belongs to pod default/c" in refused(first, "d", d, fixed)["msg"]


def test_pools_of_a_pod_count_before_those_of_its_namespace(lone: Cluster) -> None:
    (node,) = lone.nodes
    assert within("10.244.0.0/26")(attached(node))
    annotate(lone, "default", {POOLS[4]: '["10.244.50.0/24"]'})
    assert eventually(lambda: within("10.244.50.0/24")(attached(node)))
    assert within("10.244.0.0/26")(attached(node, namespace="kube-system"))
    assert within("10.244.51.8/29")(attached(node, {POOLS[4]: '["10.244.51.8/29"]'}))
    assert attached(node, {POOLS[4]: '["10.244.51.8/29"]', ADDRESSES: '["10.244.0.44"]'}) == "10.244.0.44"
    # As with Calico, an empty list of the pod's is one.
    assert not within("10.244.50.0/24")(attached(node, {POOLS[4]: "[]"}))
    with pod() as a:
        assert "no IPPools with names here" in refused(node, "a", a, {POOLS[4]: '["default-ipv4-ippool"]'})["msg"]
        annotate(lone, "default", {POOLS[4]: '["10.99.0.0/16"]'})
        assert eventually(lambda: attached(node) == "7")
        assert f"namespace default: annotation {POOLS[4]}" in refused(node, "a", a, PLAIN)["msg"]
    # Its own pods do not wait for a new namespace to be told.
    lone.storage.create(
        kind("Namespace"), "", {"metadata": {"name": "new", "annotations": {POOLS[4]: '["10.244.60.0/24"]'}}}
    )
    assert within("10.244.60.0/24")(attached(node, namespace="new"))


def test_a_runtime_that_tells_no_annotations_has_the_api_asked(lone: Cluster) -> None:
    (node,) = lone.nodes
    uid = make_pod(lone, "a", {ADDRESSES: '["10.244.0.40"]'})
    with pod() as a, pod() as b:
        status, result = call(node, "a", a, None)
        assert (status, address_of(result)) == (0, "10.244.0.40")
        node.delete("a", str(path(a)))
        # One that had the name before, or has it since, is another pod.
        result = node.add("b", str(path(b)), environment=called("a", uid="another"))
        assert address_of(result) != "10.244.0.40"
        node.delete("b", str(path(b)))
        result = node.add("b", str(path(b)), environment=called("a", uid=uid))
        assert address_of(result) == "10.244.0.40"


def test_while_the_api_is_away_nobody_gets_a_wrong_address(lone: Cluster) -> None:
    (node,) = lone.nodes
    lone.server.stop()
    # Nobody has asked for an address: the server is not missed.
    for annotations, namespace in ((None, "default"), (PLAIN, "unheard-of")):
        assert within("10.244.0.0/26")(attached(node, annotations, namespace))
    assert "nobody here asks for one" in node.log.read_text()
    lone.restart()
    annotate(lone, "kube-public", {POOLS[4]: '["10.244.50.0/24"]'})
    assert eventually(lambda: within("10.244.50.0/24")(attached(node, namespace="kube-public")))
    lone.server.stop()
    assert node.kill(signal.SIGTERM) == 0
    node.start()
    # What the runtime tells, and what was known of namespaces, is enough.
    assert within("10.244.50.0/24")(attached(node, namespace="kube-public"))
    assert within("10.244.0.0/26")(attached(node))
    assert attached(node, {ADDRESSES: '["10.244.0.40"]'}) == "10.244.0.40"
    with pod() as a:
        error = refused(node, "a", a, PLAIN, "unheard-of")
        assert (error["code"], "namespace unheard-of is not known yet" in error["msg"]) == (11, True)
        error = refused(node, "a", a, None)
        assert error["code"] == 11
        assert "pod default/a: its annotations cannot be read" in error["msg"]
        assert "it may ask for an address, as pod default/passing does" in error["msg"]
    assert node.kill(signal.SIGTERM) == 0
    node.options = (*node.options, "--request-api", "off")
    node.start()
    assert within("10.244.0.0/26")(attached(node, {ADDRESSES: '["10.244.9.9"]'}, "unheard-of"))
