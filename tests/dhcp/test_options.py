"""What options hold."""

import contextlib
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.dhcp import options as opt

ADDRESSES = st.integers(0, 0xFFFFFFFF).map(IPv4Address)
NETWORKS = st.tuples(ADDRESSES, st.integers(0, 32)).map(lambda pair: IPv4Network(pair, strict=False))


def classless(routes: list[tuple[IPv4Network, IPv4Address]]) -> bytes:
    return b"".join(
        bytes((to.prefixlen,)) + to.network_address.packed[: (to.prefixlen + 7) // 8] + via.packed
        for to, via in routes
    )


@given(st.lists(st.tuples(NETWORKS, ADDRESSES), max_size=20))
def test_classless_routes(routes: list[tuple[IPv4Network, IPv4Address]]) -> None:
    assert opt.parse_classless_routes(classless(routes)) == tuple(routes)


def test_bits_beyond_the_prefix_do_not_count() -> None:
    value = bytes((8, 10)) + IPv4Address("10.0.0.1").packed
    assert opt.parse_classless_routes(bytes((7, 11)) + value[2:])[0][0] == IPv4Network("10.0.0.0/7")


def test_static_routes_have_the_old_classes() -> None:
    destinations = ("10.1.2.3", "172.16.1.1", "192.168.5.7")
    via = IPv4Address("10.0.0.1")
    value = b"".join(IPv4Address(text).packed + via.packed for text in destinations)
    expected = ("10.0.0.0/8", "172.16.0.0/16", "192.168.5.0/24")
    assert opt.parse_static_routes(value) == tuple((IPv4Network(text), via) for text in expected)


def test_domains_of_rfc_3397() -> None:
    # Section 2's example: eng.apple.com and marketing.apple.com.
    value = b"\x03eng\x05apple\x03com\x00\x09marketing\xc0\x04"
    assert opt.parse_domains(value) == ("eng.apple.com", "marketing.apple.com")


@pytest.mark.parametrize(
    "value", [b"\xc0\x00", b"\x03ab", b"\x03abc", b"\xc0", b"\x40a\0", b"\x01\xff\0", b"\x01\n\0"]
)
def test_no_domains(value: bytes) -> None:
    with pytest.raises(ValueError):
        opt.parse_domains(value)


PARSERS = (
    opt.parse_addresses,
    opt.parse_prefix_length,
    opt.parse_seconds,
    opt.parse_classless_routes,
    opt.parse_static_routes,
    opt.parse_text,
    opt.parse_domains,
)


@given(st.binary(max_size=64))
def test_garbage_is_read_or_refused(value: bytes) -> None:
    for parse in PARSERS:
        with contextlib.suppress(ValueError):
            parse(value)


@given(st.integers(0, 32))
def test_masks(length: int) -> None:
    assert opt.parse_prefix_length(IPv4Network((0, length)).netmask.packed) == length


@pytest.mark.parametrize("text", ["255.0.255.0", "0.0.0.1"])
def test_masks_with_holes(text: str) -> None:
    with pytest.raises(ValueError, match=text):
        opt.parse_prefix_length(IPv4Address(text).packed)


@pytest.mark.parametrize(("text", "code"), [("121", 121), ("0", 0), ("routers", 3), ("user-class", 77)])
def test_names(text: str, code: int) -> None:
    assert opt.parse_name(text) == code


@pytest.mark.parametrize("text", ["", "256", "-1", "router", "１２", "1.0"])
def test_unknown_names(text: str) -> None:
    with pytest.raises(ValueError, match="use a number below 256"):
        opt.parse_name(text)
