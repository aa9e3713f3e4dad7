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
        yield made


def pods_of(lab: Lab) -> dict[str, dict[str, Any]]:
    listed = json.loads(lab.weft("kubectl", "get", "pods", "-o", "json"))
    return {item["metadata"]["name"]: item for item in listed["items"]}


def test_pods_of_the_api_are_the_sandboxes_through_the_daemonset_and_a_reboot(lab: Lab) -> None:
    (node,) = (row for row in lab.weft("kubectl", "get", "nodes", "-o", "wide").splitlines() if "node01" in row)
    assert "containerd://1." in node or "containerd://2." in node
    lab.weft("load", str(built_image()))
    assert "daemonset.apps/weave-net created" in lab.weft("apply", "-f", str(MANIFEST))
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
