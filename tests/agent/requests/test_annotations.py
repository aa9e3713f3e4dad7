"""Calico's annotations read as far as they mean something here; anything else is refused by name."""

import json
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.agent.requests.annotations import (
    ADDRESSES,
    POOLS,
    WITHOUT_IPAM,
    BadAnnotation,
    of_namespace,
    of_pod,
    that_ask,
)
from weft.ipam.ranges import parse_ranges

FOUR = parse_ranges("10.244.0.0/16")
BOTH = parse_ranges("10.244.0.0/16,fd00:10:244::/48")
KEYS = (ADDRESSES, WITHOUT_IPAM, *POOLS.values())


def test_addresses_and_pools_of_a_pod() -> None:
    asked = of_pod("web/a", {ADDRESSES: '["fd00:10:244::9", "10.244.0.9"]', POOLS[4]: '["10.244.7.0/24"]'}, BOTH)
    assert {version: wanted.address for version, wanted in asked.items()} == {
        4: IPv4Address("10.244.0.9"),
        6: IPv6Address("fd00:10:244::9"),
    }
    assert asked[4].origin == "pod web/a: annotation cni.projectcalico.org/ipAddrs"
    asked = of_pod("web/a", {ADDRESSES: '["10.244.0.9"]', POOLS[6]: '["fd00:10:244::/64"]'}, BOTH)
    assert asked[4].address == IPv4Address("10.244.0.9")
    assert (asked[6].address, asked[6].within) == (None, (ip_network("fd00:10:244::/64"),))
    asked = of_pod("web/a", {POOLS[4]: '["10.244.7.0/24", "10.244.9.8/29"]', "other": "x"}, FOUR)
    assert asked[4].within == (IPv4Network("10.244.7.0/24"), IPv4Network("10.244.9.8/29"))


def test_what_is_empty_asks_for_nothing_and_an_empty_list_of_pools_for_any() -> None:
    assert of_pod("web/a", dict.fromkeys(KEYS, ""), BOTH) == {}
    assert of_pod("web/a", {POOLS[4]: "[]"}, FOUR)[4].within == ()


def test_a_namespace_asks_by_pools_of_the_families_that_are_left() -> None:
    told = that_ask({POOLS[4]: '["10.244.7.0/24"]', POOLS[6]: "", ADDRESSES: '["10.244.0.9"]', "a": "b"})
    assert told == {POOLS[4]: '["10.244.7.0/24"]'}
    assert of_namespace("web", told, BOTH, {4, 6})[4].within == (IPv4Network("10.244.7.0/24"),)
    assert of_namespace("web", told, BOTH, {6}) == {}
    with pytest.raises(BadAnnotation, match="namespace web: annotation cni.projectcalico.org/ipv4pools '7': give"):
        of_namespace("web", {POOLS[4]: "7"}, BOTH, {4})


@pytest.mark.parametrize(
    ("key", "text", "said"),
    [
        (ADDRESSES, "10.244.0.9", "give a JSON list of one address, or one of each family"),
        (ADDRESSES, "[]", "give a JSON list of one address"),
        (ADDRESSES, "null", "give a JSON list of one address"),
        (ADDRESSES, '["10.244.0.9/16"]', "'10.244.0.9/16' is not an address"),
        (ADDRESSES, "[7]", "give a JSON list"),
        (ADDRESSES, '["10.244.0.8", "10.244.0.9"]', "a pod has one IPv4 address"),
        (WITHOUT_IPAM, '["10.244.0.9"]', "use cni.projectcalico.org/ipAddrs"),
        (POOLS[4], '["default-ipv4-ippool"]', "no IPPools with names here; give the pod range or a part of it"),
        (POOLS[4], '["10.99.0.0/16"]', r'not inside of 10.244.0.0/16; .* such as \["10.244.0.0/16"\]'),
        (POOLS[4], '["10.0.0.0/8"]', "not inside of 10.244.0.0/16"),
        (POOLS[4], '["10.244.0.9/24"]', "did you mean 10.244.0.0/24"),
        (POOLS[4], '["fd00:10:244::/64"]', "is not of IPv4"),
        (POOLS[4], "{}", "give a JSON list of CIDRs"),
        (POOLS[6], '["fd00::/64"]', "this cluster has no range of IPv6; remove the annotation"),
    ],
)
def test_what_cannot_be_honoured_is_named(key: str, text: str, said: str) -> None:
    with pytest.raises(BadAnnotation, match=f"^pod web/a: annotation {key} .*{said}") as raised:
        of_pod("web/a", {key: text}, FOUR)
    assert repr(text) in str(raised.value)


networks = st.tuples(st.integers(0, 2**16 - 1), st.integers(16, 32)).map(
    lambda pair: ip_network((int(IPv4Address("10.244.0.0")) + pair[0], pair[1]), strict=False)
)
texts = st.one_of(
    st.text(max_size=20),
    st.recursive(
        st.none()
        | st.integers()
        | st.text(max_size=12)
        | st.sampled_from(["10.244.0.9", "fd00:10:244::/64", "::"]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    ).map(json.dumps),
)


@given(st.dictionaries(st.sampled_from(KEYS), texts), st.sampled_from([FOUR, BOTH]))
def test_any_text_is_read_or_refused(annotations: dict[str, str], ranges: tuple[object, ...]) -> None:
    try:
        asked = of_pod("web/a", annotations, ranges)  # type: ignore[arg-type]
    except BadAnnotation as error:
        assert any(f"annotation {key} {text!r}: " in str(error) for key, text in annotations.items())
        return
    for version, wanted in asked.items():
        assert wanted.address is None or wanted.address.version == version
        assert all(network.version == version for network in wanted.within)


@given(st.lists(networks, max_size=4))
def test_every_part_of_the_range_is_a_pool(parts: list[IPv4Network]) -> None:
    asked = of_pod("web/a", {POOLS[4]: json.dumps([str(part) for part in parts])}, FOUR)
    assert asked[4].within == tuple(parts)
