"""Three members of etcd, one of which fails during a storm of claims (``python -m bench.store`` is longer)."""

from collections.abc import Iterator

import pytest

from tests.store.faults import FAULTS
from tests.store.storm import storm
from tests.store.trio import Trio, trio


@pytest.fixture(scope="module")
def three() -> Iterator[Trio]:
    with trio() as made:
        yield made


@pytest.mark.parametrize("fault", ["leader killed", "minority cut off", "leader's disk full"])
def test_no_block_has_two_owners_and_none_is_lost(three: Trio, fault: str) -> None:
    strike, heal = FAULTS[fault](three)
    outcome = storm(three, 4, strike, heal)
    assert outcome.claims > 0
    three.await_whole()
