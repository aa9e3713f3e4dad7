"""How long the kernel's part of an ADD and a DEL takes:  .venv/bin/python -m tests.kernel.measure [PODS]

Each pod is a fresh namespace, and the machine rests before each attach, as between the calls of a runtime. The
steps are those that a plugin takes; the second form is the obvious one that the first was made from.
"""

import ctypes
import socket
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from tests.namespaces import network_namespace, path
from weft.kernel import addresses, announce, links, neighbours, routes
from weft.kernel.namespace import NetworkNamespace
from weft.kernel.netlink import Message, RouteSocket

GATEWAY = IPv4Address("10.244.0.1")
DEFAULT = IPv4Network("0.0.0.0/0")
REST = 0.003
GROUP = 0x57454654
PODS_AT_ONCE = 20

_libc = ctypes.CDLL(None, use_errno=True)


class Stopwatch:
    """Milliseconds by step."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.times[name].append(1000 * (time.perf_counter() - started))

    def print(self, title: str) -> None:
        print(f"\n{title}\n{'':22}{'median':>8}{'p95':>8}  ms")
        for name, times in self.times.items():
            print(f"{name:22}{statistics.median(times):8.3f}{sorted(times)[int(0.95 * len(times))]:8.3f}")


def fresh_namespace() -> NetworkNamespace:
    """A namespace without a name, its loopback up."""
    with NetworkNamespace.current() as home:
        if _libc.unshare(0x40000000) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        made = NetworkNamespace.current()
        with RouteSocket() as inside:
            inside.execute([links.set_link(name="lo", up=True)])
        if _libc.setns(home.fd, 0) != 0:
            raise SystemExit("no way back to the machine's own namespace")
    return made


@dataclass(frozen=True, slots=True)
class Node:
    """What an agent holds for life."""

    host: RouteSocket
    bridge: int
    packets: socket.socket


def attach(watch: Stopwatch, node: Node, pod: NetworkNamespace, number: int) -> None:
    """As few messages, questions and waits as it takes."""
    address = IPv4Interface(f"10.244.{1 + number // 250}.{1 + number % 250}/16")
    mac, name = b"\x0a\x58" + address.packed, f"vethwepl{number:07x}"
    with watch.step("whole attach"):
        with watch.step("socket in the pod"):
            inside = RouteSocket.open_in(pod)
        with inside:
            with watch.step("pair, port, neighbour"):
                node.host.execute(
                    [
                        links.create_veth(
                            name=name,
                            peer_name="eth0",
                            peer_namespace_fd=pod.fd,
                            mtu=1450,
                            master=node.bridge,
                            peer_address=mac,
                        ),
                        links.set_bridge_port(name=name, hairpin=True, link_local=False),
                        neighbours.replace_neighbour(node.bridge, address.ip, mac, state=neighbours.STALE),
                    ]
                )
            with watch.step("find eth0"):
                index = links.find_index(inside, "eth0")
            with watch.step("up, address, route"):
                inside.execute(configuration(index, address))
            with watch.step("await forwarding"):
                links.await_forwarding(node.host, name=name)
            with watch.step("announce"):
                announce.gratuitous_arp(node.packets, "weave", mac, address.ip)


def attach_obviously(watch: Stopwatch, node: Node, pod: NetworkNamespace, number: int) -> None:
    """The pod's own packet socket, two batches for the pair, the whole device read for its index."""
    address = IPv4Interface(f"10.244.{1 + number // 250}.{1 + number % 250}/16")
    name = f"vethobvi{number:07x}"
    with watch.step("whole attach"):
        with watch.step("sockets in the pod"), pod.entered():
            inside, packets = RouteSocket(), announce.open_packet_socket()
        with inside:
            with watch.step("pair, port"):
                node.host.execute(
                    [
                        links.create_veth(
                            name=name, peer_name="eth0", peer_namespace_fd=pod.fd, mtu=1450, master=node.bridge
                        )
                    ]
                )
                node.host.execute([links.set_bridge_port(name=name, hairpin=True)])
            with watch.step("read eth0"):
                link = links.get_link(inside, name="eth0")
            with watch.step("up, address, route"):
                inside.execute(configuration(link.index, address))
            with watch.step("announce"):
                announce.gratuitous_arp(packets, "eth0", link.address, address.ip)
        with watch.step("close packet socket"):
            packets.close()


def configuration(index: int, address: IPv4Interface) -> list[Message]:
    return [
        links.set_link(index=index, up=True),
        addresses.add_address(index, address),
        routes.add_route(DEFAULT, gateway=GATEWAY, device=index),
    ]


def retire(watch: Stopwatch, host: RouteSocket, names: list[str]) -> None:
    for name in names:
        with watch.step("retire one"):
            host.execute([links.set_link(name=name, up=False, master=0, group=GROUP)])
    with watch.step(f"delete {len(names)} by group"):
        host.execute([links.delete_group(GROUP)])


def main(pods: int) -> None:
    """Both forms in turn, so that both see the same machine."""
    frugal, obvious, retiring = Stopwatch(), Stopwatch(), Stopwatch()
    with new_node() as node:
        held: list[NetworkNamespace] = []
        for number in range(pods):
            for form, watch in ((attach_obviously, obvious), (attach, frugal)):
                held.append(fresh_namespace())
                time.sleep(REST)
                form(watch, node, held[-1], number)
            if number % PODS_AT_ONCE == PODS_AT_ONCE - 1:
                numbers = range(number - PODS_AT_ONCE + 1, number + 1)
                retire(retiring, node.host, [f"vethwepl{each:07x}" for each in numbers])
                retire(retiring, node.host, [f"vethobvi{each:07x}" for each in numbers])
                while held:
                    held.pop().close()
    frugal.print(f"attach, {pods} pods, at most {2 * PODS_AT_ONCE} on the bridge")
    obvious.print("attach, the obvious way")
    retiring.print("detach")


@contextmanager
def new_node() -> Iterator[Node]:
    """A namespace with the bridge."""
    with network_namespace() as name, NetworkNamespace.open(path(name)) as there:
        with there.entered():
            host, packets = RouteSocket(), announce.open_packet_socket()
        with host, packets:
            host.execute([links.create_bridge(name="weave", address="02:00:00:00:00:01")])
            bridge = links.find_index(host, "weave")
            gateway = IPv4Interface((GATEWAY, 16))
            host.execute([links.set_link(index=bridge, mtu=1450), addresses.add_address(bridge, gateway)])
            yield Node(host, bridge, packets)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
