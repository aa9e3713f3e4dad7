"""DaemonSets of a lab: which pods end when, and what a container is told; without a kernel."""

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from weft.lab.api.kinds import KINDS
from weft.lab.api.storage import Object, Selection, Storage
from weft.lab.cluster import images
from weft.lab.cluster.container_spec import Unsupported, runtime_config
from weft.lab.cluster.daemonsets import reconcile, replaceable
from weft.lab.cluster.images import Image
from weft.lab.topology import LabError

KIND = {kind.name: kind for kind in KINDS}
MANIFEST = Path(__file__).parents[2] / "deploy" / "weave-daemonset-k8s.yaml"
IMAGE = Image(Path("/image"), ("PATH=/bin",), (), ("weft", "agent"), "/")


def daemonset() -> Object:
    found: Object = list(yaml.safe_load_all(MANIFEST.read_text()))[-1]
    return found


def pods(storage: Storage) -> list[Object]:
    return storage.list(Selection(KIND["Pod"]))[0]


def make_ready(storage: Storage) -> None:
    status = {"conditions": [{"type": "Ready", "status": "True"}]}
    for pod in pods(storage):
        storage.change(
            KIND["Pod"], "kube-system", pod["metadata"]["name"], lambda old: old | {"status": status}, status=True
        )


@pytest.fixture
def storage() -> Storage:
    made = Storage()
    for number in range(3):
        addresses = [{"type": "InternalIP", "address": f"10.0.0.{number}"}]
        made.create(KIND["Node"], "", {"metadata": {"name": f"node{number}"}, "status": {"addresses": addresses}})
    made.create(KIND["DaemonSet"], "kube-system", daemonset())
    reconcile(made)
    return made


def test_a_pod_per_node_and_none_without_its_daemonset(storage: Storage) -> None:
    before = pods(storage)
    assert sorted(pod["spec"]["nodeName"] for pod in before) == ["node0", "node1", "node2"]
    reconcile(storage)
    assert pods(storage) == before
    storage.delete(KIND["Node"], "", "node1")
    reconcile(storage)
    assert sorted(pod["spec"]["nodeName"] for pod in pods(storage)) == ["node0", "node2"]
    storage.delete(KIND["DaemonSet"], "kube-system", "weave-net")
    reconcile(storage)
    assert pods(storage) == []


def test_a_new_template_replaces_ready_pods_one_by_one(storage: Storage) -> None:
    make_ready(storage)
    old = {pod["metadata"]["name"] for pod in pods(storage)}

    def edit(item: Object) -> Object:
        item["spec"]["template"]["spec"]["containers"][0]["image"] = "weft/weft:next"
        return item

    storage.change(KIND["DaemonSet"], "kube-system", "weave-net", edit)
    for left in (2, 1, 0):
        reconcile(storage)
        reconcile(storage)  # the new one is not ready yet: no other ends
        assert len(old & {pod["metadata"]["name"] for pod in pods(storage)}) == left
        assert len(pods(storage)) == 3
        make_ready(storage)
    reconcile(storage)
    status = storage.get(KIND["DaemonSet"], "kube-system", "weave-net")["status"]
    assert (status["numberReady"], status["updatedNumberScheduled"], status["observedGeneration"]) == (3, 3, 2)


def test_a_new_pod_comes_when_the_old_one_has_ended() -> None:
    storage = Storage(kubelets=True)
    storage.create(KIND["Node"], "", {"metadata": {"name": "node0"}, "status": {}})
    storage.create(KIND["DaemonSet"], "kube-system", daemonset())
    reconcile(storage)
    make_ready(storage)
    (old,) = pods(storage)
    storage.delete(KIND["Pod"], "kube-system", old["metadata"]["name"])
    for _ in range(2):
        reconcile(storage)
        (ending,) = pods(storage)
        assert ending["metadata"]["uid"] == old["metadata"]["uid"]
    # One that ends is no ready one, whatever its last status says.
    assert storage.get(KIND["DaemonSet"], "kube-system", "weave-net")["status"]["numberReady"] == 0
    storage.delete(KIND["Pod"], "kube-system", old["metadata"]["name"], grace=0)
    reconcile(storage)
    (new,) = pods(storage)
    assert new["metadata"]["uid"] != old["metadata"]["uid"]
    # On a node that is no more nobody could end it.
    storage.delete(KIND["Node"], "", "node0")
    reconcile(storage)
    assert pods(storage) == []


