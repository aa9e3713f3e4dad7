"""``portmap`` with packets: who reaches a published port, and as whom, over both backends."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.namespaces import ip
from tests.plugins import traffic
from tests.plugins.meta.test_portmap import (
    BACKENDS,
    BOTH,
    BRIDGE,
    NFTABLES,
    PORTMAP,
    PORTS,
    mapping,
)
from tests.plugins.twins import (
    Answer,
    Twins,
    add_chain,
    delete_chain,
    made,
    needs_reference,
)

pytestmark = needs_reference


@contextmanager
def town(folder: Path) -> Iterator[Twins]:
    """Twins whose hosts have a client on a link of their own."""
    with made(folder, "pod", "other", "client") as twins:
        for host in twins:
            traffic.uplink(host.name, host.pods["client"])
        yield twins


@pytest.mark.parametrize("who", ["reference", "iptables", "nftables"])
@pytest.mark.parametrize("masquerade_all", [False, True])
def test_packets_pass(tmp_path: Path, who: str, masquerade_all: bool) -> None:
    """From a client elsewhere, from the host by its address and by 127.0.0.1, from the container itself."""
    if masquerade_all and who == "reference" and not NFTABLES:
        pytest.skip("this reference does not know masqAll; WEFT_REFERENCE may")
    with town(tmp_path) as twins:
        host = twins.go if who == "reference" else twins.weft
        pod, client = host.pods["pod"], host.pods["client"]
        keys = {"masqAll": masquerade_all} if who == "reference" else {"masqAll": masquerade_all, "backend": who}
        chain = [
            {"cniVersion": "1.0.0", "name": "net", **plugin}
            for plugin in (BRIDGE | {"ipam": BOTH, "hairpinMode": True}, PORTMAP | keys)
        ]
        answer = add_chain(host, chain, PORTS)
        assert answer.status == 0, answer.body
        seen = ("10.22.0.1", "fd00:22::1") if masquerade_all else ("192.0.2.2", "2001:db8::2")
        for protocol, port, target in (("tcp", 8080, 80), ("udp", 5353, 53)):
            with traffic.server(pod, protocol, target):
                assert traffic.ask(client, protocol, "192.0.2.1", port) == seen[0]
                assert traffic.ask(client, protocol, "2001:db8::1", port) == seen[1]
                assert traffic.ask(host.name, protocol, "127.0.0.1", port) == "10.22.0.1"
                assert traffic.ask(host.name, protocol, "192.0.2.1", port)
                assert traffic.ask(host.name, protocol, "2001:db8::1", port)
                assert traffic.ask(pod, protocol, "192.0.2.1", port) == "10.22.0.1"
                assert traffic.ask(pod, protocol, "2001:db8::1", port) == "fd00:22::1"
        delete_chain(host, chain, answer.body, PORTS)
        with traffic.server(pod, "tcp", 80):
            assert traffic.ask(client, "tcp", "192.0.2.1", 8080, traffic.SHORT) is None


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_on_one_address_and_only_from_some(tmp_path: Path, backend: str) -> None:
    with town(tmp_path) as twins:
        host = twins.weft
        pod, client = host.pods["pod"], host.pods["client"]
        ip("address", "add", "192.0.2.7/24", "dev", "uplink", namespace=host.name)
        ip("address", "add", "192.0.2.9/24", "dev", "eth0", namespace=client)
        words = {"iptables": ["!", "-s", "192.0.2.9"], "nftables": ["ip", "saddr", "!=", "192.0.2.9"]}[backend]
        keys = {"backend": backend, "conditionsV4": words}
        chain = [{"cniVersion": "1.0.0", "name": "net", **plugin} for plugin in (BRIDGE, PORTMAP | keys)]
        runtime = {"portMappings": [mapping(8080, 80, "tcp", "192.0.2.7"), mapping(8081)]}
        assert add_chain(host, chain, runtime).status == 0
        with traffic.server(pod, "tcp", 80):
            assert traffic.ask(client, "tcp", "192.0.2.7", 8080) == "192.0.2.2"
            assert traffic.ask(client, "tcp", "192.0.2.1", 8080, traffic.SHORT) is None
            with traffic.opened(client, "tcp") as refused:
                refused.bind(("192.0.2.9", 0))
                assert traffic.asked(refused, "192.0.2.1", 8081, traffic.SHORT) is None
            assert traffic.ask(client, "tcp", "192.0.2.1", 8081) == "192.0.2.2"


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_client_that_sends_on_reaches_the_next_container(tmp_path: Path, backend: str) -> None:
    """Else the tracked flow would lead to the old one's address, which nobody has any more."""
    with town(tmp_path) as twins:
        host = twins.weft
        client = host.pods["client"]
        chain = [
            {"cniVersion": "1.0.0", "name": "net", **plugin} for plugin in (BRIDGE, PORTMAP | {"backend": backend})
        ]
        with traffic.opened(client, "udp", socket.AF_INET) as sender:
            for pod in ("pod", "other"):
                answers: list[Answer] = []
                for plugin in chain:
                    sent = {
                        **plugin,
                        **({"prevResult": answers[-1].body} if answers else {}),
                        "runtimeConfig": PORTS,
                    }
                    answers.append(host.call("ADD", sent, container=pod, pod=pod))
                    assert answers[-1].status == 0, answers[-1].body
                with traffic.server(host.pods[pod], "udp", 53, pod):
                    assert traffic.asked(sender, "192.0.2.1", 5353) == f"{pod} 192.0.2.2"
                for plugin in reversed(chain):
                    sent = {**plugin, "prevResult": answers[-1].body, "runtimeConfig": PORTS}
                    assert host.call("DEL", sent, container=pod, pod=pod).status == 0
