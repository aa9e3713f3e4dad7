"""What kubectl sends as protobuf is what it says in JSON."""

import http.client
import json
import shutil
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.lab.api.test_kubectl import POD, Cluster
from weft.lab.api.errors import ApiError
from weft.lab.api.protobuf import decoded

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl here")

COMMANDS = [
    ("namespace", "dev"),
    ("serviceaccount", "robot"),
    ("configmap", "settings", "--from-literal=a=b", "--from-literal=empty="),
    ("secret", "generic", "key", "--from-literal=password=p=q", "--type=Opaque"),
    (
        "role",
        "reader",
        "--verb=get,list",
        "--resource=pods,networkpolicies.networking.k8s.io",
        "--resource-name=x",
    ),
    ("clusterrole", "reader", "--verb=get", "--non-resource-url=/healthz"),
    ("rolebinding", "readers", "--role=reader", "--user=eve", "--group=ops", "--serviceaccount=default:robot"),
    ("clusterrolebinding", "readers", "--clusterrole=reader", "--serviceaccount=default:robot"),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    yield made
    made.server.stop()


def own(item: dict[str, Any]) -> dict[str, Any]:
    """An object without what the server gives it."""
    metadata = item["metadata"]
    labels = {key: value for key, value in (metadata.get("labels") or {}).items() if "kubernetes.io/" not in key}
    kept = {key: value for key, value in item.items() if key not in ("metadata", "status", "spec")}
    return kept | {"name": metadata["name"], "labels": labels, "annotations": metadata.get("annotations")}


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_kubectl_creates_what_it_says(cluster: Cluster, words: tuple[str, ...]) -> None:
    wanted = json.loads(cluster.run("create", *words, "--dry-run=client", "-o", "json"))
    assert cluster.run("create", *words).endswith(" created\n")
    made = json.loads(cluster.run("get", wanted["kind"], wanted["metadata"]["name"], "-o", "json"))
    assert own(made) == own(wanted)
    assert "already exists" in cluster.run("create", *words, status=1)


def test_a_namespace_that_is_created_can_be_used(cluster: Cluster) -> None:
    cluster.run("create", "ns", "team")
    assert cluster.run("get", "ns", "team", "--no-headers").split()[:2] == ["team", "Active"]
    cluster.run("create", "configmap", "inside", "-n", "team")
    assert cluster.run("get", "configmaps", "-n", "team", "-o", "name") == "configmap/inside\n"


def test_a_node_is_drained(cluster: Cluster) -> None:
    cluster.run("apply", "-f", "-", given=POD)
    said = cluster.run("drain", "node01", "--force")
    assert "pod/web evicted" in said or "pod/web deleted" in said
    assert "No resources found" in cluster.run("get", "pods")
    assert "SchedulingDisabled" in cluster.run("get", "node", "node01")


def test_zero_seconds_are_not_no_seconds() -> None:
    # Type meta, then options with gracePeriodSeconds or without.
    head = b"k8s\x00\x0a\x13\x0a\x02v1\x12\x0dDeleteOptions"
    assert int(decoded(head + b"\x12\x02\x08\x00")["gracePeriodSeconds"]) == 0
    assert int(decoded(head + b"\x12\x02\x08\x1e")["gracePeriodSeconds"]) == 30
    assert "gracePeriodSeconds" not in decoded(head + b"\x12\x00")


def test_what_the_lab_does_not_read_is_refused_with_the_mend(cluster: Cluster) -> None:
    said = cluster.run("create", "deployment", "web", "--image=nginx", status=1)
    assert "takes Deployment as JSON or YAML only" in said
    assert "--dry-run=client -o yaml | kubectl apply -f -" in said


@pytest.mark.parametrize("body", [b"", b"k8s", b"k8s\x00\xff\xff", b"k8s\x00\x0a\xff\x01", b"{}"])
def test_what_is_no_protobuf_is_refused(cluster: Cluster, body: bytes) -> None:
    connection = http.client.HTTPConnection(urlsplit(cluster.server.url).netloc, timeout=20)
    connection.request("POST", "/api/v1/namespaces", body, {"Content-Type": "application/vnd.kubernetes.protobuf"})
    answer = connection.getresponse()
    told = json.loads(answer.read())
    connection.close()
    assert answer.status in (400, 415)
    assert told["message"]


@given(st.binary(max_size=200))
def test_any_bytes_are_an_object_or_a_refusal(tail: bytes) -> None:
    try:
        assert isinstance(decoded(b"k8s\x00" + tail), dict)
    except ApiError as error:
        assert error.reason in ("BadRequest", "UnsupportedMediaType")