@given(nodes=st.integers(1, 50), ready=st.integers(0, 50), limit=st.one_of(st.integers(1, 60), st.just("10%")))
def test_never_more_are_unavailable_than_allowed(nodes: int, ready: int, limit: int | str) -> None:
    ready = min(ready, nodes)
    item = {"spec": {"updateStrategy": {"rollingUpdate": {"maxUnavailable": limit}}}}
    held: Any = {"conditions": [{"type": "Ready", "status": "True"}]}
    old = [{"status": held if number < ready else {}} for number in range(nodes)]
    ended = replaceable(item, nodes, old, ready)
    most = max(1, -(-nodes // 10)) if limit == "10%" else int(limit)
    assert len(ended) <= max(most, nodes - ready)
    assert len(ended) >= nodes - ready


@pytest.mark.parametrize("number", [0, 1])
def test_a_container_has_what_the_manifest_says_and_no_more(number: int) -> None:
    spec = daemonset()["spec"]["template"]["spec"]
    pod = {"metadata": {"name": "a"}, "spec": spec | {"nodeName": "node1"}, "status": {"hostIP": "10.0.0.1"}}
    container = spec["containers"][number]
    places = {volume["name"]: Path("/host") / volume["name"] for volume in spec["volumes"]}
    config = runtime_config(pod, container, IMAGE, places, {"KUBERNETES_SERVICE_HOST": "h"}, "/group")
    wanted = [f"CAP_{name}" for name in container["securityContext"]["capabilities"]["add"]]
    assert set(map(tuple, config["process"]["capabilities"].values())) == {tuple(wanted)}
    assert config["process"]["noNewPrivileges"]
    assert config["root"] == {"path": "/image", "readonly": True}
    assert config["process"]["args"] == container["command"]
    assert "HOSTNAME=node1" in config["process"]["env"]
    binds = {mount["destination"]: mount for mount in config["mounts"] if mount["type"] == "bind"}
    assert set(binds) == {mount["mountPath"] for mount in container["volumeMounts"]}
    for mount in container["volumeMounts"]:
        assert ("ro" in binds[mount["mountPath"]]["options"]) is bool(mount.get("readOnly"))
    assert "network" not in {one["type"] for one in config["linux"]["namespaces"]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"securityContext": {"privileged": True}}, "privileged"),
        ({"securityContext": {}}, "readOnlyRootFilesystem"),
        ({"envFrom": [{}]}, "envFrom"),
        ({"readinessProbe": {"exec": {}}}, "only httpGet"),
        ({"volumeMounts": [{"name": "nowhere", "mountPath": "/x"}]}, "no volume 'nowhere'"),
        ({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {}}}]}, "only fieldRef"),
    ],
)
def test_what_a_lab_lacks_is_refused_by_name(change: dict[str, Any], said: str) -> None:
    spec = daemonset()["spec"]["template"]["spec"]
    pod = {"metadata": {"name": "a"}, "spec": spec | {"nodeName": "n"}, "status": {"hostIP": "10.0.0.1"}}
    places = {volume["name"]: Path("/host") for volume in spec["volumes"]}
    with pytest.raises(Unsupported, match=said):
        runtime_config(pod, spec["containers"][0] | change, IMAGE, places, {}, "/group")


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("weft/weft:0.1.0", "docker.io/weft/weft:0.1.0"),
        ("busybox", "docker.io/library/busybox:latest"),
        ("localhost:5000/a/b:1", "localhost:5000/a/b:1"),
    ],
)
def test_names_of_images_are_completed(name: str, full: str) -> None:
    assert images.full_name(name) == full


def test_an_image_that_is_none_or_was_not_loaded(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="weft/weft:1 is not in this lab.*weft lab load"):
        images.find("weft/weft:1", tmp_path)
    (tmp_path / "text.tar").write_text("no archive")
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    (tmp_path / "index.json").write_text(json.dumps({"manifests": []}))
    with tarfile.open(tmp_path / "bare.tar", "w") as archive:
        archive.add(tmp_path / "index.json", "index.json")
    for name in ("text", "empty", "bare", "nothing"):
        with pytest.raises(LabError, match="is no OCI archive of one image"):
            images.load(tmp_path / f"{name}.tar", tmp_path / "store")
