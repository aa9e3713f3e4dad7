"""The codec alone: what is encoded is decoded, and nothing that comes in breaks it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.kernel import attributes as attr
from weft.kernel.attributes import MalformedMessage

KINDS = st.integers(1, 0x3FFF)
VALUES = st.binary(max_size=300)


@given(st.dictionaries(KINDS, VALUES))
def test_flat_attributes_survive(wanted: dict[int, bytes]) -> None:
    assert attr.decode(b"".join(attr.attribute(kind, value) for kind, value in wanted.items())) == wanted


@given(st.dictionaries(KINDS, st.dictionaries(KINDS, VALUES, max_size=5), max_size=5))
def test_nested_attributes_survive(wanted: dict[int, dict[int, bytes]]) -> None:
    encoded = b"".join(
        attr.nested(kind, *(attr.attribute(inner, value) for inner, value in inside.items()))
        for kind, inside in wanted.items()
    )
    assert {kind: attr.decode(value) for kind, value in attr.decode(encoded).items()} == wanted


@given(KINDS, st.integers(0, 0xFF), st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF))
def test_numbers_survive(kind: int, small: int, middle: int, large: int) -> None:
    assert attr.as_u8(attr.decode(attr.u8(kind, small))[kind]) == small
    assert attr.as_u16(attr.decode(attr.u16(kind, middle))[kind]) == middle
    assert attr.as_u32(attr.decode(attr.u32(kind, large))[kind]) == large


@given(KINDS, VALUES)
def test_every_attribute_ends_on_four_bytes(kind: int, value: bytes) -> None:
    assert len(attr.attribute(kind, value)) % 4 == 0


@given(st.binary(max_size=200), st.integers(0, 20))
def test_random_bytes_decode_or_are_called_malformed(data: bytes, start: int) -> None:
    try:
        found = attr.decode(data, start)
    except MalformedMessage:
        return
    assert sum(4 + len(value) for value in found.values()) <= len(data)


@pytest.mark.parametrize("value", [-1, 256])
def test_a_number_that_does_not_fit_is_named(value: int) -> None:
    with pytest.raises(ValueError, match=f"{value} does not fit attribute 7: it takes 0 to 255"):
        attr.u8(7, value)


def test_a_value_longer_than_an_attribute_is_refused() -> None:
    attr.attribute(1, bytes(0xFFFF - 4))
    with pytest.raises(ValueError, match="at most 65535"):
        attr.attribute(1, bytes(0xFFFF - 3))


@pytest.mark.parametrize("name", ["eth0", "eth0.100", "x" * 15, "ü", "a@b", "vethwepl1234567"])
def test_names_of_interfaces(name: str) -> None:
    assert attr.as_text(attr.decode(attr.interface_name(3, name))[3]) == name


@pytest.mark.parametrize("name", ["", ".", "..", "x" * 16, "ü" * 8, "a/b", "a:b", "a b", "a\n", "a\0", "eth%d"])
def test_names_that_the_kernel_refuses(name: str) -> None:
    with pytest.raises(ValueError, match="cannot name an interface"):
        attr.interface_name(3, name)


@given(st.binary(min_size=6, max_size=6))
def test_link_addresses_survive(packed: bytes) -> None:
    assert attr.link_address(attr.as_link_address(packed)) == packed == attr.link_address(packed)


@pytest.mark.parametrize("text", ["", "0a:58", "0a:58:0a:f4:00:zz", "0a:58:0a:f4:00:01:02", b"12345"])
def test_what_is_no_link_address_is_named(text: str | bytes) -> None:
    with pytest.raises(ValueError, match="is not a MAC"):
        attr.link_address(text)
