"""Twin hosts for the tests of plugins."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.plugins import twins as module


@pytest.fixture
def twins(tmp_path: Path) -> Iterator[module.Twins]:
    """Two hosts with a pod each."""
    with module.made(tmp_path) as found:
        yield found
