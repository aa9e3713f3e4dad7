"""What is not right in a cluster, or was edited by hand: named in one line; others' data stay, agents go on."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.agent.storm.network import RouteLog, sandboxes
from tests.agent.test_agent import address_of, eventually, reaches, refusal_of
from tests.agent.test_in_a_cluster import ADDRESS, Cluster, kind, serve_with_rights
from tests.agent.test_membership import rmpeer
from tests.namespaces import path
from tests.nodes import beginner, pod
from tests.store.engines import kubeconfig
from weft.store.kubernetes import NODE_ANNOTATION

RANGE = ("--range", "10.244.0.0/25")


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Cluster]:
    with serve_with_rights(tmp_path, ("controlplane", "node01"), *RANGE) as result:
        for node in result.nodes:
            assert eventually(lambda node=node: len(node.report()["peers"][0]["blocks"]) == 2)
        yield result


def annotation(made: Cluster, name: str) -> str | None:
    found: str | None = (made.node(name)["metadata"].get("annotations") or {}).get(NODE_ANNOTATION)
    return found


def annotate(made: Cluster, name: str, text: str | None) -> None:
    """As ``kubectl annotate node`` does; None takes the annotation away."""

    def edit(item: dict[str, Any]) -> dict[str, Any]:
        kept = {key: value for key, value in item["metadata"]["annotations"].items() if key != NODE_ANNOTATION}
        new = kept if text is None else kept | {NODE_ANNOTATION: text}
        return item | {"metadata": item["metadata"] | {"annotations": new}}

    made.storage.change(kind("Node"), "", name, edit)


def test_what_is_edited_by_hand_hinders_nobody(made: Cluster) -> None:
    for text in ("{half", '{"address":"nowhere"}', None):
        annotations_are_written_anew(made, text)
    a_foreign_lease_is_left_out(made)
    a_node_without_its_annotation_is_not_removed(made)


def annotations_are_written_anew(made: Cluster, text: str | None) -> None:
    first, second = made.nodes
    right = annotation(made, "node01")
    log = RouteLog(first)
    try:
        with pod() as a, pod() as b:
            first.add("a", str(path(a)))
            far = second.add("b", str(path(b)))
            annotate(made, "node01", text)
            assert eventually(lambda: annotation(made, "node01") == right)
            assert eventually(lambda: not first.report()["problems"])
            assert reaches(a, address_of(far))
            first.delete("a", str(path(a)))
            second.delete("b", str(path(b)))
        assert "key 'nodes/node01' in the store is not ours" in first.log.read_text()
        assert not log.withdrawn()
    finally:
        log.close()


def a_foreign_lease_is_left_out(made: Cluster) -> None:
    """One that has the name of the block that the node takes next."""
    first = made.nodes[0]
    last = max(int(block.split("/")[0].split(".")[3]) for block in first.report()["ipam"]["blocks"])
    name = f"weft-blocks-10.244.0.{last + 8}-29"
    foreign = made.storage.create(kind("Lease"), "kube-system", {"metadata": {"name": name}, "spec": {}})
    with sandboxes(20) as names:
        for number, sandbox in enumerate(names):
            first.add(f"c{number}", str(path(sandbox)))
    said = f"lease {name} in namespace kube-system is not Weft's 'blocks/10.244.0.{last + 8}-29': delete it"
    assert said in first.log.read_text()
    assert made.storage.delete(kind("Lease"), "kube-system", name) == foreign


def a_node_without_its_annotation_is_not_removed(made: Cluster) -> None:
    """Although its agent is not there, and another's has not seen it before."""
    first, second = made.nodes
    second.kill()
    owned = {name for name, owner in made.owners().items() if owner == "node01"}
    annotate(made, "node01", None)
    first.kill()
    first.start()
    assert not eventually(lambda: not owned <= made.owners().keys(), 5)
    # An operator who says so removes it all the same.
    assert rmpeer(first, "node01") == (0, "16 IPs taken over from node01\n")
    assert "node01" not in made.owners().values()
    second.start()
    assert json.loads(annotation(made, "node01") or "")["address"] == "172.25.1.3"


#: Further words for the agent, its token, the exit status, what is said. Who may be let in later has no status: it
#: waits.
MISTAKES: tuple[tuple[tuple[str, ...], str, int | None, str], ...] = (
    (("--node-name", "nowhere"), "kube-system/weave-net", 1, "there is no Node object 'nowhere'"),
    ((), "wrong", None, "API server refuses (401): Unauthorized; apply the ServiceAccount"),
    ((), "kube-system/other", None, "API server refuses (403)"),
    (("--range", "10.99.0.0/16"), "kube-system/weave-net", 2, "10.244.0.0/25"),
    (("--store", "kubernetes:///none"), "", 2, "kubernetes:///none: /none cannot be used"),
    (("--store", "kubernetes://?colour=blue"), "", 2, "unknown option 'colour'"),
)


def test_mistakes_are_named_in_one_line_and_touch_nothing(made: Cluster, tmp_path: Path) -> None:
    first, second = made.nodes
    before = made.owners()
    with ExitStack() as stack:
        beginners = []
        for number, (options, token, _, _) in enumerate(MISTAKES):
            access = tmp_path / f"{number}"
            access.write_text(kubeconfig(f"http://{ADDRESS[0]}:{ADDRESS[1]}", token=token))
            words = (*RANGE, "--store", f"kubernetes://{access}", *options)
            beginners.append(stack.enter_context(beginner(second, f"{number}", *words)))
        for one, (_, _, status, said) in zip(beginners, MISTAKES, strict=True):
            refusal_of(one, status, said)
    assert made.owners() == before
    # While one runs: its rights are taken away, and given back.
    binding = made.storage.delete(kind("RoleBinding"), "kube-system", "weave-net")
    made.server.faults.cuts += 1
    assert eventually(lambda: "apply the ServiceAccount, ClusterRole and Role" in first.log.read_text(), 20)
    with pod() as a:
        first.add("a", str(path(a)))
    made.storage.create(kind("RoleBinding"), "kube-system", binding | {"metadata": {"name": "weave-net"}})
    assert eventually(lambda: "the store is back" in first.log.read_text(), 60)
