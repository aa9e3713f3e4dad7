"""What nodes agree on: settings that come one by one, old beside new, add up or are refused."""

from dataclasses import replace
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.ipam.agreement import (
    Agreement,
    Disagreement,
    settled,
    with_excluded,
    with_included,
    with_ranges,
    without_range,
)
from weft.ipam.ranges import PodRange, parse_ranges

A, B, SIX = "10.1.0.0/16", "10.2.0.0/16", "fd00:1::/64"
names = st.permutations([A, B, SIX, "10.3.0.0/20", "fd00:2::/64"])


def agreement(text: str, sizes: str = "", excluded: str = "") -> Agreement:
    return Agreement(parse_ranges(text, sizes, excluded))


def texts(agreed: Agreement) -> list[str]:
    return list(map(str, agreed.ranges))


@given(names, st.integers(1, 5), st.integers(1, 5))
def test_who_is_told_more_adds_it_and_who_is_told_less_goes_on_with_all(
    order: list[str], first: int, second: int
) -> None:
    present = Agreement(tuple(sorted(map(PodRange.of, order[:first]), key=lambda pods: pods.version)))
    wish = [PodRange.of(text) for text in order[:second]]
    if all(pods.version == 6 for pods in present.ranges):
        return
    agreed = settled(present, wish)
    assert set(texts(agreed)) == {*order[: max(first, second)]}
    # What was there keeps its place; IPv4 comes first.
    kept = [text for text in texts(agreed) if text in texts(present)]
    assert kept == texts(present)
    assert [pods.version for pods in agreed.ranges] == sorted(pods.version for pods in agreed.ranges)
    # Whoever comes afterwards, with settings old or new, changes nothing.
    assert settled(agreed, wish) is agreed
    assert settled(agreed, present.ranges) is agreed


@pytest.mark.parametrize(
    ("present", "given", "said"),
    [
        (A, B, f"range {B} does not match the cluster's range {A}: give --range {A}, further"),
        (f"{A},{B}", f"{A},10.3.0.0/16", f"range {A},10.3.0.0/16 does not match the cluster's range {A},{B}"),
        (A, "10.1.0.0/17", f"range 10.1.0.0/17 does not match the cluster's range {A}"),
        (f"{A},{SIX}", f"{A},fd00:9::/64", "fd00:9::/64 does not match"),
    ],
)
def test_settings_that_contradict_are_refused_naming_both(present: str, given: str, said: str) -> None:
    with pytest.raises(Disagreement, match=said):
        settled(agreement(present), parse_ranges(given))


def test_block_sizes_are_the_clusters_and_another_one_that_is_asked_for_is_refused() -> None:
    present = agreement(A, "24")
    assert settled(present, parse_ranges(A)) is present
    added = settled(present, parse_ranges(f"{A},{B}", f"{B}=27"), [ip_network(B)])
    assert [pods.block_prefix for pods in added.ranges] == [24, 27]
    with pytest.raises(Disagreement, match=f"block size 26 does not match the cluster's 24 of {A}"):
        settled(present, parse_ranges(A, "26"), [ip_network(A)])


def test_exclusions_add_up() -> None:
    one = settled(agreement(A), parse_ranges(A, "", "10.1.0.0/25"))
    two = settled(one, parse_ranges(f"{A},{B}", "", f"10.1.0.128/25,{B}"))
    assert [list(map(str, pods.excluded)) for pods in two.ranges] == [["10.1.0.0/24"], [B]]
    assert two.ranges[1].closed
    assert settled(two, parse_ranges(A)) is two
    with pytest.raises(Disagreement, match=f"all of {A}, {B} is excluded"):
        with_excluded(two, [ip_network(A)])


@given(st.lists(st.integers(0, 255), max_size=8), st.lists(st.integers(0, 255), max_size=8))
def test_what_is_included_again_is_all_that_is_missing(out: list[int], back: list[int]) -> None:
    def part(number: int) -> str:
        return f"10.1.{number // 16}.{number % 16 * 16}/28"

    present = with_excluded(agreement(A), [ip_network(part(number)) for number in out])
    again = [ip_network(part(number)) for number in back]
    if not set(back) <= set(out):
        with pytest.raises(Disagreement, match="is not excluded as a whole; excluded:"):
            with_included(present, again)
        return
    left = with_included(present, again)
    addresses = {address for excluded in left.ranges[0].excluded for address in excluded}
    assert addresses == {address for number in set(out) - set(back) for address in ip_network(part(number))}


def test_a_range_is_removed_when_nobody_owns_a_block_of_it_and_old_settings_do_not_bring_it_back() -> None:
    present = agreement(f"{A},{B},{SIX}")
    with pytest.raises(Disagreement, match=rf"{A} is in use: blocks of it are owned by n1 \(2\), n2 \(1\)"):
        without_range(present, ip_network(A), ["n2", "n1", "n1"])
    with pytest.raises(Disagreement, match=r"no range 10\.9\.0\.0/16; there are: 10"):
        without_range(present, ip_network("10.9.0.0/16"), [])
    left = without_range(present, ip_network(A), [])
    assert texts(left) == [B, SIX]
    assert settled(left, parse_ranges(f"{A},{B}")) is left
    assert settled(left, parse_ranges(A)) is left
    with pytest.raises(Disagreement, match=f"{B} is the only IPv4 range"):
        without_range(left, ip_network(B), [])
    with pytest.raises(Disagreement, match="is excluded"):
        without_range(with_excluded(present, [ip_network(B)]), ip_network(A), [])
    # By a word of its own it does come back, behind the others.
    back = with_ranges(left, parse_ranges(A))
    assert texts(back) == [B, A, SIX]
    assert not back.removed


def test_a_range_that_overlaps_one_of_the_clusters_is_refused() -> None:
    with pytest.raises(Disagreement, match=r"ranges 10\.1\.0\.0/16 and 10\.0\.0\.0/15 overlap"):
        with_ranges(agreement(A), [replace(PodRange.of("10.0.0.0/15"))])
