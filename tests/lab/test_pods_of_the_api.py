"""From Pod objects to pods of a lab: where they run, what is made and what is ended; without a kernel."""

from collections.abc import Callable
from typing import Any

import pytest

from weft.lab.api.errors import ApiError
from weft.lab.api.kinds import KINDS
from weft.lab.api.storage import Object, Selection, Storage
from weft.lab.cluster.admission import admit
from weft.lab.cluster.lab_pods import Work, pod_of, record, work
from weft.lab.cluster.scheduler import bind_pods
from weft.lab.pods import new_pod
from weft.lab.state import PodState

KIND = {kind.name: kind for kind in KINDS}
READY = {"conditions": [{"type": "Ready", "status": "True"}]}


def node(storage: Storage, name: str, status: Object | None = None, **other: Any) -> None:
    labels = other.pop("labels", {})
    item = {
        "metadata": {"name": name, "labels": labels},
        "spec": other,
        "status": READY if status is None else status,
    }
    storage.create(KIND["Node"], "", item)


def pod(storage: Storage, name: str, **spec: Any) -> Object:
    wanted = {"containers": [{"name": "one", "image": "nginx"}]} | spec
    return storage.create(KIND["Pod"], "default", {"metadata": {"name": name}, "spec": wanted})


def nodes_of(storage: Storage) -> dict[str, str]:
    listed = storage.list(Selection(KIND["Pod"]))[0]
    return {item["metadata"]["name"]: item["spec"].get("nodeName", "") for item in listed}


def test_pods_go_where_fewest_are_among_the_nodes_that_take_them() -> None:
    storage = Storage()
    node(storage, "node01")
    node(storage, "node02", labels={"disk": "ssd"})
    node(storage, "broken", status={"conditions": [{"type": "Ready", "status": "Unknown"}]})
    node(storage, "cordoned", unschedulable=True)
    pod(storage, "there", nodeName="node01")
    for name in ("a", "b", "c"):
        pod(storage, name)
    pod(storage, "fast", nodeSelector={"disk": "ssd"})
    pod(storage, "nowhere", nodeSelector={"disk": "tape"})
    bind_pods(storage)
    found = nodes_of(storage)
    assert [found[name] for name in ("there", "a", "b", "c")] == ["node01", "node02", "node01", "node02"]
    assert (found["fast"], found["nowhere"]) == ("node02", "")
    (condition,) = storage.get(KIND["Pod"], "default", "nowhere")["status"]["conditions"]
    assert (condition["reason"], condition["message"][:3]) == ("Unschedulable", "0/4")
    version = storage.version
    bind_pods(storage)
    assert storage.version == version
    node(storage, "archive", labels={"disk": "tape"})
    bind_pods(storage)
    assert nodes_of(storage)["nowhere"] == "archive"


def item(uid: str, *, ending: bool = False, ip: str = "", **spec: Any) -> Object:
    mark = {"deletionTimestamp": "2026-01-01T00:00:00Z"} if ending else {}
    status = {"podIP": ip} if ip else {}
    return {"metadata": {"name": uid, "uid": uid, **mark}, "spec": {"nodeName": "n"} | spec, "status": status}


def ours(uid: str, *, published: bool = True) -> PodState:
    made = new_pod(uid, "n", {})
    made.uid, made.published = uid, published
    return made


def test_what_is_made_and_what_is_ended() -> None:
    items = [
        item("runs", ip="10.0.0.1"),
        item("new"),
        item("failed"),
        item("unbound", nodeName=""),
        item("deleted", ip="10.0.0.2", ending=True),
        item("deleted-before-it-was-made", ending=True),
    ]
    present = [ours("runs"), ours("failed"), ours("deleted"), ours("by-force"), ours("begun", published=False)]
    found = work(items, present)
    assert [one["metadata"]["uid"] for one in found.make] == ["new", "failed"]
    assert [one.uid for one in found.end] == ["deleted", "by-force"]
    assert [one["metadata"]["uid"] for one in found.forget] == ["deleted-before-it-was-made"]
    assert work(items[:1], present[:1]) == Work()


def test_a_pod_of_the_lab_has_what_its_object_says() -> None:
    metadata = {"name": "db", "namespace": "team", "uid": "u", "labels": {"app": "db"}, "annotations": {"a": "b"}}
    ports = [{"name": "sql", "containerPort": 5432}, {"containerPort": 53, "protocol": "UDP"}]
    containers = [{"name": "x", "ports": ports}, {"name": "y"}]
    made = pod_of({"metadata": metadata, "spec": {"nodeName": "node01", "containers": containers}})
    assert (made.name, made.namespace, made.uid, made.node, made.published) == ("db", "team", "u", "node01", True)
    assert (made.labels, made.annotations) == ({"app": "db"}, {"a": "b"})
    assert made.ports == {"sql": "tcp/5432", "udp-53": "udp/53"}


def test_one_trouble_is_one_event_however_often_it_comes() -> None:
    storage = Storage()
    found = pod(storage, "web", nodeName="node01")
    for message in ("no address", "no address", "no agent"):
        record(storage, found, "FailedCreatePodSandBox", message)
    events = storage.list(Selection(KIND["Event"]))[0]
    assert sorted((one["message"], one["count"]) for one in events) == [("no address", 2), ("no agent", 1)]
    assert {one["involvedObject"]["uid"] for one in events} == {found["metadata"]["uid"]}


@pytest.mark.parametrize(
    ("kind", "spec", "said"),
    [
        ("Pod", {"containers": [{"name": "a", "image": "nginx"}]}, "run the lab's own program"),
        ("Pod", {"containers": [{"name": "a", "image": "nginx"}], "hostNetwork": True}, ""),
        ("Pod", {"containers": [{"name": "pod", "image": "weft.dev/lab-pod"}]}, ""),
        ("Deployment", {}, "no controller for Deployments: make pods by 'kubectl run"),
        ("Service", {}, "no kube-proxy and no DNS: ask pods at their own addresses"),
        ("DaemonSet", {"template": {"spec": {"containers": []}}}, "run the lab's own program"),
        ("DaemonSet", {"template": {"spec": {"hostNetwork": True}}}, ""),
        ("ConfigMap", {}, ""),
    ],
)
def test_what_a_lab_does_otherwise_is_told(kind: str, spec: Object, said: str) -> None:
    warnings = admit(Storage(), KIND[kind], "default", {"metadata": {"name": "x"}, "spec": spec})
    assert [said in text for text in warnings] == ([True] if said else [])


def test_names_that_a_lab_has_already_are_refused() -> None:
    storage = Storage()
    node(storage, "node01")
    pod(storage, "web")
    made: Callable[[str], Object] = lambda name: {"metadata": {"name": name}, "spec": {"containers": []}}  # noqa: E731
    with pytest.raises(ApiError, match='"node01" is forbidden: a node of the lab has that name'):
        admit(storage, KIND["Pod"], "default", made("node01"))
    with pytest.raises(ApiError, match="one pod of a name, and this one is in namespace default already"):
        admit(storage, KIND["Pod"], "kube-public", made("web"))
    # In its own namespace that is the server's to refuse.
    assert admit(storage, KIND["Pod"], "default", made("web"))
