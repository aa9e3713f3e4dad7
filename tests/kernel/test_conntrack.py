"""Connection tracking: which flows are forgotten."""

import socket

import pytest

from tests.namespaces import inside, run
from weft.kernel import conntrack
from weft.kernel.conntrack import ConntrackSocket

TRACK = "table inet t { chain c { type filter hook output priority 0; ct state new accept; }; }"


@pytest.mark.parametrize("ports", [(53,), (53, 54), (), (99,)])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_flows_to_ports_are_forgotten(namespace: str, ports: tuple[int, ...], host: str) -> None:
    """Of UDP and of one family; others of the same ports stay."""
    run("nft", TRACK, namespace=namespace)
    families = {"127.0.0.1": socket.AF_INET, "::1": socket.AF_INET6}

    def work() -> list[int]:
        for address, family in families.items():
            with socket.socket(family, socket.SOCK_DGRAM) as client:
                for port in (53, 54, 55):
                    client.sendto(b"?", (address, port))
        for family in families.values():
            with socket.socket(family, socket.SOCK_STREAM) as client:
                client.connect_ex(("127.0.0.1" if family == socket.AF_INET else "::1", 53))
        found = [conntrack.forget_udp(families[host], ports), conntrack.forget_udp(families[host], ports)]
        with ConntrackSocket() as tracking:
            for family in families.values():
                found.append(conntrack.forget_flows(tracking, family, socket.IPPROTO_UDP, (53, 54, 55)))
        return found

    forgotten = len({53, 54} & set(ports))
    left = [3 - forgotten if family == families[host] else 3 for family in families.values()]
    assert inside(namespace, work) == [forgotten, 0, *left]
