"""What a runtime hears that asks by STATUS: whether an ADD would be served now, and how much is wrong if not."""

import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.agent.places import page, without
from tests.agent.storm.network import sandboxes
from tests.agent.test_agent import eventually
from tests.agent.test_in_a_cluster import kind, new_node, serve_with_rights
from tests.members import Member
from tests.namespaces import path
from tests.nodes import CONFIGURATION, Node, cluster, pod
from tests.store.engines import kubernetes
from weft.cli.install import install
from weft.cni import ErrorCode
from weft.ipam.ranges import PodRange
from weft.store import open_store

NEWEST = {**CONFIGURATION, "cniVersion": "1.1.0"}
NOT_AVAILABLE, LIMITED = int(ErrorCode.NOT_AVAILABLE), int(ErrorCode.LIMITED_CONNECTIVITY)


def status(node: Node, environment: Mapping[str, str] | None = None, **keys: Any) -> tuple[int, str]:
    """The code of the answer, 0 for one that all is well, and what it says."""
    code, answer = node.call("STATUS", "", "", NEWEST | keys, environment)
    if code == 0:
        assert answer is None
        return 0, ""
    assert (code, answer["cniVersion"]) == (1, "1.1.0")
    return answer["code"], answer["msg"]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with cluster(tmp_path, ("worker",), "--range", "10.244.0.0/28") as (made,):
        yield made


def test_the_codes_are_the_specifications() -> None:
    assert (NOT_AVAILABLE, LIMITED) == (50, 51)


def test_it_is_told_at_once_whether_there_is_an_agent(node: Node) -> None:
    # Not the launcher's own patience decides: an ADD waits for an agent, STATUS does not.
    assert status(node) == (50, f"no agent answers at {node.socket}: No such file or directory")
    node.start()
    assert status(node) == (0, "")
    assert node.kill(signal.SIGTERM) == 0
    assert status(node) == (50, f"no agent answers at {node.socket}: No such file or directory")
    node.start()
    assert status(node) == (0, "")
    node.kill()
    assert node.socket.exists()
    assert status(node) == (50, f"no agent answers at {node.socket}: Connection refused")


def test_an_agent_that_waits_for_its_api_server_is_not_available(tmp_path: Path) -> None:
    with serve_with_rights(tmp_path, (), late=("controlplane",)) as made:
        (node,) = made.nodes
        made.server.stop()
        node.spawn()
        assert eventually(lambda: page(node)[0] == 503, 30)
        assert status(node)[0] == NOT_AVAILABLE
        made.restart()
        assert eventually(lambda: status(node)[0] == 0, 60), node.log.read_text()


def test_without_an_address_left_it_is_not_available(node: Node) -> None:
    """Of sixteen addresses two are ends of the range and one is the bridge's."""
    node.start()
    assert eventually(lambda: len(node.report()["ipam"]["blocks"]) == 2)
    with sandboxes(13) as names:
        for number, name in enumerate(names):
            assert status(node) == (0, "")
            node.add(f"c{number}", str(path(name)))
        code, said = status(node)
        assert code == NOT_AVAILABLE
        assert said.endswith("in use, and no further block can be had: every block of 10.244.0.0/28 has an owner")
        # As an ADD finds.
        with pod() as late:
            assert node.call("ADD", "late", str(path(late)))[1]["code"] == ErrorCode.TRY_AGAIN_LATER
        # The agent itself is as ready as ever: nothing of it has to be mended.
        assert node.status() == 200
        node.delete("c0", str(path(names[0])))
        assert eventually(lambda: status(node)[0] == 0)


def test_an_address_that_a_further_block_would_bring_counts(tmp_path: Path) -> None:
    with kubernetes(tmp_path) as engine:
        store = open_store(engine.url)
        members = [Member(tmp_path, store, name, PodRange.of("10.244.0.0/28")) for name in ("a", "b")]
        first, second = members
        first.enter()
        assert first.addresses.lacking() == ""
        while sum(count.free for count in first.addresses.counts()):
            first.add(f"c{first.addresses.counts()[0].free}")
        # It has one of the two blocks.
        assert first.addresses.lacking() == ""
        second.enter()
        first.hear()
        assert "every block of 10.244.0.0/28 has an owner" in first.addresses.lacking()
        for member in members:
            member.stop()
        store.close()


