"""A lab with an API server: kubectl's answers, what survives a kill, policies that kubectl applies."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab.test_lab import Lab, own_network
from weft.lab.state import read

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl here")

DENY = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "deny", "namespace": "default"},
    "spec": {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"]},
}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    before = own_network()
    made = Lab()
    try:
        made.weft("up", "--store", "kubernetes", "--pods-per-node", "1")
        yield made
    finally:
        made.weft("down")
        assert made.left() == []
        assert own_network() == before


def until(check: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def rows(lab: Lab, *words: str) -> list[list[str]]:
    return [line.split() for line in lab.weft("kubectl", *words, "--no-headers").splitlines()]


def test_nodes_and_pods_as_kubectl_shows_them(lab: Lab) -> None:
    assert [[row[0], row[1], row[2], row[4]] for row in rows(lab, "get", "nodes", "-A")] == [
        ["controlplane", "Ready", "control-plane", "v1.26.0"],
        ["node01", "Ready", "<none>", "v1.26.0"],
    ]
    listed = {pod["name"]: pod for pod in lab.pods()}
    found = rows(lab, "get", "pods", "-A", "-o", "wide")
    assert [[*row[:4], row[6], row[7]] for row in found] == [
        ["default", name, "1/1", "Running", listed[name]["ip"], listed[name]["node"]]
        for name in ("web-1", "web-2")
    ]
    assert "6443" in Path(lab.weft("kubeconfig").strip()).read_text()
    assert "✓ every pod reaches every pod on other nodes without NAT" in lab.weft("check")


def test_pods_come_and_go_in_the_api_too(lab: Lab) -> None:
    lab.weft("run", "shell", "--node", "node01", "--namespace", "tools", "--label", "role=debug")
    (row,) = rows(lab, "get", "pods", "-n", "tools", "-l", "role=debug")
    assert row[:3] == ["shell", "1/1", "Running"]
    lab.weft("label", "pod", "shell", "role=shell", "tier=front")
    assert rows(lab, "get", "pods", "-n", "tools", "-l", "role=shell,tier=front")
    lab.weft("label", "pod", "shell", "tier-")
    assert "No resources found" in lab.weft("kubectl", "get", "pods", "-n", "tools", "-l", "tier")
    lab.weft("rm", "shell")
    assert "No resources found" in lab.weft("kubectl", "get", "pods", "-n", "tools")


def test_pods_and_namespaces_ask_for_addresses(lab: Lab, tmp_path: Path) -> None:
    fixed = 'cni.projectcalico.org/ipAddrs=["10.32.0.40"]'
    assert "created: 10.32.0.40 on controlplane" in lab.weft(
        "run", "fixed", "--node", "controlplane", "--annotations", fixed
    )
    described = json.loads(lab.weft("kubectl", "get", "pod", "fixed", "-o", "json"))
    assert described["metadata"]["annotations"]["cni.projectcalico.org/ipAddrs"] == '["10.32.0.40"]'
    refused = lab.weft("run", "second", "--node", "controlplane", "--annotations", fixed, status=1)
    assert "it belongs to pod default/fixed" in refused
    assert "second" not in lab.weft("kubectl", "get", "pods")
    team = tmp_path / "team.json"
    pools = {"cni.projectcalico.org/ipv4pools": '["10.39.0.0/24"]'}
    team.write_text(
        json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team", "annotations": pools}})
    )
    assert "namespace/team created" in lab.weft("apply", "-f", str(team))
    pools_now = 'cni.projectcalico.org/ipv4pools=["10.40.0.0/24"]'
    lab.weft("kubectl", "annotate", "--overwrite", "namespace", "team", pools_now)

    def pool() -> bool:
        made = lab.weft("run", "pooled", "-n", "team", "--node", "node01")
        if "created: 10.40.0." in made:
            return True
        lab.weft("rm", "pooled")
        return False

    until(pool)
    assert "12 of 12 pairs" in lab.weft("check")
    for name in ("fixed", "pooled"):
        lab.weft("rm", name)


def test_a_policy_that_kubectl_or_the_lab_applies_is_enforced(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "deny.json"
    path.write_text(json.dumps(DENY))
    assert "networkpolicy.networking.k8s.io/deny created" in lab.weft("apply", "-f", str(path))
    assert "is denied" in lab.weft("check", "--policy")
    assert "✗ web-1 → web-2: TCP" in lab.weft("check", status=1)
    assert "deny unchanged" in lab.weft("apply", "-f", str(path))
    assert "deny deleted" in lab.weft("delete", "-f", str(path))
    assert "2 of 2 pairs" in lab.weft("check")
    lab.weft("kubectl", "apply", "-f", str(path))
    until(lambda: not json.loads(lab.weft("check", "-o", "json", status=None))["good"])
    lab.weft("kubectl", "delete", "-f", str(path))
    until(lambda: json.loads(lab.weft("check", "-o", "json", status=None))["good"])
    path.write_text(json.dumps(DENY | {"kind": "NoSuchKind"}))
    assert "no kind that the lab's API server knows" in lab.weft("apply", "-f", str(path), status=1)


def test_a_killed_api_server_comes_back_with_its_objects(lab: Lab) -> None:
    state = read(lab.name)
    assert state is not None
    service = state.services["api"]
    before = lab.weft("kubectl", "get", "leases,nodes", "-A", "-o", "name")
    (server,) = Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split()
    os.kill(int(server), signal.SIGKILL)
    until(lambda: "node01" in lab.weft("kubectl", "get", "nodes", status=None))
    assert lab.weft("kubectl", "get", "leases,nodes", "-A", "-o", "name") == before
    lab.weft("run", "late", "--node", "controlplane")
    assert "6 of 6 pairs" in lab.weft("check")
    # And where nothing watches over it, `up` brings it back.
    (server,) = Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split()
    for pid in (service.pid, int(server)):
        os.kill(pid, signal.SIGKILL)
    assert "weft lab up" in lab.weft("label", "pod", "web-1", "a=b", status=1)
    assert "api starts again" in lab.weft("up", "--store", "kubernetes", "--pods-per-node", "1")
    assert lab.weft("kubectl", "get", "nodes", "-o", "name") == "node/controlplane\nnode/node01\n"
    lab.weft("rm", "late")
