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
from weft.agent.status import fetch
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


def on_nodes(lab: Lab) -> dict[str, tuple[int, int, list[str]]]:
    """By node: how many attachments its agent has, how many pairs its kernel, which pods have a namespace."""
    state = read(lab.name)
    assert state is not None
    found = {}
    for node in state.nodes:
        report = json.loads(fetch(state.status_socket(node.name), "/report")[1])
        prefix = f"{lab.name}-{node.name}-"
        spaces = sorted(entry.name.removeprefix(prefix) for entry in Path("/run/netns").glob(f"{prefix}*"))
        pairs = lab.execute(node.name, "ip", "-o", "link").count(": vethwepl")
        found[node.name] = report["ipam"]["attachments"], pairs, spaces
    return found


def until_pods(lab: Lab, **wanted: list[str]) -> None:
    """Wait until nodes have these pods and nothing of any other: what a DEL retires is deleted a moment later."""
    until(lambda: {node: on_nodes(lab)[node] for node in wanted} == {
        node: (len(names), len(names), names) for node, names in wanted.items()
    })  # fmt: skip


def test_a_pod_that_kubectl_deletes_is_gone_from_its_node(lab: Lab) -> None:
    lab.weft("run", "one", "--node", "node01", "--port", "db=tcp/5432")
    lab.weft("run", "two", "--node", "node01", "-n", "tools")
    pods = {pod["name"]: pod for pod in lab.pods()}
    until_pods(lab, node01=["one", "two", "web-2"])
    assert lab.execute("web-1", "curl", "-s", f"{pods['one']['ip']}:5432").strip() == pods["web-1"]["ip"]
    assert lab.weft("kubectl", "delete", "pod", "one").startswith('pod "one" deleted')
    # It returns when all is done.
    assert not Path(f"/run/netns/{lab.name}-node01-one").exists()
    assert "one" not in {pod["name"] for pod in lab.pods()}
    assert "NotFound" in lab.weft("kubectl", "get", "pod", "one", status=1)
    until_pods(lab, node01=["two", "web-2"])
    lab.weft("kubectl", "delete", "namespace", "tools")
    until_pods(lab, node01=["web-2"])
    assert "tools" not in lab.weft("kubectl", "get", "namespaces")
    # By force the object goes first, and the sandbox after it.
    lab.weft("run", "one", "--node", "node01")
    lab.weft("kubectl", "delete", "pod", "one", "--force", "--grace-period=0")
    until_pods(lab, node01=["web-2"])
    until(lambda: "one" not in {pod["name"] for pod in lab.pods()})
    assert "2 of 2 pairs" in lab.weft("check")


def test_pods_that_kubectl_makes_are_the_labs(lab: Lab, tmp_path: Path) -> None:
    said = lab.weft("kubectl", "run", "db", "--image=postgres", "--labels=app=db", "--port=5432")
    assert "Warning: a lab's pods all run the lab's own program" in said and "pod/db created" in said
    lab.weft("kubectl", "wait", "--for=condition=Ready", "pod/db", "--timeout=60s")
    assert rows(lab, "get", "pods", "-l", "app=db", "--show-labels")[0][1:3] == ["1/1", "Running"]
    db = next(pod for pod in lab.pods() if pod["name"] == "db")
    web = next(pod for pod in lab.pods() if pod["name"] == "web-1")
    assert lab.execute("web-1", "curl", "-s", f"http://{db['ip']}:5432/").strip() == web["ip"]
    lab.weft("kubectl", "label", "pod", "db", "tier=back")
    assert next(pod for pod in lab.pods() if pod["name"] == "db")["labels"] == {"app": "db", "tier": "back"}
    assert "6 of 6 pairs" in lab.weft("check")
    said = lab.weft("kubectl", "run", "db", "--image=x", "-n", "kube-public", status=1)
    assert "one pod of a name, and this one is in namespace default already" in said
    lab.weft("rm", "db")
    assert "NotFound" in lab.weft("kubectl", "get", "pod", "db", status=1)

    # A DaemonSet of a network of its own, too: each of its pods is made anew until it goes.
    template = {
        "metadata": {"labels": {"app": "probe"}},
        "spec": {"containers": [{"name": "probe", "image": "x"}]},
    }
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}}
    spec = {"selector": {"matchLabels": {"app": "probe"}}, "template": template, "updateStrategy": rolling}
    item = {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "probe"}, "spec": spec}
    path = tmp_path / "probe.json"
    path.write_text(json.dumps(item))
    assert "daemonset.apps/probe created" in lab.weft("apply", "-f", str(path))
    first, second = sorted(row[0] for row in rows(lab, "get", "pods", "-l", "app=probe"))
    lab.weft("kubectl", "delete", "pod", first)
    lab.weft("kubectl", "rollout", "status", "daemonset/probe", "--timeout=60s")
    names = {row[0] for row in rows(lab, "get", "pods", "-l", "app=probe")}
    assert len(names) == 2 and second in names and first not in names
    assert "12 of 12 pairs" in lab.weft("check")
    assert "daemonset.apps/probe deleted" in lab.weft("delete", "-f", str(path))
    until_pods(lab, controlplane=["web-1"], node01=["web-2"])


