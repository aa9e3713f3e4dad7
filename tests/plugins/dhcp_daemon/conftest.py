"""A segment with a DHCP server for the daemon's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.plugins.dhcp_daemon import segment as module


@pytest.fixture
def segment(tmp_path: Path) -> Iterator[module.Segment]:
    """A host with a bridge, and one pod on it."""
    with module.made(tmp_path) as found:
        yield found
