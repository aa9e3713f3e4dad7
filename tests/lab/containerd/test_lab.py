"""What a lab does, done with containerd: CRI's answers, commands, churn, and one without an address left over."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.lab.containerd.conftest import RUNTIME, Node, end_sandbox, running, state_of
from tests.lab.test_cluster import DENY
from tests.lab.test_lab import WEFT, Lab


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running("--pods-per-node", "1", "--range", "10.32.0.0/12,fd00:10:32::/48") as made:
        yield made


def test_a_sandbox_has_its_addresses_and_every_pod_reaches_every_pod(lab: Lab, tmp_path: Path) -> None:
    listed = {pod["name"]: pod for pod in lab.pods()}
    assert {name: (pod["status"], pod["node"]) for name, pod in listed.items()} == {
        "web-1": ("Running", "controlplane"),
        "web-2": ("Running", "node01"),
    }
    for pod in state_of(lab).pods:
        node = Node(lab, pod.node)
        with node.cri() as cri:
            assert cri.version()[0] == "containerd"
            assert cri.conditions() == {"RuntimeReady": "", "NetworkReady": ""}
            (sandbox,) = cri.sandboxes()
            status = cri.sandbox_status(sandbox.id)
        assert (sandbox.id, sandbox.name, sandbox.namespace, sandbox.uid, sandbox.ready) == (
            listed[pod.name]["containerID"], pod.name, "default", pod.uid, True,
        )  # fmt: skip
        assert status.addresses == (pod.ip, pod.ip6)
        assert status.netns == f"/var/run/netns/{listed[pod.name]['namespace']}"
        # As an administrator sees it on a node of any cluster.
        assert f"link-netns {listed[pod.name]['namespace']}" in node.execute("ip", "link")
        assert sandbox.id in node.execute("ctr", "--namespace", "k8s.io", "tasks", "list")
        assert "weave-net" in node.execute("ls", "/opt/cni/bin")
    report = json.loads(lab.weft("check", "-o", "json"))
    assert (report["good"], len(report["pairs"])) == (True, 2)
    policy = tmp_path / "deny.json"
    policy.write_text(json.dumps(DENY))
    lab.weft("apply", "-f", str(policy))
    said = lab.weft("check", "--policy")
    assert "is denied" in said and "24 of 24 ways are as the policies say" in said
    lab.weft("delete", "-f", str(policy))


def test_run_exec_rm_and_up_again(lab: Lab) -> None:
    lab.weft("run", "shell", "--node", "node01", "--namespace", "tools", "--label", "role=debug")
    try:
        script = f"hostname; cat /proc/1/cmdline; ls /; ip route; ping -c 1 {state_of(lab).pods[0].ip}; exit 7"
        said = lab.weft("exec", "shell", "--", "sh", "-c", script, status=7)
        assert said.startswith("shell\n")
        # It is in the container: the pod's process is the first, and the file system is the image's.
        for wanted in ("/pod.py\0", "busybox\n", "default via 10.44.0.0 dev eth0", " 0% packet loss"):
            assert wanted in said
        up = ("up", *RUNTIME, "--pods-per-node", "1", "--range", "10.32.0.0/12,fd00:10:32::/48")
        refused = lab.weft("up", "--pods-per-node", "1", *up[-2:], status=1)
        assert "--runtime processes instead of containerd" in refused
        # A sandbox that no pod of the lab has is removed, and a pod whose process died runs again.
        node = Node(lab, "node01")
        with node.cri() as cri:
            stray = cri.run_sandbox(node.sandbox("stray"))
            container = cri.running_containers()[state_of(lab).pod("shell").container_id]
        node.execute("ctr", "--namespace", "k8s.io", "tasks", "kill", "--signal", "SIGKILL", container)
        said = lab.weft(*up)
        assert "1 sandboxes of no pod are removed" in said
        assert "pod shell starts again" in said
        assert "web" not in "".join(line for line in said.splitlines() if "starts again" in line)
        assert stray not in node.assert_all_agree()
        assert "6 of 6 pairs" in lab.weft("check")
    finally:
        lab.weft("rm", "shell")
    assert len(Node(lab, "node01").assert_all_agree()) == 1


def test_containerd_tells_the_plugin_what_a_pod_asks_for(lab: Lab) -> None:
    lab.weft("run", "fixed", "--node", "node01", "--annotations", 'cni.projectcalico.org/ipAddrs=["10.44.0.40"]')
    try:
        assert "inet 10.44.0.40/12" in lab.execute("fixed", "ip", "address", "show", "eth0")
        wrong = 'cni.projectcalico.org/ipv4pools=["default-ipv4-ippool"]'
        error = lab.weft("run", "wrong", "--node", "node01", "--annotations", wrong, status=1)
        assert "pod default/wrong: annotation cni.projectcalico.org/ipv4pools" in error
    finally:
        lab.weft("rm", "fixed")


def test_many_sandboxes_at_the_same_time(lab: Lab) -> None:
    """Made and removed side by side: no address is had twice at one time, and none is lost."""
    node = Node(lab, "controlplane")
    before = node.assert_all_agree()
    alive: dict[str, str] = dict(before)
    guard = threading.Lock()

    def come_and_go(number: int) -> None:
        with node.cri() as cri:
            for turn in range(4):
                sandbox = cri.run_sandbox(node.sandbox(f"churn-{number}-{turn}"))
                address = cri.sandbox_status(sandbox).addresses[0]
                with guard:
                    assert address not in alive.values()
                    alive[sandbox] = address
                if turn == 3:
                    continue  # the last one stays
                with guard:
                    del alive[sandbox]
                end_sandbox(cri, sandbox)

    with ThreadPoolExecutor(6) as threads:
        for done in [threads.submit(come_and_go, number) for number in range(6)]:
            done.result()
    assert node.assert_all_agree() == alive
    with node.cri() as cri, ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda sandbox: end_sandbox(cri, sandbox), alive.keys() - before.keys()))
    assert node.assert_all_agree() == before


def test_what_is_missing_is_named_with_the_mend(tmp_path_factory: pytest.TempPathFactory) -> None:
    lab = Lab()
    tools = tmp_path_factory.mktemp("bin")
    for name in ("ip", "nsenter", "unshare", "mount"):
        (tools / name).symlink_to(f"/usr/bin/{name}")
    done = subprocess.run(
        [*WEFT, "lab", "up", "--lab", lab.name, *RUNTIME],
        capture_output=True, text=True, check=False, timeout=60, env={**os.environ, "PATH": str(tools)},
    )  # fmt: skip
    assert done.returncode == 1
    mend = "run 'make setup-containerd', or leave out --runtime containerd"
    assert done.stdout + done.stderr == f"weft lab up: containerd is not installed: {mend}\n"
    # And where its Python packages are not there.
    program = "import sys; sys.modules['grpc'] = None; from weft.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "lab", "up", "--lab", lab.name, *RUNTIME],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert f"the Python package grpc is not installed: {mend}" in done.stdout + done.stderr
    assert lab.left() == []
