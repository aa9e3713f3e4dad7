"""The lab's API server where kubectl does not look: versions, watches, patches, errors."""

import http.client
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.lab.api import ApiServer, patches
from weft.lab.api.selectors import by_labels

LEASES = "/apis/coordination.k8s.io/v1/namespaces/default/leases"


@pytest.fixture
def server() -> Iterator[ApiServer]:
    made = ApiServer(bookmark_interval=0.1)
    made.start()
    yield made
    made.stop()


def ask(
    server: ApiServer, method: str, path: str, body: Any = None, kind: str = "application/json"
) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=20)
    connection.request(method, path, None if body is None else json.dumps(body), {"Content-Type": kind})
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer.status, json.loads(data)


def lease(name: str, **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, **metadata}, "spec": {}}


def watch(server: ApiServer, query: str, count: int) -> list[tuple[str, Any]]:
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=20)
    connection.request("GET", f"{LEASES}?watch=1&timeoutSeconds=5&{query}")
    answer = connection.getresponse()
    events = [json.loads(answer.readline()) for _ in range(count)]
    connection.close()
    return [(event["type"], event["object"]) for event in events]


def test_versions_grow_and_stale_writes_conflict(server: ApiServer) -> None:
    _, first = ask(server, "POST", LEASES, lease("a"))
    changed = first | {"spec": {"holderIdentity": "x"}}
    status, second = ask(server, "PUT", f"{LEASES}/a", changed)
    assert status == 200
    assert int(second["metadata"]["resourceVersion"]) > int(first["metadata"]["resourceVersion"])
    assert second["metadata"]["uid"] == first["metadata"]["uid"]
    status, refused = ask(server, "PUT", f"{LEASES}/a", changed)
    assert (status, refused["reason"]) == (409, "Conflict")
    stale = {"preconditions": {"resourceVersion": first["metadata"]["resourceVersion"]}}
    assert ask(server, "DELETE", f"{LEASES}/a", stale)[0] == 409
    assert ask(server, "POST", LEASES, lease("a"))[1]["reason"] == "AlreadyExists"
    assert ask(server, "GET", f"{LEASES}/a")[1]["spec"] == {"holderIdentity": "x"}


def test_a_write_that_changes_nothing_is_no_new_version(server: ApiServer) -> None:
    _, first = ask(server, "POST", LEASES, lease("a"))
    assert ask(server, "PUT", f"{LEASES}/a", first)[1] == first


def test_a_watch_tells_what_enters_and_leaves_its_selection(server: ApiServer) -> None:
    _, first = ask(server, "POST", LEASES, lease("a", labels={"mine": "no"}))
    for value in ("yes", "no"):
        patch = {"metadata": {"labels": {"mine": value}}}
        ask(server, "PATCH", f"{LEASES}/a", patch, patches.MERGE)
    version = first["metadata"]["resourceVersion"]
    events = watch(server, f"labelSelector=mine%3Dyes&resourceVersion={version}", 2)
    assert [kind for kind, _ in events] == ["ADDED", "DELETED"]
    assert int(events[1][1]["metadata"]["resourceVersion"]) > int(events[0][1]["metadata"]["resourceVersion"])


def test_a_watch_without_a_version_begins_with_what_there_is(server: ApiServer) -> None:
    ask(server, "POST", LEASES, lease("a"))
    assert [kind for kind, _ in watch(server, "", 1)] == ["ADDED"]


def test_bookmarks_come_where_they_are_asked_for(server: ApiServer) -> None:
    _, first = ask(server, "POST", LEASES, lease("a"))
    version = first["metadata"]["resourceVersion"]
    ((kind, item),) = watch(server, f"allowWatchBookmarks=true&resourceVersion={version}", 1)
    assert (kind, set(item)) == ("BOOKMARK", {"kind", "apiVersion", "metadata"})


def test_forgotten_and_future_versions(server: ApiServer) -> None:
    _, first = ask(server, "POST", LEASES, lease("a"))
    ask(server, "POST", LEASES, lease("b"))
    server.storage.compact()
    ((kind, item),) = watch(server, f"resourceVersion={first['metadata']['resourceVersion']}", 1)
    assert (kind, item["code"], item["reason"]) == ("ERROR", 410, "Expired")
    assert ask(server, "GET", f"{LEASES}?resourceVersion=99999")[0] == 504


