"""No address has two holders, none is lost, and the longest-unused comes next."""

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from weft.ipam.pool import AddressInUse, Pool, PoolExhausted
from weft.ipam.ranges import IPAddress, PodRange

UNIVERSE = PodRange.of("10.9.0.0/28")
BLOCKS = [IPv4Network("10.9.0.0/29"), IPv4Network("10.9.0.8/29")]


def pool(*blocks: IPv4Network) -> Pool:
    made = Pool(UNIVERSE)
    for block in blocks or BLOCKS[:1]:
        made.add_block(block)
    return made


def test_only_the_ranges_own_network_and_broadcast_addresses_are_out() -> None:
    both = pool(*BLOCKS)
    assert both.free == UNIVERSE.network.num_addresses - 2
    assert both.take() == IPv4Address("10.9.0.1")


def test_freed_addresses_go_to_the_back_of_the_queue() -> None:
    one = pool()
    first = one.take()
    one.release(first)
    later = [one.take() for _ in range(7)]
    assert later[-1] == first
    assert first not in later[:-1]


def test_the_spare_block_is_drawn_on_last() -> None:
    both = pool(*BLOCKS)
    held = [both.take() for _ in range(7)]
    both.release(held[0])
    assert both.take() == held[0]
    assert both.take() == BLOCKS[1].network_address
    assert both.empty_blocks == []


def test_what_was_used_before_a_restart_waits_behind_what_was_not() -> None:
    restarted = Pool(UNIVERSE)
    restarted.add_block(BLOCKS[0], [IPv4Address("10.9.0.3"), IPv4Address("10.9.0.1")])
    order = [str(restarted.take()) for _ in range(7)]
    assert order == [f"10.9.0.{n}" for n in (2, 4, 5, 6, 7, 3, 1)]


def test_exhaustion_and_double_holding_are_errors() -> None:
    one = pool()
    for _ in range(7):
        one.take()
    with pytest.raises(PoolExhausted, match="7 addresses"):
        one.take()
    with pytest.raises(AddressInUse, match="10.9.0.1"):
        one.hold(IPv4Address("10.9.0.1"))
    with pytest.raises(AddressInUse, match="7 addresses in use"):
        one.remove_block(BLOCKS[0])


class PoolMachine(RuleBasedStateMachine):
    """A model of holders beside the pool."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = pool()
        self.held: list[IPAddress] = []

    @precondition(lambda self: self.pool.free)
    @rule()
    def take(self) -> None:
        address = self.pool.take()
        assert address not in self.held
        self.held.append(address)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        address = data.draw(st.sampled_from(self.held))
        self.held.remove(address)
        self.pool.release(address)
        self.pool.release(address)  # a repeated release changes nothing

    @rule(block=st.sampled_from(BLOCKS))
    def add_block(self, block: IPv4Network) -> None:
        self.pool.add_block(block)

    @rule(block=st.sampled_from(BLOCKS))
    def remove_empty_block(self, block: IPv4Network) -> None:
        if block in self.pool.empty_blocks:
            self.pool.remove_block(block)

    @invariant()
    def nothing_is_lost(self) -> None:
        usable = sum(7 for _ in self.pool.blocks)
        assert self.pool.in_use == len(self.held)
        assert self.pool.free + self.pool.in_use == usable


TestPoolMachine = PoolMachine.TestCase
