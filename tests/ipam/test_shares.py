"""Where nodes look first: Weave's places, and never a block that has an owner."""

from ipaddress import IPv4Address, IPv4Network
from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.ipam.ranges import block_prefix, overlapping, parse_range
from weft.ipam.shares import (
    Consensus,
    RangeExhausted,
    Seed,
    donations,
    first_block,
    further_block,
    halves,
    middle_of_largest_gap,
    parse_init,
)

universes = st.builds(
    lambda prefix, base: IPv4Network((int(IPv4Address("10.0.0.0")) + base, prefix), strict=False),
    st.integers(12, 28),
    st.integers(0, 2**24 - 1),
)


@pytest.mark.parametrize(
    ("universe", "places"),
    [
        ("10.244.0.0/16", ["10.244.192.0", "10.244.64.0", "10.244.160.0", "10.244.128.0", "10.244.48.0"]),
        ("10.32.0.0/12", ["10.44.0.0", "10.36.0.0", "10.42.0.0", "10.40.0.0"]),
        ("10.4.0.0/16", ["10.4.192.0"]),
    ],
)
def test_later_nodes_start_where_weaves_first_peer_would_have_donated(universe: str, places: list[str]) -> None:
    found = islice(donations(IPv4Network(universe)), len(places))
    assert [str(place) for place in found] == places


def test_three_that_start_together_halve_the_range() -> None:
    shares = halves(IPv4Network("10.244.0.0/16"), 3)
    assert [str(share) for share in shares] == ["10.244.0.0/17", "10.244.128.0/18", "10.244.192.0/18"]


@given(universes, st.integers(1, 70))
def test_halves_cover_the_range_without_overlap(universe: IPv4Network, nodes: int) -> None:
    shares = halves(universe, nodes)
    assert sum(share.num_addresses for share in shares) == universe.num_addresses
    assert all(a.broadcast_address < b.network_address for a, b in pairwise(shares))


@given(universes)
def test_donations_are_aligned_distinct_blocks_inside_the_range(universe: IPv4Network) -> None:
    places = list(donations(universe))
    blocks = {IPv4Network((place, block_prefix(universe))) for place in places}
    assert len(blocks) == len(places)
    assert all(block.subnet_of(universe) for block in blocks)


@given(universes, st.sampled_from([None, Consensus(3), Seed(("a", "b"))]), st.data())
def test_every_block_is_found_once_until_the_range_is_exhausted(
    universe: IPv4Network, init: Consensus | Seed | None, data: st.DataObject
) -> None:
    total = 2 ** (block_prefix(universe) - universe.prefixlen)
    joins = min(total, 40)
    claimed: set[IPv4Network] = set()
    for index in range(joins):
        block = first_block(universe, claimed, init, data.draw(st.sampled_from(["a", "b", f"n{index}"])))
        assert block not in claimed
        assert block.subnet_of(universe)
        claimed.add(block)
    if total <= 40:
        with pytest.raises(RangeExhausted, match=str(universe)):
            first_block(universe, claimed, init, "late")


def test_a_node_grows_into_the_block_behind_its_newest() -> None:
    universe = IPv4Network("10.244.0.0/16")
    own = [IPv4Network("10.244.0.0/24")]
    assert further_block(universe, set(own), own) == IPv4Network("10.244.1.0/24")
    taken = {*own, IPv4Network("10.244.1.0/24")}
    assert further_block(universe, taken, own) == middle_of_largest_gap(universe, taken)


def test_the_middle_of_the_largest_gap() -> None:
    universe = IPv4Network("10.244.0.0/20")  # 64 blocks of /26
    claimed = {IPv4Network("10.244.0.0/26"), IPv4Network("10.244.12.0/26")}
    assert middle_of_largest_gap(universe, claimed) == IPv4Network("10.244.6.0/26")


@pytest.mark.parametrize(
    ("text", "init"),
    [
        ("consensus", None),
        ("consensus=1", None),
        ("consensus=3", Consensus(3)),
        ("seed=b,a", Seed(("a", "b"))),
    ],
)
def test_init_is_spelled_as_weave_spelled_it(text: str, init: Consensus | Seed | None) -> None:
    assert parse_init(text) == init


@pytest.mark.parametrize(
    "text", ["", "consensus=x", "consensus=0", "consensus=-1", "seed=", "seed=a,,b", "observer"]
)
def test_bad_init_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="ipalloc-init"):
        parse_init(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("10.32.0.0", "CIDR"),
        ("10.32.0.1/12", "did you mean 10.32.0.0/12"),
        ("10.32.0.0/33", "10.32.0.0/33"),
        ("fd00::/64", "IPv6"),
        ("10.0.0.0/29", "too small"),
        ("0.0.0.0/0", "larger"),
        ("224.0.0.0/8", "reserved"),
        ("127.0.0.0/8", "reserved"),
        ("pods", "CIDR"),
    ],
)
def test_bad_ranges_are_refused_by_name(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_range(text)


@given(st.text(max_size=20))
def test_any_text_is_a_range_or_a_value_error(text: str) -> None:
    try:
        network = parse_range(text)
    except ValueError:
        return
    assert str(network.network_address) == text.partition("/")[0]


def test_overlap_names_the_route_and_ignores_the_default_route() -> None:
    routes = [IPv4Network("0.0.0.0/0"), IPv4Network("192.168.1.0/24"), IPv4Network("10.32.201.0/24")]
    assert overlapping(IPv4Network("10.32.0.0/12"), routes) == IPv4Network("10.32.201.0/24")
    assert overlapping(IPv4Network("10.244.0.0/16"), routes) is None
