"""Where nodes look first: Weave's places, and never a block that has an owner."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.ipam.claimed import ClaimedBlocks
from weft.ipam.ranges import PodRange, overlapping, parse_range, parse_ranges
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
    scattered_block,
)

universes = st.one_of(
    st.builds(
        lambda prefix, base: PodRange.of(IPv4Network((int(IPv4Address("10.0.0.0")) + base, prefix), strict=False)),
        st.integers(12, 28),
        st.integers(0, 2**24 - 1),
    ),
    st.builds(
        lambda prefix, base: PodRange.of(IPv6Network((int(IPv6Address("fd00::")) + base, prefix), strict=False)),
        st.integers(40, 124),
        st.integers(0, 2**80 - 1),
    ),
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
    found = islice(donations(PodRange.of(universe)), len(places))
    assert [str(place) for place in found] == places


def test_three_that_start_together_halve_the_range() -> None:
    shares = halves(PodRange.of("10.244.0.0/16"), 3)
    assert [str(share) for share in shares] == ["10.244.0.0/17", "10.244.128.0/18", "10.244.192.0/18"]


@given(universes, st.integers(1, 70))
def test_halves_cover_the_range_without_overlap(universe: PodRange, nodes: int) -> None:
    shares = halves(universe, nodes)
    assert sum(share.num_addresses for share in shares) == universe.network.num_addresses
    assert all(int(a.broadcast_address) < int(b.network_address) for a, b in pairwise(shares))


@given(universes)
def test_donations_are_aligned_distinct_blocks_inside_the_range(universe: PodRange) -> None:
    places = list(islice(donations(universe), 100))
    blocks = {universe.block_at(place) for place in places}
    assert len(blocks) == len(places)
    assert all(universe.holds(block) for block in blocks)
    assert {block.network_address for block in blocks} == set(places)


@given(universes, st.sampled_from([None, Consensus(3), Seed(("a", "b"))]), st.data())
def test_every_block_is_found_once_until_the_range_is_exhausted(
    universe: PodRange, init: Consensus | Seed | None, data: st.DataObject
) -> None:
    total = universe.block_count
    joins = min(total, 40)
    claimed = ClaimedBlocks()
    for index in range(joins):
        block = first_block(universe, claimed, init, data.draw(st.sampled_from(["a", "b", f"n{index}"])))
        assert block not in claimed
        assert universe.holds(block)
        claimed.add(block)
    if total <= 40:
        with pytest.raises(RangeExhausted, match=str(universe)):
            first_block(universe, claimed, init, "late")


def test_a_node_grows_into_the_block_behind_its_newest() -> None:
    universe = PodRange.of("10.244.0.0/16")
    own = [IPv4Network("10.244.0.0/26")]
    assert further_block(universe, ClaimedBlocks(own), own) == IPv4Network("10.244.0.64/26")
    taken = ClaimedBlocks([*own, IPv4Network("10.244.0.64/26")])
    assert further_block(universe, taken, own) == middle_of_largest_gap(universe, taken)


def test_the_middle_of_the_largest_gap() -> None:
    universe = PodRange.of("10.244.0.0/20")  # 64 blocks of /26
    claimed = ClaimedBlocks([IPv4Network("10.244.0.0/26"), IPv4Network("10.244.12.0/26")])
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
        ("fd00::1/64", "did you mean fd00::/64"),
        ("fd00::/125", "too small"),
        ("fe80::/16", "reserved"),
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
    assert network.network_address == ip_address(text.partition("/")[0])


def test_overlap_names_the_route_and_ignores_the_default_route() -> None:
    routes = [IPv4Network("0.0.0.0/0"), IPv4Network("192.168.1.0/24"), IPv4Network("10.32.201.0/24")]
    assert overlapping(IPv4Network("10.32.0.0/12"), routes) == IPv4Network("10.32.201.0/24")
    assert overlapping(IPv4Network("10.244.0.0/16"), routes) is None


def test_ranges_are_sorted_by_family_with_their_own_settings() -> None:
    first, second = parse_ranges(
        "fd00:10:32::/48,10.32.0.0/12", "122,24", "10.32.0.10,fd00:10:32::5-fd00:10:32::7"
    )
    assert (str(first), first.block_prefix, [str(part) for part in first.excluded]) == (
        "10.32.0.0/12", 24, ["10.32.0.10/32"],
    )  # fmt: skip
    assert (str(second), second.block_prefix) == ("fd00:10:32::/48", 122)
    assert not second.usable(IPv6Address("fd00:10:32::6"))
    assert second.usable(IPv6Address("fd00:10:32::8"))


@pytest.mark.parametrize(
    ("ranges", "sizes", "excluded", "said"),
    [
        ("10.32.0.0/12,10.40.0.0/16", "", "", "ranges 10.32.0.0/12 and 10.40.0.0/16 overlap: give ranges that"),
        ("10.32.0.0/12,10.32.0.0/12", "", "", "10.32.0.0/12 is given twice"),
        ("fd00::/48", "", "", "'fd00::/48': give an IPv4 range"),
        ("10.32.0.0/12,", "", "", "'' is not a range"),
        ("10.32.0.0/12", "10.0.0.0/8=24", "", "'10.0.0.0/8=24': 10.0.0.0/8 is not among the ranges 10.32.0.0/12"),
        ("10.32.0.0/12", "10.32.0.0/12=30", "", "give a prefix length of 20 to 29 for 10.32.0.0/12"),
        ("10.32.0.0/12,10.9.0.0/27", "26", "", "28 to 29 for 10.9.0.0/27, as 10.9.0.0/27=28"),
        ("10.32.0.0/12,10.9.0.0/27", "", "10.9.0.32", "not inside of 10.32.0.0/12 or 10.9.0.0/27"),
        ("10.32.0.0/12", "30", "", "'30': give a prefix length of 20 to 29 for 10.32.0.0/12"),
        ("10.32.0.0/24", "24", "", "'24': give a prefix length of 25 to 29"),
        ("10.32.0.0/12", "big", "", "'big'"),
        ("10.32.0.0/12", "", "10.64.0.1", "10.64.0.1.*not inside"),
        ("10.32.0.0/12", "", "10.32.0.9-10.32.0.1", "10.32.0.9-10.32.0.1"),
        ("10.32.0.0/12", "", "all", "'all'"),
    ],
)
def test_bad_settings_of_ranges_are_refused_by_name(ranges: str, sizes: str, excluded: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_ranges(ranges, sizes, excluded)


def test_ranges_of_one_family_stay_in_the_order_given_each_with_its_own_settings() -> None:
    texts = "fd00:10:32::/48,10.245.0.0/16,10.244.0.0/16,fd00:10:33::/48"
    ranges = parse_ranges(texts, "27,10.244.0.0/16=24,118", "10.244.0.0/16,10.245.0.0/16,fd00:10:33::1")
    assert [(str(pods), pods.block_prefix, pods.closed) for pods in ranges] == [
        ("10.245.0.0/16", 27, True), ("10.244.0.0/16", 24, True),
        ("fd00:10:32::/48", 118, False), ("fd00:10:33::/48", 118, False),
    ]  # fmt: skip
    assert not ranges[3].usable(IPv6Address("fd00:10:33::1"))
    # A size for every range, and another one for one of them, in either order.
    assert [pods.block_prefix for pods in parse_ranges("10.1.0.0/16,10.9.0.0/27", "10.9.0.0/27=28")] == [26, 28]


def test_a_block_that_is_excluded_as_a_whole_is_never_chosen() -> None:
    (pods,) = parse_ranges("10.9.0.0/26", "28", "10.9.0.0/28,10.9.0.32/27")
    assert ClaimedBlocks().gaps(pods) == [(1, 1)]
    block = first_block(pods, ClaimedBlocks(), None, "a")
    assert block == IPv4Network("10.9.0.16/28")
    with pytest.raises(RangeExhausted):
        scattered_block(pods, ClaimedBlocks([block]), "a", 4)


@given(universes, st.data())
def test_nodes_that_lost_a_race_look_at_free_blocks_of_their_own(universe: PodRange, data: st.DataObject) -> None:
    total = min(universe.block_count, 1000)
    numbers = data.draw(st.sets(st.integers(0, total - 1), max_size=20))
    claimed = ClaimedBlocks(map(universe.block, numbers))
    if len(numbers) < universe.block_count:
        block = scattered_block(universe, claimed, "a", 4)
        assert universe.holds(block)
        assert block not in claimed
        assert block == scattered_block(universe, claimed, "a", 4)


@given(universes, st.data())
def test_a_block_within_networks_has_addresses_of_them(universe: PodRange, data: st.DataObject) -> None:
    longest = universe.network.max_prefixlen
    parts = st.tuples(
        st.integers(0, universe.network.num_addresses - 1), st.integers(universe.network.prefixlen, longest)
    ).map(lambda pair: ip_network((universe.network[pair[0]], pair[1]), strict=False))
    within = data.draw(st.lists(parts, min_size=1, max_size=3))
    numbers = data.draw(st.sets(st.integers(0, min(universe.block_count, 1000) - 1), max_size=20))
    claimed = ClaimedBlocks(map(universe.block, numbers))
    try:
        block = scattered_block(universe, claimed, "a", 1, within)
    except RangeExhausted:
        assert all(any(block.overlaps(part) for block in map(universe.block, numbers)) for part in within)
        return
    assert universe.holds(block)
    assert block not in claimed
    assert any(block.overlaps(part) for part in within)


def test_five_thousand_nodes_with_110_pods_and_a_spare_block_fit_into_the_default_range() -> None:
    pods = PodRange.of("10.32.0.0/12")
    blocks_of_a_node = -(-(110 + 1) // pods.block_size) + 1
    assert 5000 * blocks_of_a_node <= pods.block_count
