"""Announcements: what goes over the wire, and that neighbours believe it."""

import socket
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_interface

import pytest

from tests.namespaces import inside
from weft.kernel import addresses, announce, links, neighbours
from weft.kernel.netlink import RouteSocket

OLD, NEW = "02:00:00:00:00:0a", "02:00:00:00:00:0b"
MOVED4, MOVED6 = IPv4Address("10.0.0.9"), IPv6Address("fd00::9")


@pytest.fixture
def packets(namespace: str) -> Iterator[socket.socket]:
    """A packet socket in the node's namespace."""
    with inside(namespace, announce.open_packet_socket) as opened:
        yield opened


@pytest.fixture
def neighbour(host: RouteSocket, inner: RouteSocket, pod_descriptor: int) -> int:
    """A pod on the node's bridge, which knows both addresses under the old MAC; its device's index."""
    host.execute([links.create_bridge(name="weave", address="02:00:00:00:00:01")])
    bridge = links.find_index(host, "weave")
    host.execute(
        [
            links.create_veth(
                name="port", peer_name="eth0", peer_namespace_fd=pod_descriptor, mtu=1500, master=bridge
            )
        ]
    )
    index = links.find_index(inner, "eth0")
    inner.execute(
        [
            links.set_link(index=index, up=True),
            addresses.add_address(index, ip_interface("10.0.0.2/24")),
            addresses.add_address(index, ip_interface("fd00::2/64")),
            neighbours.replace_neighbour(index, MOVED4, OLD, state=neighbours.STALE),
            neighbours.replace_neighbour(index, MOVED6, OLD, state=neighbours.STALE),
        ]
    )
    links.await_forwarding(host, name="port")
    return index


def known(inner: RouteSocket, index: int, address: IPv4Address | IPv6Address) -> str | None:
    (found,) = [item for item in neighbours.dump_neighbours(inner, index) if item.address == address]
    return found.link_address


def test_a_neighbour_takes_the_new_mac(packets: socket.socket, inner: RouteSocket, neighbour: int) -> None:
    assert known(inner, neighbour, MOVED4) == known(inner, neighbour, MOVED6) == OLD
    announce.gratuitous_arp(packets, "weave", NEW, MOVED4)
    announce.unsolicited_advertisement(packets, "weave", NEW, MOVED6)
    # A busy kernel leaves frames to a thread of its own: they arrive after they are sent.
    deadline = time.monotonic() + 10
    while (macs := {known(inner, neighbour, moved) for moved in (MOVED4, MOVED6)}) != {NEW}:
        assert time.monotonic() < deadline, macs
        time.sleep(0.01)


def test_the_frames(packets: socket.socket, pod: str, neighbour: int) -> None:
    with inside(pod, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))) as ear:
        ear.settimeout(5)
        announce.gratuitous_arp(packets, "weave", NEW, MOVED4)
        announce.unsolicited_advertisement(packets, "weave", bytes.fromhex(NEW.replace(":", "")), MOVED6)
        frames: list[bytes] = []
        while len(frames) < 2:
            frame = ear.recv(2000)
            if frame[6:12].hex(":") == NEW:
                frames.append(frame)
    arp, advertisement = frames
    assert arp == bytes.fromhex(
        "ffffffffffff 02000000000b 0806 0001 0800 06 04 0001 02000000000b 0a000009 000000000000 0a000009"
    )
    assert advertisement[:14] == bytes.fromhex("333300000001 02000000000b 86dd")
    # Hop limit 255; the flag that it overrides; the target; the option with the MAC.
    assert advertisement[21] == 255
    assert advertisement[54:] == advertisement[54:58] + bytes.fromhex("20000000") + MOVED6.packed + bytes.fromhex(
        "0201 02000000000b"
    )


def test_a_device_that_is_not_there(packets: socket.socket) -> None:
    with pytest.raises(OSError):
        announce.gratuitous_arp(packets, "absent", NEW, MOVED4)
