"""The blocks in order say the same as a look at every block."""

from dataclasses import replace
from ipaddress import IPv4Network, ip_network
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from weft.ipam.claimed import ClaimedBlocks
from weft.ipam.ranges import IPNetwork, PodRange

PODS = PodRange(IPv4Network("10.9.0.0/20"), 26)
SIX = PodRange.of("fd00::/116")
#: Blocks of the range, beside it on both sides, of another size and of another family.
blocks = st.one_of(
    st.integers(-3, 66).map(lambda number: ip_network((0x0A090000 + 64 * number, 26))),
    st.integers(0, 15).map(SIX.block),
    st.just(IPv4Network("10.9.1.0/24")),
)
parts = st.builds(
    lambda number, prefix: ip_network((0x0A090000 + number, prefix), strict=False),
    st.integers(-300, 4400),
    st.integers(19, 32),
)


def free_by_looking(pods: PodRange, claimed: set[IPNetwork]) -> list[int]:
    return [
        number
        for number in range(pods.block_count)
        if (block := pods.block(number)) not in claimed
        and not any(block.network_address in part and block.broadcast_address in part for part in pods.excluded)
    ]


@given(st.lists(st.tuples(st.booleans(), blocks), max_size=80), st.lists(parts, max_size=3))
def test_gaps_are_the_blocks_that_a_look_at_each_finds_free(
    changes: list[tuple[bool, IPNetwork]], excluded: list[IPv4Network]
) -> None:
    claimed, expected = ClaimedBlocks(), set[IPNetwork]()
    for added, block in changes:
        (claimed.add if added else claimed.discard)(block)
        (expected.add if added else expected.discard)(block)
    assert all((block in claimed) == (block in expected) for _, block in changes)
    for pods in (replace(PODS, excluded=tuple(excluded)), SIX):
        gaps = claimed.gaps(pods)
        free = [number for first, length in gaps for number in range(first, first + length)]
        assert free == free_by_looking(pods, expected)
        assert all(first + length < later for (first, length), (later, _) in pairwise(gaps))


def test_a_copy_is_changed_on_its_own() -> None:
    claimed = ClaimedBlocks([PODS.block(3)])
    copied = claimed.copy()
    copied.add(PODS.block(4))
    copied.discard(PODS.block(3))
    assert claimed.gaps(PODS) == [(0, 3), (4, 60)]
    assert copied.gaps(PODS) == [(0, 4), (5, 59)]
