"""The wire: what one end writes the other reads, and nothing else."""

import os
import socket
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.agent.wire import (
    LARGEST_CONFIGURATION,
    Request,
    WireError,
    decode_answer,
    decode_request,
    encode_answer,
    encode_request,
    receive_request,
)

words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
names = st.text(st.characters(exclude_characters="\0=", exclude_categories=["Cs"]), min_size=1, max_size=10)
requests = st.builds(Request, words, st.dictionaries(names, words, max_size=5), st.binary(max_size=200))


@given(requests)
def test_a_request_is_read_as_written(request_: Request) -> None:
    assert decode_request(encode_request(request_)) == request_


@given(st.integers(0, 255), st.binary(max_size=200))
def test_an_answer_is_read_as_written(status: int, output: bytes) -> None:
    assert decode_answer(encode_answer(status, output)) == (status, output)


@given(requests, st.data())
def test_a_part_of_a_request_is_an_error(request_: Request, data: st.DataObject) -> None:
    whole = encode_request(request_)
    with pytest.raises(WireError):
        decode_request(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(WireError):
        decode_request(whole + b"x")


@given(st.binary(max_size=100))
def test_any_bytes_are_a_request_or_a_wire_error(data: bytes) -> None:
    for decode in (decode_request, decode_answer):
        try:
            decode(data)
        except WireError:
            continue


def pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)


def test_a_request_that_comes_in_pieces_with_a_descriptor(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    marker.write_text("the same file")
    here, there = pair()
    with here, there, marker.open("rb") as file:
        sent = Request("weave-net", {"CNI_COMMAND": "ADD"}, b"{}" * 40000, file.fileno())
        whole = encode_request(sent)
        socket.send_fds(here, [whole[:7]], [file.fileno()])
        here.sendall(whole[7:])
        received = receive_request(there)
    assert received.configuration == sent.configuration
    assert received.namespace is not None
    with os.fdopen(received.namespace, "rb") as passed:
        assert passed.read() == b"the same file"


@pytest.mark.parametrize("announced", [0, 1])
def test_descriptors_are_closed_when_the_request_is_refused(announced: int) -> None:
    here, there = pair()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with here, there:
        header = struct.pack("<4sIII", b"WFT1", 4, 0, announced) + b"a\0b\0"
        read_end, write_end = os.pipe()
        descriptors = [read_end, write_end] if announced else [read_end]
        socket.send_fds(here, [header], descriptors)
        with pytest.raises(WireError):
            receive_request(there)
        os.close(read_end)
        os.close(write_end)
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_bounds_and_a_caller_that_stops() -> None:
    here, there = pair()
    with there:
        here.sendall(struct.pack("<4sIII", b"WFT1", 4, LARGEST_CONFIGURATION + 1, 0))
        with pytest.raises(WireError, match=str(LARGEST_CONFIGURATION)):
            receive_request(there)
        here.sendall(b"WFT")
        here.close()
        with pytest.raises(WireError, match="stopped"):
            receive_request(there)
