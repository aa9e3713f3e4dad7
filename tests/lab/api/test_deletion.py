"""What is deleted and has to end first: a mark, then what a node's kubelet says."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.api.test_kubectl import POD, Cluster
from weft.lab.api.deletion import is_ending
from weft.lab.api.errors import ApiError
from weft.lab.api.journal import Journal
from weft.lab.api.kinds import KINDS
from weft.lab.api.storage import Object, Selection, Storage

KIND = {kind.name: kind for kind in KINDS}
needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl here")


@pytest.fixture
def storage() -> Storage:
    return Storage(kubelets=True)


def pod(storage: Storage, name: str, namespace: str = "default", **spec: object) -> Object:
    wanted = {"nodeName": "node01", "containers": []} | spec
    return storage.create(KIND["Pod"], namespace, {"metadata": {"name": name}, "spec": wanted})


def delete(storage: Storage, name: str, namespace: str = "default", grace: int | None = None) -> Object:
    return storage.delete(KIND["Pod"], namespace, name, grace=grace)


def names(storage: Storage, kind: str = "Pod") -> list[str]:
    return [item["metadata"]["name"] for item in storage.list(Selection(KIND[kind]))[0]]


def test_a_pod_is_gone_when_its_kubelet_says_so(storage: Storage) -> None:
    made = pod(storage, "a", terminationGracePeriodSeconds=7)
    version = storage.version
    ending = delete(storage, "a")
    assert ending["metadata"]["uid"] == made["metadata"]["uid"]
    assert ending["metadata"]["deletionGracePeriodSeconds"] == 7
    told = storage.watch(Selection(KIND["Pod"]), version, lambda: False)
    kind, item = next(told)
    assert (kind, is_ending(item)) == ("MODIFIED", True)
    # A write takes the mark from nobody, and another DELETE gives no more time.
    storage.change(
        KIND["Pod"], "default", "a", lambda old: old | {"metadata": {"name": "a", "labels": {"b": "c"}}}
    )
    assert delete(storage, "a", grace=30)["metadata"]["deletionGracePeriodSeconds"] == 7
    assert delete(storage, "a", grace=1)["metadata"]["deletionGracePeriodSeconds"] == 1
    assert names(storage) == ["a"]
    with pytest.raises(ApiError, match="Precondition failed: uid"):
        storage.delete(KIND["Pod"], "default", "a", {"uid": "another"}, grace=0)
    delete(storage, "a", grace=0)
    assert names(storage) == []
    assert [next(told)[0] for _ in range(3)] == ["MODIFIED", "MODIFIED", "DELETED"]


def test_what_nobody_runs_goes_at_once(storage: Storage) -> None:
    pod(storage, "nowhere", nodeName="")
    pod(storage, "over")
    storage.change(
        KIND["Pod"], "default", "over", lambda old: old | {"status": {"phase": "Succeeded"}}, status=True
    )
    pod(storage, "at-once", terminationGracePeriodSeconds=0)
    for name in names(storage):
        assert not is_ending(delete(storage, name))
    assert names(storage) == []


def test_a_namespace_ends_with_the_last_of_its_pods(storage: Storage) -> None:
    storage.create(KIND["Namespace"], "", {"metadata": {"name": "team"}, "status": {}})
    storage.create(KIND["ConfigMap"], "team", {"metadata": {"name": "settings"}})
    for name in ("a", "b"):
        pod(storage, name, "team")
    pod(storage, "other")
    ending = storage.delete(KIND["Namespace"], "", "team")
    assert (is_ending(ending), ending["status"]["phase"]) == (True, "Terminating")
    assert "settings" not in names(storage, "ConfigMap")
    assert storage.delete(KIND["Namespace"], "", "team") == ending
    with pytest.raises(ApiError, match="namespace team is being terminated"):
        pod(storage, "late", "team")
    delete(storage, "a", "team", grace=0)
    assert "team" in names(storage, "Namespace")
    delete(storage, "b", "team", grace=0)
    assert "team" not in names(storage, "Namespace")
    assert names(storage) == ["other"]
    assert not is_ending(storage.get(KIND["Pod"], "default", "other"))


def test_what_ends_ends_after_a_restart_of_the_server_too(tmp_path: Path) -> None:
    before = Storage(Journal(tmp_path / "objects"), kubelets=True)
    pod(before, "a")
    delete(before, "a")
    after = Storage(Journal(tmp_path / "objects"), kubelets=True)
    assert is_ending(after.get(KIND["Pod"], "default", "a"))
    delete(after, "a", grace=0)
    assert names(after) == []


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path, Storage(kubelets=True))
    yield made
    made.server.stop()


@needs_kubectl
def test_kubectl_waits_for_the_end_and_shows_it(cluster: Cluster) -> None:
    cluster.run("apply", "-f", "-", given=POD)
    deleting = cluster.popen("delete", "pod", "web")
    try:
        assert deleting.stdout is not None
        assert deleting.stdout.readline() == 'pod "web" deleted\n'
        assert cluster.run("get", "pods", "--no-headers").split()[2] == "Terminating"
        assert deleting.poll() is None
        cluster.server.storage.delete(KIND["Pod"], "default", "web", grace=0)
        assert deleting.wait(60) == 0
    finally:
        deleting.kill()
        deleting.wait()
        deleting.stdout.close()  # type: ignore[union-attr]


@needs_kubectl
def test_kubectl_deletes_by_force_and_soon(cluster: Cluster) -> None:
    cluster.run("apply", "-f", "-", given=POD)
    cluster.run("delete", "pod", "web", "--now", "--wait=false")
    item = cluster.server.storage.get(KIND["Pod"], "default", "web")
    assert item["metadata"]["deletionGracePeriodSeconds"] == 1
    cluster.run("delete", "pod", "web", "--force", "--grace-period=0")
    assert "No resources found" in cluster.run("get", "pods")
