"""Real agents whose cluster changes under them: peers removed, a store that is away."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.agent.test_agent import address_of, eventually, reaches
from tests.namespaces import ip, path, run
from tests.nodes import Node, cluster, pod
from weft.agent.cluster import Cluster
from weft.store import open_store


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[Node]]:
    with cluster(tmp_path, ("controlplane", "node01"), "--range", "10.244.0.0/16") as made:
        for node in made:
            node.start()
        assert all(eventually(lambda node=node: node.report()["peers"]) for node in made)
        yield made


def rmpeer(node: Node, *words: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "weft", "rmpeer", "--run-dir", str(node.folder / "run"), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return done.returncode, done.stdout + done.stderr


def in_store(node: Node, work: Callable[[Cluster], None]) -> None:
    store = open_store(f"sqlite://{node.store}")
    try:
        work(Cluster(store))
    finally:
        store.close()


def ways(node: Node) -> list[str]:
    shown = json.loads(run("ip", "-j", "route", "show", "dev", "vxlan-6784", namespace=node.namespace))
    return [route["dst"] for route in shown]


def test_rmpeer_and_the_removed_node_comes_back(nodes: list[Node]) -> None:
    first, second = nodes
    with pod() as a, pod() as b:
        near, far = first.add("a", str(path(a))), second.add("b", str(path(b)))
        assert eventually(lambda: len(second.report()["ipam"]["blocks"]) == 2)
        second.kill()
        assert rmpeer(first, "controlplane")[0] == 1
        status, said = rmpeer(first, "nobody")
        assert (status, said) == (1, "weft rmpeer: no peer 'nobody'; there are: node01\n")
        assert rmpeer(first, "node01") == (0, "128 IPs taken over from node01\n")
        assert eventually(lambda: not ways(first))
        # Nobody has taken its blocks: it keeps them, and its pods.
        second.start()
        assert eventually(lambda: reaches(a, address_of(far)))
        assert eventually(lambda: reaches(b, address_of(near)))
        # Removed while it runs, it signs in again.
        assert rmpeer(first, "--store", f"sqlite://{first.store}", "node01") == (
            0,
            "128 IPs taken over from node01\n",
        )
        assert eventually(lambda: len(ways(first)) == 2)
        assert eventually(lambda: reaches(b, address_of(near)))


def test_a_pod_whose_address_is_anothers_by_now_is_cut_off(nodes: list[Node]) -> None:
    first, second = nodes
    with pod() as b, pod() as c:
        far = second.add("b", str(path(b)))
        host_interface = far["interfaces"][1]["name"]

        def remove_and_claim(store: Cluster) -> None:
            # Between the end of the claim and the next one there is no time for the node to answer.
            second.kill()
            blocks = store.view().blocks_of("node01")
            store.remove_node("node01")
            for block in blocks:
                assert store.claim(block, "other")

        in_store(first, remove_and_claim)
        second.start()
        assert host_interface not in ip("link", namespace=second.namespace)
        assert "container b is cut off" in second.log.read_text()
        gateway = second.report()["node"]["gateway"]
        assert not gateway.startswith("10.244.192.")
        assert f"inet {gateway}/16" in ip("address", "show", "weave", namespace=second.namespace)
        assert address_of(second.add("c", str(path(c)))) != address_of(far)


def test_an_agent_that_loses_a_block_while_it_runs_starts_anew_in_its_place(nodes: list[Node]) -> None:
    first, second = nodes
    process = second.agent
    with pod() as b:
        second.add("b", str(path(b)))

        def steal(store: Cluster) -> None:
            for block in store.view().blocks_of("node01"):
                key = f"blocks/{block.network_address}-{block.prefixlen}"
                entry = store.store.get(key)
                assert entry is not None
                store.store.replace(key, b'{"owner":"other"}', entry.revision)

        in_store(first, steal)
        assert eventually(lambda: second.status() == 200 and "cut off" in second.log.read_text())
        assert process is second.agent
        assert process is not None
        assert process.poll() is None
        with pod() as c:
            assert eventually(lambda: second.call("ADD", "c", str(path(c)))[0] == 0)


def test_agents_start_and_serve_while_the_store_is_away(nodes: list[Node]) -> None:
    first, second = nodes
    with pod() as a, pod() as b, pod() as c:
        near, far = first.add("a", str(path(a))), second.add("b", str(path(b)))
        # The block that it keeps ahead comes a moment later.
        assert eventually(lambda: len(ways(first)) == 2)
        before = ways(first)
        for node in nodes:
            node.kill()
        aside = first.store.with_name("aside")
        aside.mkdir()
        for file in first.store.parent.glob("store.db*"):
            shutil.move(file, aside)
        first.store.mkdir()
        first.start()
        assert "the store is away" in first.log.read_text()
        assert ways(first) == before
        assert reaches(a, address_of(far))
        late = first.add("c", str(path(c)))
        assert reaches(c, address_of(far))
        assert address_of(late) != address_of(near)
        assert first.report()["ready"]
        first.store.rmdir()
        for file in aside.iterdir():
            shutil.move(file, first.store.parent)
        second.start()
        assert eventually(lambda: "the store is back" in first.log.read_text())
        assert ways(first) == before
        assert reaches(b, address_of(late))
        assert rmpeer(first, "nobody")[1].endswith("there are: node01\n")