def test_a_list_in_parts_is_one_list(server: ApiServer) -> None:
    for number in range(5):
        ask(server, "POST", LEASES, lease(f"l{number}"))
    names, token = [], ""
    while True:
        _, page = ask(server, "GET", f"{LEASES}?limit=2&continue={token}")
        names += [item["metadata"]["name"] for item in page["items"]]
        token = page["metadata"].get("continue", "")
        if not token:
            break
    assert names == [f"l{number}" for number in range(5)]


@pytest.mark.parametrize(
    ("method", "path", "body", "code"),
    [
        ("GET", "/api/v1/nowheres", None, 404),
        ("GET", f"{LEASES}/none", None, 404),
        ("POST", "/apis/coordination.k8s.io/v1/namespaces/none/leases", lease("a"), 404),
        ("POST", LEASES, lease("Not A Name"), 422),
        ("POST", LEASES, {"spec": {}}, 422),
        ("POST", LEASES, lease("a", namespace="other"), 400),
        ("POST", LEASES, ["not an object"], 400),
        ("GET", f"{LEASES}?labelSelector=a%20b%20c", None, 400),
        ("GET", f"{LEASES}?resourceVersion=new", None, 400),
    ],
)
def test_what_is_wrong_is_a_status(server: ApiServer, method: str, path: str, body: Any, code: int) -> None:
    status, answer = ask(server, method, path, body)
    assert (status, answer["kind"], answer["code"]) == (code, "Status", code)
    assert answer["message"]


def test_a_status_is_written_apart(server: ApiServer) -> None:
    pod = {"metadata": {"name": "p"}, "spec": {"nodeName": "n"}, "status": {"phase": "Pending"}}
    ask(server, "POST", "/api/v1/namespaces/default/pods", pod)
    path = "/api/v1/namespaces/default/pods/p"
    change = {"spec": {"nodeName": "m"}, "status": {"phase": "Running"}}
    _, found = ask(server, "PATCH", f"{path}/status", change, patches.MERGE)
    assert (found["spec"]["nodeName"], found["status"]["phase"]) == ("n", "Running")
    _, found = ask(server, "PATCH", path, {"spec": {"x": 1}, "status": {"phase": "Failed"}}, patches.STRATEGIC)
    assert (found["spec"]["x"], found["status"]["phase"]) == (1, "Running")


def test_patches() -> None:
    item = {"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}], "keep": [1, 2]}}
    strategic = {
        "spec": {"containers": [{"name": "b", "image": "3"}, {"name": "c"}, {"name": "a", "$patch": "delete"}]}
    }
    assert patches.patched(patches.STRATEGIC, item, strategic)["spec"] == {
        "containers": [{"name": "b", "image": "3"}, {"name": "c"}],
        "keep": [1, 2],
    }
    assert patches.patched(patches.MERGE, item, {"spec": {"keep": None, "containers": []}})["spec"] == {
        "containers": []
    }
    steps = [
        {"op": "test", "path": "/spec/keep/0", "value": 1},
        {"op": "add", "path": "/spec/keep/-", "value": 3},
        {"op": "remove", "path": "/spec/containers/0"},
        {"op": "replace", "path": "/spec/containers/0/image", "value": "9"},
    ]
    assert patches.patched(patches.JSON, item, steps)["spec"] == {
        "containers": [{"name": "b", "image": "9"}],
        "keep": [1, 2, 3],
    }


_KEYS = st.sampled_from(["app", "tier", "example.com/x"])
_VALUES = st.sampled_from(["a", "b", ""])


@given(st.dictionaries(_KEYS, _VALUES), _KEYS, st.lists(_VALUES.filter(bool), min_size=1))
def test_label_selectors_mean_what_they_say(labels: dict[str, str], key: str, values: list[str]) -> None:
    item = {"metadata": {"labels": labels}}
    listed = ",".join(values)
    assert by_labels(f"{key} in ({listed})")(item) is (labels.get(key) in values)
    assert by_labels(f"{key} notin ({listed})")(item) is (labels.get(key) not in values)
    assert by_labels(f"{key}={values[0]}")(item) is (labels.get(key) == values[0])
    assert by_labels(f"{key}!={values[0]}")(item) is (labels.get(key) != values[0])
    assert by_labels(key)(item) is (key in labels)
    assert by_labels(f"!{key}")(item) is (key not in labels)
