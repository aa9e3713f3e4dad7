"""Every engine in turn, and a store on it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.namespaces import ip, network_namespace, path
from tests.store.engines import ENGINES, Engine
from tests.store.etcd import Etcd, Opened, etcd
from weft.kernel.namespace import NetworkNamespace
from weft.store import Store, open_store
from weft.store.etcd import EtcdStore


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """An engine without content."""
    with ENGINES[request.param](tmp_path) as made:
        yield made


@pytest.fixture
def url(engine: Engine) -> str:
    """What opens a store on the engine."""
    return engine.url


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """A store on the engine."""
    opened = open_store(url)
    yield opened
    opened.close()


@pytest.fixture
def server() -> Iterator[Etcd]:
    """An etcd that the test may kill; the test runs in its namespace."""
    with etcd() as made, NetworkNamespace.open(path(made.namespace)) as place, place.entered():
        yield made


@pytest.fixture
def loopback() -> Iterator[None]:
    """The test runs in a namespace with nothing but loopback."""
    with network_namespace() as name, NetworkNamespace.open(path(name)) as place, place.entered():
        ip("link", "set", "lo", "up", namespace=name)
        yield


@pytest.fixture
def opened() -> Iterator[Opened]:
    """Opens stores, which are closed after the test."""
    stores: list[EtcdStore] = []

    def opening(url: str) -> EtcdStore:
        stores.append(EtcdStore.open(url))
        return stores[-1]

    yield opening
    for store in stores:
        store.close()
