"""Go's gob: round trips, what Go itself writes, and what is no gob."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.plugins.dhcp_daemon.gob import BYTES, INT, STRING, UINT, Decoder, Encoder, GobError, Slice, Structure

INNER = Structure("Inner", (("Text", STRING), ("Data", BYTES)))
OUTER = Structure(
    "Outer", (("Number", INT), ("Count", UINT), ("Inner", INNER), ("Many", Slice(INNER)), ("Texts", Slice(STRING)))
)
INNERS = st.fixed_dictionaries({}, optional={"Text": st.text(min_size=1), "Data": st.binary(min_size=1)})
OUTERS = st.fixed_dictionaries(
    {},
    optional={
        "Number": st.integers(-(1 << 63), (1 << 63) - 1).filter(bool),
        "Count": st.integers(1, (1 << 64) - 1),
        "Inner": INNERS.filter(bool),
        "Many": st.lists(INNERS, min_size=1, max_size=5),
        "Texts": st.lists(st.text(), min_size=1, max_size=5),
    },
)


@settings(max_examples=50)
@given(st.lists(OUTERS, max_size=4), st.integers(1, 50))
def test_round_trip_in_pieces(values: list[dict[str, object]], size: int) -> None:
    encoder, decoder = Encoder(), Decoder()
    stream = b"".join(encoder.encode(OUTER, value) for value in values)
    read = [value for start in range(0, len(stream), size) for value in decoder.feed(stream[start : start + size])]
    assert read == values


def test_types_are_defined_once() -> None:
    encoder = Encoder()
    first, second = (encoder.encode(OUTER, {"Number": 1}) for _ in range(2))
    assert first.endswith(second)
    assert len(first) > 4 * len(second)


def test_what_go_writes() -> None:
    """The example of the package's documentation: a Point with X 22 and Y 33."""
    stream = bytes.fromhex("1fff810301010550 6f696e7401ff8200 0102010158010400 0101590104000000 07ff82012c014200")
    assert Decoder().feed(stream) == [{"X": 22, "Y": 33}]


@given(st.binary(max_size=100))
def test_garbage_is_refused_in_one_way(data: bytes) -> None:
    with contextlib.suppress(GobError):
        Decoder().feed(data)


@settings(max_examples=50)
@given(OUTERS, st.data())
def test_damage_is_refused_in_one_way(value: dict[str, object], data: st.DataObject) -> None:
    stream = bytearray(Encoder().encode(OUTER, value))
    for place in data.draw(st.lists(st.integers(0, len(stream) - 1), min_size=1, max_size=4)):
        stream[place] = data.draw(st.integers(0, 255))
    with contextlib.suppress(GobError):
        Decoder().feed(bytes(stream))


def test_a_type_that_holds_itself() -> None:
    """struct { A [65]T } with T itself: deeper and deeper, until it is too deep."""
    # A definition of type 65: a slice whose element is type 65.
    definition = bytes((0xFF, 0x81, 0x02, 0x01, 0x02, 0xFF, 0x82, 0x00, 0x01, 0xFF, 0x82, 0x00, 0x00))
    value = bytes((0xFF, 0x82, 0x00)) + b"\1" * 100
    with pytest.raises(GobError, match="too deep"):
        Decoder().feed(bytes((len(definition),)) + definition + bytes((len(value),)) + value)


@pytest.mark.parametrize("data", [b"\xf0" + b"\xff" * 20, b"\xfc\x7f\xff\xff\xff", b"\x02\x81\x01"])
def test_messages_too_long_or_of_no_type(data: bytes) -> None:
    with pytest.raises(GobError):
        Decoder().feed(data)
