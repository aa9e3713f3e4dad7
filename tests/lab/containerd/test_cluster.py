"""A lab with containerd and an API server: the manifest's DaemonSet, Pods of the API through a reboot."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.image import built_image
from tests.lab.containerd.conftest import RUNTIME, Node, running, state_of, until
from tests.lab.test_lab import Lab

pytestmark = [
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl here"),
    pytest.mark.timeout(900),
]

MANIFEST = Path(__file__).parents[3] / "deploy" / "weave-daemonset-k8s.yaml"
UP = (*RUNTIME, "--pods-per-node", "1", "--store", "kubernetes")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running(*UP[2:]) as made:
        made.weft("load", str(built_image()))
        assert "daemonset.apps/weave-net created" in made.weft("apply", "-f", str(MANIFEST))
        yield made


def pods_of(lab: Lab) -> dict[str, dict[str, Any]]:
    listed = json.loads(lab.weft("kubectl", "get", "pods", "-o", "json"))
    return {item["metadata"]["name"]: item for item in listed["items"]}


def test_pods_of_the_api_are_the_sandboxes_through_the_daemonset_and_a_reboot(lab: Lab) -> None:
    (node,) = (row for row in lab.weft("kubectl", "get", "nodes", "-o", "wide").splitlines() if "node01" in row)
    assert "containerd://1." in node or "containerd://2." in node
    wanted = 'cni.projectcalico.org/ipAddrs=["10.44.0.40"]'
    lab.weft("run", "fixed", "--node", "node01", "--annotations", wanted)
    before = pods_of(lab)
    assert before["fixed"]["status"]["podIP"] == "10.44.0.40"
    for name, item in before.items():
        with Node(lab, item["spec"]["nodeName"]).cri() as cri:
            (sandbox,) = (one for one in cri.sandboxes() if one.name == name)
            assert sandbox.uid == item["metadata"]["uid"]
            assert cri.sandbox_status(sandbox.id).addresses == (item["status"]["podIP"],)
    assert "6 of 6 pairs" in lab.weft("check")

    node01 = Node(lab, "node01")
    os.kill(node01.first_process(), signal.SIGKILL)
    until(lambda: not node01.processes("containerd"))
    said = lab.weft("up", *UP)
    assert "pod web-2 starts again" in said and "pod web-1 starts" not in said
    after = pods_of(lab)
    assert {name: item["metadata"]["uid"] for name, item in after.items()} == {
        name: item["metadata"]["uid"] for name, item in before.items()
    }
    assert after["fixed"]["status"]["podIP"] == "10.44.0.40"
    assert after["web-2"]["status"]["podIP"] != before["web-2"]["status"]["podIP"]
    assert {pod.name: pod.ip for pod in state_of(lab).pods} == {
        name: item["status"]["podIP"] for name, item in after.items()
    }
    assert "6 of 6 pairs" in lab.weft("check")
    node01.assert_all_agree()

    # What kubectl deletes is no sandbox any more when it returns, and what it makes becomes one.
    lab.weft("kubectl", "delete", "pod", "fixed")
    assert list(node01.in_containerd().values()) == [after["web-2"]["status"]["podIP"]]
    lab.weft("kubectl", "run", "made", "--image=nginx", '--overrides={"spec": {"nodeName": "node01"}}')
    lab.weft("kubectl", "wait", "--for=condition=Ready", "pod/made", "--timeout=60s")
    agreed = node01.assert_all_agree()
    assert sorted(agreed.values()) == sorted(pods_of(lab)[name]["status"]["podIP"] for name in ("made", "web-2"))
    assert "6 of 6 pairs" in lab.weft("check")


def test_a_daemonsets_pod_that_is_deleted_is_made_anew_when_it_has_ended(lab: Lab) -> None:
    def weave() -> dict[str, str]:
        listed = json.loads(lab.weft("kubectl", "get", "pods", "-n", "kube-system", "-o", "json"))
        return {item["spec"]["nodeName"]: item["metadata"]["name"] for item in listed["items"]}

    before = weave()
    inside = ("kubectl", "exec", "-n", "kube-system", "ds/weave-net", "-c", "weave", "--")
    assert "Status: ready" in lab.weft(*inside, "weft", "status")
    assert "Service: router" in lab.weft(*inside, "/home/weave/weave", "--local", "status")
    said = lab.weft("kubectl", "logs", "-n", "kube-system", before["node01"], "-c", "weave", "--tail=3")
    assert 1 <= len(said.splitlines()) <= 3
    assert "web-1" in lab.weft("kubectl", "exec", "web-1", "--", "hostname")
    folder = state_of(lab).node_folder("node01") / "run/weft-lab/runc"
    containers = {entry.name for entry in folder.iterdir()}
    lab.weft("kubectl", "-n", "kube-system", "delete", "pod", before["node01"])
    assert containers.isdisjoint(entry.name for entry in folder.iterdir())
    lab.weft("kubectl", "-n", "kube-system", "rollout", "status", "daemonset/weave-net", "--timeout=120s")
    after = weave()
    assert after["controlplane"] == before["controlplane"] and after["node01"] != before["node01"]
    lab.weft("run", "late", "--node", "node01")
    Node(lab, "node01").assert_all_agree()
