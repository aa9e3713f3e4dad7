"""The state machine, against a server in virtual time that answers, refuses, or does not hear."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.dhcp import Bound, Client, Identity, Lease, Lost, Message, MessageType, Offered, Send, State, Timing
from weft.dhcp.options import Option

MAC = bytes.fromhex("0a580a200001")
ADDRESS, SERVER = IPv4Address("10.77.0.10"), IPv4Address("10.77.0.1")
IDENTITY = Identity(MAC, b"\0c1/net/eth0", (1, 3), {Option.HOST_NAME: b"pod"})
HOUR = 3600


def reply(to: Message, kind: MessageType, yours: IPv4Address = ADDRESS, server: IPv4Address = SERVER) -> Message:
    options: dict[int, bytes] = {
        Option.SERVER_IDENTIFIER: server.packed,
        Option.SUBNET_MASK: bytes((255, 255, 255, 0)),
    }
    if kind is not MessageType.NAK:
        options[Option.LEASE_TIME] = HOUR.to_bytes(4, "big")
    return Message(kind, to.transaction, to.hardware_address, options, yours=yours)


def obliging(sent: Send) -> Message | None:
    """A server that gives everybody the same address."""
    kinds = {MessageType.DISCOVER: MessageType.OFFER, MessageType.REQUEST: MessageType.ACK}
    kind = kinds.get(sent.message.kind)
    return None if kind is None else reply(sent.message, kind)


@dataclass
class World:
    """A client, a clock and what happened. A server's answer takes a millisecond."""

    server: Callable[[Send], Message | None] = obliging
    timing: Timing = field(default_factory=Timing)
    time: float = 1000.0
    sent: list[tuple[float, Send]] = field(default_factory=list)
    told: list[tuple[float, Bound | Lost | Offered]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.client = Client(IDENTITY, self.timing, Random(1))  # noqa: S311  # repeatable

    def act(self, actions: list[Bound | Lost | Offered | Send]) -> None:
        while actions:
            answers = []
            for action in actions:
                if isinstance(action, Send):
                    self.sent.append((self.time, action))
                    answers.append(self.server(action))
                else:
                    self.told.append((self.time, action))
            self.time += 0.001
            actions = [
                done
                for answer in answers
                if answer is not None
                for done in self.client.on_message(answer, self.time)
            ]

    def run(self, until: float) -> None:
        while self.client.deadline <= until:
            assert self.client.deadline > self.time - 0.01, "a timer in the past"
            self.time = max(self.time, self.client.deadline)
            before = self.client.deadline
            self.act(self.client.on_timer(self.time))
            assert self.client.deadline > before, "the client would never rest"
            assert len(self.sent) < 1000
        self.time = until

    def acquire(self) -> None:
        self.act(self.client.acquire(self.time))

    @property
    def state(self) -> str:
        return self.client.state.value

    @property
    def kinds(self) -> list[MessageType]:
        return [sent.message.kind for _, sent in self.sent]


def test_four_messages_to_a_lease() -> None:
    world = World()
    world.acquire()
    assert world.kinds == [MessageType.DISCOVER, MessageType.REQUEST]
    assert [type(told) for _, told in world.told] == [Offered, Bound]
    assert world.client.state is State.BOUND
    discover, request = (sent.message for _, sent in world.sent)
    assert discover.options[Option.CLIENT_IDENTIFIER] == b"\0c1/net/eth0"
    assert discover.options[Option.PARAMETER_REQUEST_LIST] == b"\1\3"
    assert discover.options[Option.HOST_NAME] == b"pod"
    assert request.options[Option.REQUESTED_ADDRESS] == ADDRESS.packed
    assert request.options[Option.SERVER_IDENTIFIER] == SERVER.packed
    assert discover.transaction == request.transaction


def test_renewed_at_half_time_from_its_own_address() -> None:
    world = World()
    world.acquire()
    lease = world.client.lease
    assert lease is not None
    world.run(lease.renew_at + 1)
    when, renewal = world.sent[-1]
    assert when == pytest.approx(lease.obtained + HOUR / 2)
    assert renewal.to == SERVER
    assert renewal.message.client == ADDRESS
    # RFC 2131 section 4.3.2: neither of these in a renewal.
    assert Option.REQUESTED_ADDRESS not in renewal.message.options
    assert Option.SERVER_IDENTIFIER not in renewal.message.options
    assert world.client.lease is not None
    assert world.client.lease.expires_at > lease.expires_at


def test_rebound_by_anybody_and_lost_in_the_end() -> None:
    world = World()
    world.acquire()
    lease = world.client.lease
    assert lease is not None
    world.server = lambda sent: None
    world.run(lease.expires_at - 1)
    states = {sent.to for when, sent in world.sent if when >= lease.rebind_at}
    assert states == {None}
    assert world.state == "rebinding"
    world.run(lease.expires_at + 1)
    assert isinstance(world.told[-1][1], Lost)
    assert world.state == "ended"
    assert math.isinf(world.client.deadline)


def test_a_server_that_comes_back_renews() -> None:
    world = World()
    world.acquire()
    lease = world.client.lease
    assert lease is not None
    world.server = lambda sent: None
    world.run(lease.rebind_at + 1)
    world.server = obliging
    world.run(lease.expires_at)
    assert world.client.state is State.BOUND


def test_nobody_answers() -> None:
    world = World(server=lambda sent: None)
    world.acquire()
    world.run(world.time + 1000)
    when, lost = world.told[-1]
    assert isinstance(lost, Lost)
    assert when == pytest.approx(1000 + 208, abs=0.1)
    waits = [after - before for (before, _), (after, _) in zip(world.sent, world.sent[1:], strict=False)]
    assert max(waits) <= 63
    assert 10 <= len(world.sent) <= 60


def test_refused_after_an_offer() -> None:
    refusals = iter([True, True, False])

    def server(sent: Send) -> Message | None:
        if sent.message.kind is MessageType.REQUEST and next(refusals):
            return reply(sent.message, MessageType.NAK)
        return obliging(sent)

    world = World(server=server)
    world.acquire()
    assert world.state == "selecting"
    world.run(world.time + 60)
    assert world.client.state is State.BOUND
    assert world.kinds.count(MessageType.DISCOVER) == 3


def test_a_refused_renewal_asks_for_the_same_address() -> None:
    world = World()
    world.acquire()
    lease = world.client.lease
    assert lease is not None
    forgets = iter([True])

    def server(sent: Send) -> Message | None:
        if sent.message.kind is MessageType.REQUEST and next(forgets, False):
            return reply(sent.message, MessageType.NAK, IPv4Address(0))
        return obliging(sent)

    world.server = server
    world.run(lease.renew_at + 5)
    assert world.client.state is State.BOUND
    asked = [sent.message for _, sent in world.sent if sent.message.kind is MessageType.DISCOVER][-1]
    assert asked.options[Option.REQUESTED_ADDRESS] == ADDRESS.packed
    assert not any(isinstance(told, Lost) for _, told in world.told)


def test_another_address_is_not_taken() -> None:
    world = World()
    world.acquire()
    lease = world.client.lease
    assert lease is not None

    def server(sent: Send) -> Message | None:
        if sent.message.kind is MessageType.REQUEST:
            return reply(sent.message, MessageType.NAK, IPv4Address(0))
        return reply(sent.message, MessageType.OFFER, IPv4Address("10.77.0.99"))

    world.server = server
    world.run(lease.renew_at + 60)
    _, lost = world.told[-1]
    assert isinstance(lost, Lost)
    assert str(ADDRESS) in lost.reason


def test_release_is_said_to_the_server_once() -> None:
    world = World()
    world.acquire()
    (release,) = (action for action in world.client.release(world.time) if isinstance(action, Send))
    assert (release.message.kind, release.to, release.message.client) == (MessageType.RELEASE, SERVER, ADDRESS)
    assert release.message.options[Option.CLIENT_IDENTIFIER] == b"\0c1/net/eth0"
    assert world.client.release(world.time) == []


def test_what_is_requested_only_is_released_too() -> None:
    world = World(server=lambda sent: obliging(sent) if sent.message.kind is MessageType.DISCOVER else None)
    world.acquire()
    assert world.client.state is State.REQUESTING
    assert len(world.client.release(world.time)) == 1


def test_resumed_leases() -> None:
    first = World()
    first.acquire()
    lease = first.client.lease
    assert lease is not None
    young, old, expired = (
        World(time=lease.obtained + 1),
        World(time=lease.renew_at + 1),
        World(time=lease.expires_at),
    )
    for world in (young, old, expired):
        world.act(world.client.resume(lease, world.time))
        assert world.client.state is State.BOUND
    assert young.sent == []
    assert old.kinds == [MessageType.REQUEST]
    assert expired.kinds == [MessageType.DISCOVER, MessageType.REQUEST]


@pytest.mark.parametrize("option", [Option.LEASE_TIME, Option.SERVER_IDENTIFIER])
def test_leases_without_time_or_offers_without_server(option: Option) -> None:
    def server(sent: Send) -> Message | None:
        answer = obliging(sent)
        if answer is None:
            return None
        options = {code: value for code, value in answer.options.items() if code != option}
        return Message(answer.kind, answer.transaction, MAC, options, yours=answer.yours)

    world = World(server=server)
    world.acquire()
    assert (world.client.state is State.BOUND) == (option is Option.LEASE_TIME)


@given(st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFFFFFF))
def test_the_order_of_times(duration: int, first: int, second: int) -> None:
    times = {Option.LEASE_TIME: duration, Option.RENEWAL_TIME: first, Option.REBINDING_TIME: second}
    options: dict[int, bytes] = {code: value.to_bytes(4, "big") for code, value in times.items()}
    lease = Lease.granted(Message(MessageType.ACK, 1, MAC, options), 5.0)
    assert 5 <= lease.renew_at <= lease.rebind_at <= lease.expires_at
    assert duration < 2 or lease.renew_at < lease.expires_at or math.isinf(lease.expires_at)


@given(st.lists(st.sampled_from(["answer", "drop", "nak", "stranger", "stale"]), max_size=40), st.integers(0, 8))
def test_any_row_of_answers(behaviours: list[str], hours: int) -> None:
    """Whatever comes: no timer in the past, no storm of messages, never bound to a lease that is over."""
    row = iter(behaviours)

    def server(sent: Send) -> Message | None:
        answer = obliging(sent)
        match next(row, "answer"):
            case "drop":
                return None
            case "nak":
                return reply(sent.message, MessageType.NAK, IPv4Address(0))
            case "stranger" if answer is not None:
                return reply(sent.message, answer.kind, IPv4Address("10.77.0.99"), IPv4Address("10.77.0.2"))
            case "stale" if answer is not None:
                return Message(answer.kind, answer.transaction ^ 1, MAC, answer.options, yours=ADDRESS)
        return answer

    world = World(server=server)
    world.acquire()
    for _ in range(hours * 4):
        world.run(world.time + HOUR / 4)
        lease = world.client.lease
        if lease is not None:
            assert lease.expires_at > world.time
        else:
            assert world.client.state in (State.ENDED, State.SELECTING, State.REQUESTING)
