"""Every engine in turn, and a store on it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.store.engines import ENGINES, Engine
from weft.store import Store, open_store


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
