"""The API server as a source: everything first, then what changes, whatever the server does."""

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.store.engines import KubernetesEngine, kubernetes
from weft.kubernetes import Client
from weft.lab.api.errors import ApiError
from weft.lab.api.kinds import Kind, find
from weft.npc.cluster import ClusterSource
from weft.npc.settings import open_source, parse_policy_settings
from weft.npc.source import Batch


def kind(group: str, plural: str) -> Kind:
    found = find(group, "v1", plural)
    assert found is not None
    return found


PODS, NAMESPACES = kind("", "pods"), kind("", "namespaces")
POLICIES = kind("networking.k8s.io", "networkpolicies")


def pod(name: str, address: str = "", **labels: str) -> dict[str, Any]:
    status = {"podIP": address, "phase": "Running"} if address else {}
    return {"metadata": {"name": name, "labels": labels}, "spec": {"nodeName": "node01"}, "status": status}


def policy(name: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"podSelector": {}, **spec}}


class Following:
    """What a source has told, folded together as the controller does."""

    def __init__(self, source: ClusterSource) -> None:
        self.batches: list[Batch] = []
        self.pods: dict[str, Any] = {}
        self.namespaces: set[str] = set()
        self.policies: dict[str, Any] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(source,))
        self._thread.start()

    def _run(self, source: ClusterSource) -> None:
        for batch in source.batches(self._stopping.is_set):
            if batch.whole:
                self.pods, self.namespaces, self.policies = {}, set(), {}
            for uid in batch.gone_pods:
                self.pods.pop(uid, None)
            self.namespaces -= set(batch.gone_namespaces)
            for key in batch.gone_policies:
                self.policies.pop(key[1], None)
            self.pods |= {item.uid: item for item in batch.pods}
            self.namespaces |= {item.name for item in batch.namespaces}
            self.policies |= {item.name: item for item in batch.policies}
            self.batches.append(batch)

    def names(self) -> set[str]:
        return {item.name for item in self.pods.values()}

    def knows(self, name: str) -> bool:
        return name in self.names()

    def __enter__(self) -> "Following":
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()


def wait_for(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[KubernetesEngine]:
    with kubernetes(tmp_path) as made:
        yield made


@pytest.fixture
def source(engine: KubernetesEngine) -> ClusterSource:
    return ClusterSource(Client.open(str(engine.kubeconfig)))


def test_everything_first_then_what_changes(engine: KubernetesEngine, source: ClusterSource) -> None:
    storage = engine.server.storage
    storage.create(PODS, "default", pod("a", "10.32.0.2", app="web"))
    storage.create(POLICIES, "default", policy("deny"))
    with Following(source) as told:
        wait_for(lambda: told.batches)
        first = told.batches[0]
        assert (first.whole, told.names(), set(told.policies)) == (True, {"a"}, {"deny"})
        assert {"default", "kube-system"} <= told.namespaces
        assert told.policies["deny"].problems == ()
        storage.create(PODS, "default", pod("b"))
        wait_for(lambda: told.names() == {"a", "b"})
        storage.change(PODS, "default", "b", lambda item: item | {"status": {"podIP": "10.32.0.3"}}, status=True)
        wait_for(lambda: {item.addresses for item in told.pods.values()} == {("10.32.0.2",), ("10.32.0.3",)})
        storage.delete(PODS, "default", "a")
        storage.delete(POLICIES, "default", "deny")
        storage.create(NAMESPACES, "", {"metadata": {"name": "other"}})
        wait_for(lambda: told.names() == {"b"} and not told.policies and "other" in told.namespaces)
        assert not any(batch.whole for batch in told.batches[1:])


def test_one_that_is_made_anew_is_not_gone(engine: KubernetesEngine, source: ClusterSource) -> None:
    storage = engine.server.storage
    storage.create(POLICIES, "default", policy("deny"))
    with Following(source) as told:
        wait_for(lambda: told.policies)
        for _ in range(5):
            storage.delete(POLICIES, "default", "deny")
            storage.create(POLICIES, "default", policy("deny", policyTypes=["Egress"]))
        wait_for(lambda: told.policies.get("deny") and told.policies["deny"].egress == ())


def test_a_cut_a_refusal_and_a_forgotten_version_leave_nothing_out(
    engine: KubernetesEngine, source: ClusterSource
) -> None:
    storage = engine.server.storage
    with Following(source) as told:
        wait_for(lambda: told.batches)
        for number in range(4):
            engine.server.faults.cuts += 1
            engine.server.faults.refusals.append(ApiError("ServiceUnavailable", "starting"))
            storage.create(PODS, "default", pod(f"p{number}"))
            wait_for(partial(told.knows, f"p{number}"))
        storage.create(PODS, "default", pod("late"))
        storage.delete(PODS, "default", "p0")
        storage.compact()
        engine.server.faults.cuts += 1
        wait_for(lambda: told.names() == {"p1", "p2", "p3", "late"})


def test_a_server_that_is_away_at_the_start_is_waited_for(engine: KubernetesEngine, source: ClusterSource) -> None:
    engine.server.faults.refusals += [ApiError("ServiceUnavailable", "starting")] * 3
    with Following(source) as told:
        wait_for(lambda: told.batches)


def test_an_object_that_cannot_be_read_stops_no_other(engine: KubernetesEngine, source: ClusterSource) -> None:
    storage = engine.server.storage
    storage.create(PODS, "default", pod("odd", "no address"))
    storage.create(POLICIES, "default", policy("odd", ingress=[{"from": [{"ipBlock": {"cidr": "10.0.0.1/8"}}]}]))
    storage.create(PODS, "default", pod("good"))
    with Following(source) as told:
        wait_for(lambda: told.batches)
        assert told.names() == {"good"}
        assert told.policies["odd"].problems
        assert told.policies["odd"].ingress == ()


def test_settings_name_the_source(engine: KubernetesEngine, tmp_path: Path) -> None:
    settings = parse_policy_settings({"policy-api": engine.url})
    assert isinstance(open_source(settings), ClusterSource)
    assert open_source(parse_policy_settings({})) is None
    with pytest.raises(ValueError, match="/nowhere"):
        open_source(parse_policy_settings({"policy-api": "kubernetes:///nowhere"}))
    for values, said in (
        ({"policy-api": "https://x"}, "write it as kubernetes://"),
        ({"policy-api": engine.url, "policy-dir": str(tmp_path)}, "one of them"),
        ({"policy-api": engine.url, "expect-npc": "1"}, "the controller's to give"),
    ):
        with pytest.raises(ValueError, match=said):
            parse_policy_settings(values)