def test_a_node_that_was_removed_is_not_available_and_its_pods_may_be_cut_off(tmp_path: Path) -> None:
    with serve_with_rights(tmp_path, ("controlplane", "node01")) as made, pod() as a:
        node = made.nodes[1]
        node.add("a", str(path(a)))
        made.storage.delete(kind("Node"), "", "node01")
        assert eventually(lambda: status(node)[0] == LIMITED, 60), node.log.read_text()
        assert "this node was removed from the cluster" in status(node)[1]
        new_node(made.storage, "node01")
        assert eventually(lambda: node.status() == 200 and status(node)[0] == 0, 60), node.log.read_text()


def test_the_ipam_plugin_that_gives_the_addresses_is_asked(node: Node, tmp_path: Path) -> None:
    node.start()
    ipam = {
        "type": "host-local",
        "ranges": [[{"subnet": "10.244.0.8/30", "gateway": "10.244.0.9"}]],
        "dataDir": str(tmp_path / "host-local"),
    }
    install(tmp_path / "bin", without_agent=True)
    environment = {"CNI_PATH": str(tmp_path / "bin")}
    assert status(node, environment, ipam=ipam) == (0, "")
    with pod() as a:
        node.add("a", str(path(a)), configuration=NEWEST | {"ipam": ipam}, environment=environment)
        code, said = status(node, environment, ipam=ipam)
        assert code == NOT_AVAILABLE, said
        # The node's own are another matter.
        assert status(node) == (0, "")


@contextmanager
def controller(node: Node, *source: str) -> Iterator[Path]:
    """A policy controller beside a node's agent; the file that it logs to."""
    log = node.folder / "npc.log"
    with log.open("ab") as file:
        process = subprocess.Popen(
            ["nsenter", f"--net={path(node.namespace)}", "--", sys.executable, "-m", "weft", "npc",
             "--node-name", node.name, "--state-dir", str(node.folder / "npc"),
             "--run-dir", str(node.folder / "run"), *source],
            stdout=file, stderr=file,
        )  # fmt: skip
    try:
        yield log
    finally:
        process.kill()
        process.wait(20)


def test_without_the_policy_controller_that_is_to_be_there_it_is_not_available(node: Node, tmp_path: Path) -> None:
    node.options += ("--expect-npc", "true")
    node.start()
    socket = node.folder / "run" / "policy.sock"
    nobody = f"no controller answers at {socket}: No such file or directory"
    assert status(node) == (NOT_AVAILABLE, f"no policy can be put in force: {nobody}")
    # No pod can be attached, so the node is not ready; but not for each controller that starts again.
    assert eventually(lambda: node.status() == 503, 30)
    assert f"Trouble: no pod can be attached: {nobody}" in page(node)[1]
    (tmp_path / "manifests").mkdir()
    with controller(node, "--policy-dir", str(tmp_path / "manifests")):
        assert eventually(lambda: status(node) == (0, ""), 30)
        assert eventually(lambda: node.status() == 200, 30)
    assert status(node)[0] == NOT_AVAILABLE


def test_a_policy_controller_without_a_right_says_which_and_admits_nobody(tmp_path: Path) -> None:
    refusal = 'cannot list resource "networkpolicies"'
    options = ("--expect-npc", "true")
    with serve_with_rights(tmp_path, ("controlplane",), *options) as made, pod() as a:
        (node,) = made.nodes
        api = node.options[node.options.index("--store") + 1]
        with without(made, "networkpolicies", "list"), controller(node, "--policy-api", api) as log:
            assert eventually(lambda: refusal in status(node)[1], 30), status(node)
            assert status(node)[0] == NOT_AVAILABLE
            assert eventually(lambda: node.status() == 503 and refusal in page(node)[1], 30)
            asked = len(made.server.requests)
            assert eventually(lambda: len(made.server.requests) > asked + 5, 60)
            (line,) = [line for line in log.read_text().splitlines() if refusal in line]
            assert "apply the ServiceAccount, ClusterRole and Role of the manifest" in line
        with controller(node, "--policy-api", api):
            assert eventually(lambda: status(node) == (0, ""), 60)
            node.add("a", str(path(a)))
            assert eventually(lambda: node.status() == 200, 30)
