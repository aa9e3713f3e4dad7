"""Whatever the kernel sent, torn and twisted: parsed, or called malformed; nothing else."""

import struct
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from ipaddress import ip_address, ip_interface, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.namespaces import network_namespace, path
from weft.kernel import addresses, links, neighbours, routes
from weft.kernel.attributes import MalformedMessage
from weft.kernel.namespace import NetworkNamespace
from weft.kernel.netlink import Message, RouteSocket

Parser = Callable[[bytes], object]
PARSERS: dict[str, Parser] = {
    "link": links.parse_link,
    "address": addresses.parse_address,
    "route": routes.parse_route,
    "neighbour": neighbours.parse_neighbour,
    "forwarding entry": neighbours.parse_forwarding_entry,
}


@cache
def real_replies() -> dict[str, list[bytes]]:
    """A little of everything, as the kernel tells it."""
    with (
        network_namespace() as name,
        NetworkNamespace.open(path(name)) as there,
        RouteSocket.open_in(there) as host,
    ):
        host.execute(
            [
                links.create_bridge(name="weave", address="02:00:00:00:00:01"),
                links.create_veth(name="one", peer_name="two", peer_namespace_fd=there.fd, mtu=1450, master=2),
                links.create_vxlan(
                    name="tunnel",
                    vni=1,
                    port=6784,
                    local=ip_address("127.0.0.1"),
                    underlay_index=2,
                    mtu=1450,
                    address="02:00:00:00:00:02",
                ),
            ]
        )
        bridge, tunnel = links.find_index(host, "weave"), links.find_index(host, "tunnel")
        host.execute(
            [
                addresses.add_address(bridge, ip_interface("10.1.0.1/16")),
                addresses.add_address(bridge, ip_interface("fd00::1/64")),
                routes.add_route(
                    ip_network("10.2.0.0/16"), gateway=ip_address("10.1.0.2"), device=bridge, mtu=1400
                ),
                neighbours.add_neighbour(bridge, ip_address("10.1.0.2"), "02:00:00:00:00:03"),
                neighbours.add_forwarding_entry(tunnel, "02:00:00:00:00:03", ip_address("192.0.2.1")),
            ]
        )
        return {
            "link": host.dump(Message(18, 1, bytes(16), "list")),
            "address": host.dump(Message(22, 1, bytes(8), "list")),
            "route": host.dump(Message(26, 1, struct.pack("=B11x", 2), "list")),
            "neighbour": host.dump(Message(30, 1, bytes(12), "list")),
            "forwarding entry": host.dump(Message(30, 1, struct.pack("=B11x", 7), "list")),
        }


@pytest.mark.parametrize("name", PARSERS)
def test_what_the_kernel_sends_is_parsed(name: str) -> None:
    replies = real_replies()[name]
    assert replies
    assert all(PARSERS[name](reply) is not None for reply in replies)


@pytest.mark.parametrize("name", PARSERS)
@given(data=st.data())
def test_twisted_messages(name: str, data: st.DataObject) -> None:
    reply = bytearray(data.draw(st.sampled_from(real_replies()[name])))
    for place in data.draw(st.lists(st.integers(0, len(reply) - 1), max_size=4)):
        reply[place] = data.draw(st.integers(0, 255))
    torn = bytes(reply[: data.draw(st.integers(0, len(reply)))])
    for message in (bytes(reply), torn):
        with suppress(MalformedMessage):
            PARSERS[name](message)


@pytest.mark.parametrize("name", PARSERS)
@given(family=st.sampled_from([0, 2, 7, 10]), rest=st.binary(max_size=120))
def test_random_messages(name: str, family: int, rest: bytes) -> None:
    with suppress(MalformedMessage):
        PARSERS[name](bytes([family]) + rest)
