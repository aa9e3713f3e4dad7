"""What goes wrong on a node of a lab with containerd: it comes back with no address lost and none had twice."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest

from tests.lab.containerd.conftest import RUNTIME, Node, end_sandbox, inside_of, running, state_of, until
from tests.lab.test_lab import WEFT, Lab
from weft.lab.runtimes.containerd.cri import CriError
from weft.lab.runtimes.containerd.runtime import Containerd

UP = (*RUNTIME, "--pods-per-node", "1", "--store", "etcd")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running(*UP[2:]) as made:
        yield made


def test_a_node_that_reboots_has_its_pods_again_and_no_old_address(lab: Lab) -> None:
    """All processes and namespaces are gone; on disk containerd has its sandboxes, and the agent its journal."""
    node = Node(lab, "node01")
    lab.weft("run", "second", "--node", "node01")
    before = node.assert_all_agree()
    uids = {pod.name: pod.uid for pod in state_of(lab).pods}
    os.kill(node.first_process(), signal.SIGKILL)
    until(lambda: not node.processes("containerd"))
    for device in ("weave", "vxlan-6784"):  # the network's namespace is left: it stands for the machine
        subprocess.run(["ip", "-n", f"{lab.name}-node01", "link", "delete", device], check=True)
    assert "NotReady" in lab.weft("nodes")
    assert {pod["name"]: pod["status"] for pod in lab.pods()} == {
        "web-1": "Running", "web-2": "Failed", "second": "Failed",
    }  # fmt: skip
    assert "node01 is down" in lab.weft("exec", "web-2", "--", "true", status=1)
    said = lab.weft("up", *UP)
    assert all(f"pod {name} starts again" in said for name in ("web-2", "second"))
    log = (node.folder / "containerd.log").read_text()
    after = node.assert_all_agree()
    assert len(after) == len(before) == 2
    for sandbox in before:
        assert sandbox not in after
        # They were there after the boot, and their DEL was tried.
        assert f'StopPodSandbox for \\"{sandbox}\\" returns successfully' in log
        with node.cri() as cri, pytest.raises(CriError, match="not found"):
            cri.sandbox_status(sandbox)
    assert {pod.name: pod.uid for pod in state_of(lab).pods} == uids
    assert "6 of 6 pairs" in lab.weft("check")
    lab.weft("rm", "second")


def test_pods_go_on_while_containerd_is_dead_and_are_removed_by_the_next(lab: Lab) -> None:
    node = Node(lab, "node01")
    lab.weft("run", "victim", "--node", "node01")
    before = node.assert_all_agree()
    target = next(pod["ip"] for pod in lab.pods() if pod["name"] == "victim")
    (daemon,) = node.processes("containerd --config")
    ping = subprocess.Popen(
        [*WEFT, "lab", "exec", "--lab", lab.name, "web-1", "--",
         "ping", "-q", "-i", "0.02", "-c", "100", target],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    time.sleep(0.5)
    os.kill(daemon, signal.SIGKILL)
    said = ping.communicate(timeout=60)[0]
    assert " 0% packet loss" in said, said
    Containerd().await_node(state_of(lab), state_of(lab).node("node01"))
    assert daemon not in node.processes("containerd --config")
    assert node.assert_all_agree() == before
    assert "are up already" in lab.weft("up", *UP)
    lab.weft("rm", "victim")
    assert len(node.assert_all_agree()) == len(before) - 1


def test_an_agent_that_is_killed_while_sandboxes_start(lab: Lab) -> None:
    """A kubelet tries again what fails, under a new number; at the end each sandbox has one address."""
    node = Node(lab, "controlplane")
    before = node.assert_all_agree()

    def persistently(number: int) -> str:
        uid = uuid4()
        with node.cri() as cri:
            for attempt in range(30):
                wanted = node.sandbox(f"start-{number}", attempt)
                wanted["metadata"]["uid"] = str(uid)
                try:
                    return cri.run_sandbox(wanted)
                except CriError:
                    time.sleep(0.2)
        raise AssertionError(f"sandbox {number} does not start")

    with ThreadPoolExecutor(4) as threads:
        started = [threads.submit(persistently, number) for number in range(8)]
        for _ in range(3):
            time.sleep(0.3)
            killed = node.agent()
            os.kill(killed, signal.SIGKILL)
            until(lambda killed=killed: bool(set(node.processes("weft agent --node-name")) - {killed}))  # type: ignore[misc]
        sandboxes = {done.result() for done in started}
    after = node.assert_all_agree()
    assert after.keys() - before.keys() == sandboxes
    with node.cri() as cri:
        for sandbox in sandboxes:
            end_sandbox(cri, sandbox)
    assert node.assert_all_agree() == before


def test_what_containerd_leaves_behind_is_free_again(lab: Lab) -> None:
    """A DEL while the agent is away, one that never comes, and a namespace that is taken away underneath."""
    node = Node(lab, "controlplane")
    before = node.assert_all_agree()
    with node.cri() as cri:
        removed, skipped, robbed = (
            cri.run_sandbox(node.sandbox(name)) for name in ("removed", "skipped", "robbed")
        )
        spaces = {sandbox: cri.sandbox_status(sandbox).netns for sandbox in (skipped, robbed)}
        assert len(node.assert_all_agree()) == len(before) + 3
        with node.agent_away():
            end_sandbox(cri, removed)
            forget(node, skipped, spaces[skipped])
            assert removed in node.journal() and skipped in node.journal()
            assert node.deferred()
        until(lambda: node.journal().keys() == before.keys() | {robbed})
        # The namespace dies with its last process, and with it the pair; the runtime does not know yet.
        node.execute("umount", spaces[robbed])
        node.execute("ctr", "--namespace", "k8s.io", "tasks", "kill", "--signal", "SIGKILL", robbed)
        until(lambda: node.pairs() == len(before))
        end_sandbox(cri, robbed)
    assert node.assert_all_agree() == before


def forget(node: Node, sandbox: str, netns: str) -> None:
    """Take a sandbox away behind CRI's back, without any DEL."""
    ctr = ("ctr", "--namespace", "k8s.io")
    # CRI sees its process end, and may be the first to delete the task.
    node.execute(*ctr, "tasks", "delete", "--force", sandbox, check=False)
    node.execute(*ctr, "containers", "delete", sandbox)
    node.execute("umount", netns)
    node.execute("rm", netns)


def test_down_after_kills_leaves_nothing(lab: Lab) -> None:
    """Whatever of a node still runs: its first process is gone, its containerd has lost its keeper."""
    for name, command in (("node01", "containerd --config"), ("controlplane", "weft.lab.node")):
        for pid in Node(lab, name).processes(command):
            with contextlib.suppress(ProcessLookupError):  # the first one takes others with it
                os.kill(pid, signal.SIGKILL)
    assert any("containerd-shim" in words for words in inside_of(lab))
    lab.weft("down")
    assert lab.left() == inside_of(lab) == []
    up = subprocess.Popen(
        [*WEFT, "lab", "up", "--lab", lab.name, *RUNTIME, "--nodes", "1"], stdout=subprocess.PIPE, text=True
    )
    assert up.stdout is not None
    assert any("pods 0 of 2" in line for line in up.stdout)
    time.sleep(0.2)  # sandboxes are being made
    up.kill()
    up.communicate()
