"""The lab's API server as the real kubectl sees it."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.store.engines import kubeconfig
from weft.lab.api import ApiServer
from weft.lab.api.exchange import Admit
from weft.lab.api.kinds import find
from weft.lab.api.storage import Storage

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl here")

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web", "labels": {"app": "web"}},
    "spec": {"nodeName": "node01", "containers": [{"name": "web", "image": "one"}]},
    "status": {
        "phase": "Running",
        "podIP": "10.44.0.1",
        "containerStatuses": [{"ready": True, "restartCount": 0}],
    },
}


class Cluster:
    """A server with the seed's two nodes, and kubectl pointed at it."""

    def __init__(self, folder: Path, storage: Storage | None = None, admit: Admit | None = None) -> None:
        self.server = ApiServer(storage=storage, admit=admit)
        self.server.start()
        (folder / "kubeconfig").write_text(kubeconfig(self.server.url, namespace="default"))
        self.words = ["kubectl", f"--kubeconfig={folder}/kubeconfig", f"--cache-dir={folder}/cache"]
        nodes = find("", "v1", "nodes")
        assert nodes is not None
        for number, name in enumerate(("controlplane", "node01")):
            labels = {"node-role.kubernetes.io/control-plane": ""} if number == 0 else {}
            status = {
                "conditions": [{"type": "Ready", "status": "True"}],
                "nodeInfo": {"kubeletVersion": "v1.26.0"},
                "addresses": [{"type": "InternalIP", "address": f"172.25.1.{number + 2}"}],
            }
            self.server.storage.create(nodes, "", {"metadata": {"name": name, "labels": labels}, "status": status})

    def run(self, *words: str, given: object = None, status: int = 0) -> str:
        text = None if given is None else json.dumps(given)
        done = subprocess.run(
            [*self.words, *words], input=text, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == status, done.stderr
        return done.stdout or done.stderr

    def popen(self, *words: str) -> "subprocess.Popen[str]":
        return subprocess.Popen([*self.words, *words], stdout=subprocess.PIPE, text=True)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    made.server.stop()


def columns(text: str) -> list[list[str]]:
    return [line.split() for line in text.strip().splitlines()]


def test_get_nodes(cluster: Cluster) -> None:
    header, *rows = columns(cluster.run("get", "nodes", "-A"))
    assert header == ["NAME", "STATUS", "ROLES", "AGE", "VERSION"]
    assert [row[:3] + row[4:] for row in rows] == [
        ["controlplane", "Ready", "control-plane", "v1.26.0"],
        ["node01", "Ready", "<none>", "v1.26.0"],
    ]
    wide = cluster.run("get", "nodes", "-o", "wide")
    assert "INTERNAL-IP" in wide
    assert "172.25.1.3" in wide


def test_apply_creates_leaves_alone_and_configures(cluster: Cluster) -> None:
    assert cluster.run("apply", "-f", "-", given=POD) == "pod/web created\n"
    assert cluster.run("apply", "-f", "-", given=POD) == "pod/web unchanged\n"
    other = POD | {"spec": {"nodeName": "node01", "containers": [{"name": "web", "image": "two"}]}}
    assert cluster.run("apply", "-f", "-", given=other) == "pod/web configured\n"
    assert cluster.run("get", "pod", "web", "-o", "jsonpath={.spec.containers[*].image}") == "two"
    assert cluster.run("apply", "--server-side", "--force-conflicts", "-f", "-", given=POD)
    assert cluster.run("get", "pod", "web", "-o", "jsonpath={.spec.containers[*].image}") == "one"
    assert "web-2 created (server dry run)" in cluster.run(
        "apply", "--dry-run=server", "-f", "-", given=POD | {"metadata": {"name": "web-2"}}
    )
    assert "NotFound" in cluster.run("get", "pod", "web-2", status=1)


def test_pods_wide_in_all_namespaces_and_by_selectors(cluster: Cluster) -> None:
    cluster.run("apply", "-f", "-", given=POD)
    cluster.run("-n", "kube-system", "apply", "-f", "-", given=POD | {"metadata": {"name": "other"}})
    rows = columns(cluster.run("get", "pods", "-A", "-o", "wide", "--no-headers"))
    assert [(row[0], row[1], row[7]) for row in rows] == [
        ("default", "web", "node01"),
        ("kube-system", "other", "node01"),
    ]
    assert cluster.run("get", "pods", "-A", "-l", "app in (web)", "-o", "name") == "pod/web\n"
    assert cluster.run("get", "pods", "-A", "--field-selector=metadata.name=other", "-o", "name") == "pod/other\n"


def test_delete_waits_for_the_end(cluster: Cluster) -> None:
    cluster.run("apply", "-f", "-", given=POD)
    assert cluster.run("delete", "pod", "web").startswith('pod "web" deleted')
    assert "NotFound" in cluster.run("delete", "pod", "web", status=1)
    assert "No resources found" in cluster.run("get", "pods")


def test_watch_shows_changes_as_they_come(cluster: Cluster) -> None:
    process = cluster.popen("get", "pods", "--watch", "-o", "wide", "--no-headers")
    try:
        assert process.stdout is not None
        cluster.run("apply", "-f", "-", given=POD)
        first = process.stdout.readline().split()
        cluster.run("label", "pod", "web", "tier=front")
        second = process.stdout.readline().split()
        assert (first[0], second[0]) == ("web", "web")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]


def test_label_annotate_and_refused_names(cluster: Cluster) -> None:
    assert cluster.run("label", "node", "node01", "disk=ssd") == "node/node01 labeled\n"
    assert cluster.run("annotate", "node", "node01", "note=here") == "node/node01 annotated\n"
    found = json.loads(cluster.run("get", "node", "node01", "-o", "json"))["metadata"]
    assert (found["labels"]["disk"], found["annotations"]["note"]) == ("ssd", "here")
    assert "Invalid" in cluster.run("apply", "-f", "-", given=POD | {"metadata": {"name": "Web_1"}}, status=1)
