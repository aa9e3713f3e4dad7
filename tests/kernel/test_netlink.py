"""The socket: batches, answers, errors, tables that change while they are read."""

import errno
import socket
import struct
import threading
from contextlib import suppress
from ipaddress import ip_interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.namespaces import path
from weft.kernel import addresses, links
from weft.kernel.attributes import MalformedMessage, attribute, text
from weft.kernel.namespace import NetworkNamespace
from weft.kernel.netlink import Message, NetlinkError, Received, RouteSocket, batches, refusal, split


def bridge(name: str) -> Message:
    return links.create_bridge(name=name, address="02:00:00:00:00:01")


def names(host: RouteSocket) -> set[str]:
    return {link.name for link in links.dump_links(host)}


def test_a_batch_is_carried_out_past_a_failure_and_the_first_error_raised(host: RouteSocket) -> None:
    batch = [bridge("one"), links.delete_link(name="absent"), bridge("one"), bridge("two")]
    with pytest.raises(NetlinkError) as raised:
        host.execute(batch)
    assert (raised.value.errno, raised.value.index) == (errno.ENODEV, 1)
    assert str(raised.value) == "cannot delete absent: No such device"
    assert names(host) == {"lo", "one", "two"}


def test_attempt_tells_the_outcome_of_each_message(host: RouteSocket) -> None:
    batch = [bridge("one"), links.delete_link(name="absent"), bridge("one"), bridge("two")]
    outcomes = host.attempt(batch)
    assert [outcome and outcome.errno for outcome in outcomes] == [None, errno.ENODEV, errno.EEXIST, None]
    assert [outcome.index for outcome in outcomes if outcome] == [1, 2]


def test_an_empty_batch_does_nothing(host: RouteSocket) -> None:
    host.execute([])
    assert host.attempt([]) == []


def test_the_kernel_explains_itself(host: RouteSocket) -> None:
    with pytest.raises(NetlinkError) as raised:
        host.execute([addresses.add_address(1, ip_interface("127.0.0.1/8"))])
    assert raised.value.errno == errno.EEXIST
    assert raised.value.explanation == "ipv4: Address already assigned"
    expected = "cannot add the address 127.0.0.1/8 to device 1: File exists (ipv4: Address already assigned)"
    assert str(raised.value) == expected


def test_a_batch_larger_than_the_socket_holds(host: RouteSocket) -> None:
    up = links.set_link(index=1, up=True)
    outcomes = host.attempt([up] * 350 + [links.delete_link(name="absent")] + [up] * 350)
    assert [place for place, outcome in enumerate(outcomes) if outcome] == [350]
    assert outcomes[350] is not None
    assert outcomes[350].index == 350


@given(st.lists(st.integers(0, 40_000), max_size=300))
def test_batches_hold_every_message_once_in_order(sizes: list[int]) -> None:
    messages = [Message(16, 0, bytes(size), str(place)) for place, size in enumerate(sizes)]
    parts = list(batches(messages))
    assert [message for part in parts for message in part] == messages
    for part in parts:
        assert 0 < len(part) <= 100
        assert len(part) == 1 or sum(16 + len(message.payload) for message in part) <= 1 << 16


def test_lost_answers_are_told_as_such_and_the_socket_goes_on(host: RouteSocket) -> None:
    smallest, usual = 1, host._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    host._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, smallest)
    outcomes = host.attempt([links.set_link(index=1, up=True)] * 90)
    lost = [outcome for outcome in outcomes if outcome]
    assert 0 < len(lost) < 90
    assert {outcome.errno for outcome in lost} == {errno.ENOBUFS}
    assert "outcome is unknown" in str(lost[0])
    host._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, usual)
    assert host.attempt([links.set_link(index=1, up=True)] * 90) == [None] * 90


def test_a_stale_answer_is_not_taken_for_a_new_one(host: RouteSocket) -> None:
    # Somebody was interrupted between sending and reading.
    host._send([links.set_link(index=1, up=True), links.delete_link(name="absent")], 0x4)
    assert host.attempt([links.set_link(index=1, up=True)]) == [None]
    host._send([links.delete_link(name="absent")], 0x4)
    assert links.get_link(host, index=1).name == "lo"
    host._send([links.delete_link(name="absent")], 0x4)
    assert names(host) == {"lo"}


def test_sequence_numbers_wrap(host: RouteSocket) -> None:
    host._sequence = 0xFFFFFFFE
    batch = [bridge("one"), links.delete_link(name="absent"), bridge("two")]
    assert [outcome and outcome.errno for outcome in host.attempt(batch)] == [None, errno.ENODEV, None]
    assert names(host) == {"lo", "one", "two"}


def test_threads_take_turns(host: RouteSocket) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for _ in range(50):
                assert links.get_link(host, index=1).name == "lo"
                assert host.attempt([links.delete_link(name=f"absent{number}")])[0] is not None
                assert "lo" in names(host)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_table_is_whole_although_it_changes_meanwhile(host: RouteSocket, namespace: str) -> None:
    # More devices than one datagram holds, so that changes fall between two.
    host.execute([bridge(f"bridge{number}") for number in range(60)])
    stopping = threading.Event()

    def churn() -> None:
        with NetworkNamespace.open(path(namespace)) as there, RouteSocket.open_in(there) as other:
            while not stopping.is_set():
                other.execute([bridge("coming")])
                other.execute([links.delete_link(name="coming")])

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(30):
            found = [link.name for link in links.dump_links(host)]
            assert len(found) == len(set(found))
            assert {f"bridge{number}" for number in range(60)} <= set(found)
    finally:
        stopping.set()
        thread.join()


def test_a_socket_belongs_to_the_namespace_it_was_opened_in(host: RouteSocket) -> None:
    host.execute([bridge("only-there")])
    with RouteSocket() as here:
        assert "only-there" not in names(here)


def test_a_socket_closes_once(host: RouteSocket) -> None:
    with RouteSocket() as other:
        assert other.fileno() >= 0
    other.close()
    with pytest.raises(OSError):
        other.execute([links.set_link(index=1, up=True)])


@given(st.binary(max_size=200))
def test_random_datagrams_are_split_or_called_malformed(data: bytes) -> None:
    with suppress(MalformedMessage):
        for reply in split(data):
            refusal(reply, "try")


@given(st.sampled_from([2, 3]), st.integers(0, 0xFFFF), st.binary(max_size=60))
def test_random_acknowledgements_are_read_or_called_malformed(kind: int, flags: int, payload: bytes) -> None:
    with suppress(MalformedMessage):
        refusal(Received(kind, flags, 1, payload), "try")


@pytest.mark.parametrize("capped", [True, False])
def test_explanations_are_found_behind_capped_and_whole_requests(capped: bool) -> None:
    request = struct.pack("=IHHII", 24, 16, 5, 1, 0) + attribute(1, b"abcd")
    repeated = request[:16] if capped else request
    payload = struct.pack("=i", -errno.EPERM) + repeated + text(1, "not you")
    error = refusal(Received(2, 0x200 | (0x100 if capped else 0), 1, payload), "try", 3)
    assert error is not None
    assert (error.errno, error.explanation, error.index) == (errno.EPERM, "not you", 3)
