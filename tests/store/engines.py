"""The engines that every test of stores runs on."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from uuid import uuid4

import yaml

from tests.namespaces import path
from tests.store.etcd import PORT, Etcd, shared_etcd
from weft.kernel.namespace import NetworkNamespace
from weft.lab.api import ApiServer
from weft.lab.api.kinds import find
from weft.store import sqlite

#: The nodes that are there where nodes are somebody else's objects.
NODES = ("a", "b", "c", "n1", "n2", "n3", "controlplane", "node01", "node02")


class Engine(ABC):
    """One engine, up and empty. ``url`` opens a store on it."""

    url: str

    @abstractmethod
    def forget(self) -> None:
        """Forget all changes until now, so that no watch can begin before."""


class SqliteEngine(Engine):
    """A file of the test."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "store.db"
        self.url = f"sqlite://{self._path}"

    def forget(self) -> None:
        store = sqlite.SqliteStore(str(self._path))
        kept, sqlite.KEPT_CHANGES = sqlite.KEPT_CHANGES, 1
        try:
            entry = store.create("forget", b"")
            store.delete(entry.key, entry.revision)
        finally:
            sqlite.KEPT_CHANGES = kept
            store.close()


class KubernetesEngine(Engine):
    """An API server in this process, which kubectl can be pointed at too."""

    def __init__(self, folder: Path, server: ApiServer) -> None:
        self.server = server
        self.kubeconfig = folder / "kubeconfig"
        self.kubeconfig.write_text(kubeconfig(server.url))
        self.url = f"kubernetes://{self.kubeconfig}"
        nodes = find("", "v1", "nodes")
        assert nodes is not None
        for name in NODES:
            server.storage.create(nodes, "", {"metadata": {"name": name}})

    def forget(self) -> None:
        self.server.storage.compact()


class EtcdEngine(Engine):
    """A prefix of its own in an etcd that the tests of one process share."""

    def __init__(self, server: Etcd) -> None:
        self.server = server
        self.url = f"etcd://127.0.0.1:{PORT}/test-{uuid4().hex}"

    def forget(self) -> None:
        now = json.loads(self.server.control("get", "x", "--write-out=json"))["header"]["revision"]
        # What is compacted last is still known: let it be nobody's change.
        self.server.control("put", "x", "")
        self.server.control("compaction", str(now + 1))


def kubeconfig(server: str, *, token: str = "weft", namespace: str = "kube-system", authority: str = "") -> str:  # noqa: S107
    """A kubeconfig for one user of one server."""
    cluster = {"server": server} | ({"certificate-authority": authority} if authority else {})
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": cluster}],
        "users": [{"name": "weft", "user": {"token": token}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "weft", "namespace": namespace}}],
        "current-context": "lab",
    }
    return yaml.safe_dump(content)


@contextmanager
def _sqlite(folder: Path) -> Iterator[Engine]:
    yield SqliteEngine(folder)


@contextmanager
def _etcd(folder: Path) -> Iterator[Engine]:
    """The calling thread, and what it starts, is where nothing but this etcd can be reached."""
    server = shared_etcd()
    with NetworkNamespace.open(path(server.namespace)) as namespace, namespace.entered():
        yield EtcdEngine(server)


@contextmanager
def kubernetes(folder: Path) -> Iterator[KubernetesEngine]:
    """The engine, ended with the block."""
    server = ApiServer(bookmark_interval=0.3)
    server.start()
    try:
        yield KubernetesEngine(folder, server)
    finally:
        server.stop()


ENGINES: dict[str, Callable[[Path], AbstractContextManager[Engine]]] = {
    "sqlite": _sqlite,
    "etcd": _etcd,
    "kubernetes": kubernetes,
}
