"""Devices of the less usual kinds: each builder against pyroute2, and against the kernel where it has the kind."""

import struct
from typing import Any

import pytest

from tests.kernel import oracle
from tests.kernel.conftest import make_or_skip
from tests.namespaces import ip
from weft.kernel import kinds, links
from weft.kernel.netlink import Message, RouteSocket

LOWER = 7
MAC = "02:00:00:00:00:01"
FIELDS: dict[str, Any] = {"ifname": "upper", "link": LOWER, "mtu": 1400, "net_ns_fd": 9}


@pytest.mark.parametrize(("mode", "number"), kinds.MACVLAN_MODES.items())
def test_macvlan(mode: str, number: int) -> None:
    message = kinds.create_macvlan(
        "upper", lower=LOWER, mode=number, mtu=1400, namespace_fd=9, address=MAC, broadcast_queue_length=5
    )
    queue = {7: struct.pack("=I", 5)}
    oracle.same_link_request(message, "macvlan", {"macvlan_mode": mode}, queue, address=MAC, **FIELDS)


@pytest.mark.parametrize("number", kinds.IPVLAN_MODES.values())
def test_ipvlan(number: int) -> None:
    message = kinds.create_ipvlan("upper", lower=LOWER, mode=number, mtu=1400, namespace_fd=9)
    oracle.same_link_request(message, "ipvlan", {"ipvlan_mode": number}, {2: b"\0\0"}, **FIELDS)


@pytest.mark.parametrize("number", [0, 4094])
def test_vlan(number: int) -> None:
    message = kinds.create_vlan("upper", lower=LOWER, vlan_id=number, mtu=1400, namespace_fd=9)
    oracle.same_link_request(message, "vlan", {"vlan_id": number}, **FIELDS)


def test_dummy() -> None:
    oracle.same_link_request(kinds.create_dummy("upper"), "dummy", {}, ifname="upper")


@pytest.mark.parametrize("kind", ["macvlan", "ipvlan", "vlan", "dummy"])
def test_the_kernel_makes_it(host: RouteSocket, namespace: str, kind: str) -> None:
    ip("link", "add", "lower", "type", "veth", "peer", "name", "other", namespace=namespace)
    lower = links.find_index(host, "lower")
    message: Message = {
        "macvlan": kinds.create_macvlan("upper", lower=lower, mode=kinds.MACVLAN_MODES["vepa"], mtu=1400),
        "ipvlan": kinds.create_ipvlan("upper", lower=lower, mode=kinds.IPVLAN_MODES["l3"], mtu=1400),
        "vlan": kinds.create_vlan("upper", lower=lower, vlan_id=5, mtu=1400),
        "dummy": kinds.create_dummy("upper"),
    }[kind]
    make_or_skip(host, message)
    link = links.get_link(host, name="upper")
    modes = {"macvlan": kinds.MACVLAN_MODES["vepa"], "ipvlan": kinds.IPVLAN_MODES["l3"]}
    assert (link.kind, link.mode, link.vlan_id) == (kind, modes.get(kind, 0), 5 if kind == "vlan" else 0)
    if kind != "dummy":
        assert (link.peer_index, link.mtu) == (lower, 1400)