def test_kubectl_runs_commands_in_pods(lab: Lab) -> None:
    first, second = sorted(lab.pods(), key=lambda pod: str(pod["name"]))
    assert first["ip"] in lab.weft("kubectl", "exec", first["name"], "--", "ip", "-4", "address", "show", "eth0")
    asked = ("curl", "-s", second["ip"])
    assert lab.weft("kubectl", "exec", first["name"], "--", *asked).strip() == first["ip"]
    lab.weft("kubectl", "exec", first["name"], "--", "sh", "-c", "exit 9", status=9)
    assert "writes no log" in lab.weft("kubectl", "logs", first["name"], status=1)
    assert "nothing to attach to" in lab.weft("kubectl", "attach", first["name"], status=1)
    # What tutorials do to ask from a pod that is there for one question.
    once = ("run", "once", "--rm", "-i", "--image=busybox", "--restart=Never", "--")
    said = lab.weft("kubectl", *once, *asked)
    assert 'pod "once" deleted' in said
    assert any(line.startswith("10.") for line in said.splitlines())
    lab.weft("kubectl", *once, "sh", "-c", "exit 4", status=4)
    until(lambda: {pod["name"] for pod in lab.pods()} == {first["name"], second["name"]})
    # What a command leaves running goes with its pod.
    lab.weft("run", "busy", "--node", "node01")
    lab.weft("kubectl", "exec", "busy", "--", "sh", "-c", "sleep 1234 > /dev/null 2>&1 &")
    space = Path(f"/run/netns/{lab.name}-node01-busy").stat().st_ino
    assert [name for name in programs_in(space) if "sleep" in name]
    lab.weft("kubectl", "delete", "pod", "busy")
    until(lambda: programs_in(space) == [])


def programs_in(space: int) -> list[str]:
    """What runs in a network namespace, by its inode."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "ns/net").stat().st_ino == space:
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def test_a_namespace_that_kubectl_creates(lab: Lab) -> None:
    assert lab.weft("kubectl", "create", "namespace", "dev") == "namespace/dev created\n"
    lab.weft("kubectl", "label", "namespace", "dev", "team=a")
    lab.weft("kubectl", "run", "inside", "-n", "dev", "--image=nginx", "--labels=app=inside")
    lab.weft("kubectl", "wait", "-n", "dev", "--for=condition=Ready", "pod/inside", "--timeout=60s")
    assert "6 of 6 pairs" in lab.weft("check")
    lab.weft("kubectl", "delete", "namespace", "dev")
    assert {pod["name"] for pod in lab.pods()} == {"web-1", "web-2"}


def test_a_pod_of_a_node_that_is_down_ends_when_it_is_back(lab: Lab) -> None:
    up = ("up", "--store", "kubernetes", "--pods-per-node", "1")
    lab.weft("run", "one", "--node", "node01")
    state = read(lab.name)
    assert state is not None and state.node("node01").process is not None
    os.kill(state.node("node01").process.pid, signal.SIGKILL)  # type: ignore[union-attr]
    lab.weft("kubectl", "delete", "pod", "one", "--wait=false")
    until(lambda: "node node01 is down" in lab.weft("kubectl", "describe", "pod", "one"))
    (row,) = rows(lab, "get", "pod", "one")
    assert row[2] == "Terminating"
    assert "node01 starts again" in lab.weft(*up)
    until(lambda: "one" not in {pod["name"] for pod in lab.pods()})
    lab.weft("kubectl", "wait", "--for=delete", "pod/one", "--timeout=60s")
    until_pods(lab, node01=["web-2"])
    assert "2 of 2 pairs" in lab.weft("check")


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
