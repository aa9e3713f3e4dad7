"""Messages on the wire: round trips, another implementation, and what is no message."""

import contextlib
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.dhcp.dhcp4msg import dhcp4msg

from weft.dhcp import MalformedMessage, Message, MessageType
from weft.dhcp.options import Option

ADDRESSES = st.integers(0, 0xFFFFFFFF).map(IPv4Address)
RESERVED = (Option.PAD, Option.OVERLOAD, Option.MESSAGE_TYPE, Option.END)
OPTIONS = st.dictionaries(
    st.integers(0, 255).filter(lambda code: code not in RESERVED), st.binary(max_size=600), max_size=6
)
MESSAGES = st.builds(
    Message,
    st.sampled_from(MessageType),
    st.integers(0, 0xFFFFFFFF),
    st.binary(min_size=6, max_size=6),
    OPTIONS,
    st.integers(0, 0xFFFF),
    st.booleans(),
    ADDRESSES,
    ADDRESSES,
    ADDRESSES,
    ADDRESSES,
)
MAC = bytes.fromhex("0a580a200001")


@given(MESSAGES)
def test_round_trip(message: Message) -> None:
    data = message.encode()
    assert len(data) >= 300
    assert Message.decode(data) == message


@given(st.binary(max_size=400))
def test_garbage_is_refused_in_one_way(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        Message.decode(data)


@given(MESSAGES, st.data())
def test_damage_is_refused_in_one_way(message: Message, data: st.DataObject) -> None:
    whole = bytearray(message.encode())
    for place in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=4)):
        whole[place] = data.draw(st.integers(0, 255))
    with contextlib.suppress(MalformedMessage):
        Message.decode(bytes(whole[: data.draw(st.integers(0, len(whole)))]))


def test_read_by_another_implementation() -> None:
    sent = Message(
        MessageType.REQUEST,
        0x12345678,
        MAC,
        {
            Option.CLIENT_IDENTIFIER: b"\0c1/net/eth0",
            Option.PARAMETER_REQUEST_LIST: bytes((1, 3, 121)),
            Option.REQUESTED_ADDRESS: IPv4Address("10.0.0.9").packed,
        },
        seconds=7,
        broadcast=True,
        client=IPv4Address("10.0.0.8"),
    )
    read = dhcp4msg(buf=sent.encode()).decode()
    assert (read["op"], read["xid"], read["secs"], read["flags"]) == (1, 0x12345678, 7, 0x8000)
    assert (read["chaddr"], read["ciaddr"]) == ("0a:58:0a:20:00:01", "10.0.0.8")
    assert read["options"]["parameter_list"] == [1, 3, 121]
    assert read["options"]["requested_ip"] == "10.0.0.9"
    assert read["options"]["client_id"] == {"type": 0, "key": b"c1/net/eth0"}


def test_written_by_another_implementation() -> None:
    written = dhcp4msg(
        {
            "op": 2,
            "xid": 5,
            "chaddr": "0a:58:0a:20:00:01",
            "yiaddr": "10.0.0.9",
            "options": {"message_type": 5, "router": ["10.0.0.1", "10.0.0.2"], "lease_time": 3600},
        }
    ).encode()
    read = Message.decode(bytes(written.buf))
    assert (read.kind, read.transaction, read.hardware_address) == (MessageType.ACK, 5, MAC)
    assert read.yours == IPv4Address("10.0.0.9")
    assert read.options == {
        Option.ROUTER: bytes((10, 0, 0, 1, 10, 0, 0, 2)),
        Option.LEASE_TIME: (3600).to_bytes(4, "big"),
    }


def test_options_in_the_text_fields() -> None:
    """RFC 2131 section 4.1: option 52 says that file and sname hold options, in this order."""
    data = bytearray(Message(MessageType.ACK, 1, MAC, {Option.OVERLOAD: b"\3", 12: b"a"}).encode())
    data[108 : 108 + 5] = bytes((12, 1)) + b"b" + b"\xff\0"
    data[44 : 44 + 4] = bytes((12, 1)) + b"c" + b"\xff"
    assert Message.decode(bytes(data)).options == {12: b"abc"}
