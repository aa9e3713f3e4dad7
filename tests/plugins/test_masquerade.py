"""``ipMasq`` with packets, over both backends, and the nftables form as the reference's sources make it."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.plugins import traffic
from tests.plugins.twins import CONTAINER, Host, made
from weft.kernel import iptables

RANGES = {"ranges": [[{"subnet": "10.22.0.0/16"}], [{"subnet": "fd00:22::/64"}]]}
ROUTES = {"routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}
IPAM = {"type": "host-local", "dataDir": "HERE/ipam", **RANGES, **ROUTES}
NETWORK = {"cniVersion": "1.0.0", "name": "net", "ipMasq": True, "ipam": IPAM}
BACKENDS = [
    pytest.param(
        "iptables",
        marks=pytest.mark.skipif(not iptables.available(), reason="iptables is not installed (Debian: iptables)"),
    ),
    "nftables",
]


@contextmanager
def host_with(folder: Path, *pods: str) -> Iterator[Host]:
    """A host on which our plugins run."""
    with made(folder, *pods) as twins:
        yield twins.weft


def call(host: Host, command: str, configuration: dict[str, Any], pod: str = "pod") -> Any:
    answer = host.call(command, configuration, container=f"{CONTAINER}{pod}", pod=pod)
    assert answer.status == 0, answer.body
    return answer.body


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["bridge", "ptp"])
def test_packets(tmp_path: Path, kind: str, backend: str) -> None:
    """Beyond the subnet with the host's address, within it with the own; without rules again, with the own."""
    with host_with(tmp_path, "pod", "other", "client") as host:
        client = host.pods["client"]
        traffic.uplink(host.name, client)
        configuration = NETWORK | {"type": kind, "ipMasqBackend": backend}
        if kind == "bridge":
            configuration["isGateway"] = True
        own = [
            [item["address"].split("/")[0] for item in call(host, "ADD", configuration, pod)["ips"]]
            for pod in ("pod", "other")
        ]
        with traffic.server(client, "tcp", 80), traffic.server(client, "udp", 53):
            for protocol, port in (("tcp", 80), ("udp", 53)):
                for pod in ("pod", "other"):
                    assert traffic.ask(host.pods[pod], protocol, "192.0.2.2", port) == "192.0.2.1"
                    assert traffic.ask(host.pods[pod], protocol, "2001:db8::2", port) == "2001:db8::1"
        with traffic.server(host.pods["other"], "tcp", 80):
            assert [traffic.ask(host.pods["pod"], "tcp", address, 80) for address in own[1]] == own[0]
        with traffic.server(host.pods["pod"], "tcp", 80):
            # Who comes from beyond is seen as who it is.
            assert traffic.ask(client, "tcp", own[0][0], 80) == "192.0.2.2"
        call(host, "DEL", configuration, "other")
        with traffic.server(client, "tcp", 80):
            assert traffic.ask(host.pods["pod"], "tcp", "192.0.2.2", 80) == "192.0.2.1"
        assert f"{CONTAINER}other" not in rules(host) and f"{CONTAINER}pod" in rules(host)
        call(host, "DEL", configuration)
        assert CONTAINER not in rules(host)


def rules(host: Host) -> str:
    """Rules of either form."""
    saved = "".join(host.execute(name) for name in ("iptables-save", "ip6tables-save"))
    return saved + host.execute("nft", "list", "ruleset")


def nft(host: Host) -> list[str]:
    """The table, without indents and empty lines."""
    listed = host.execute("nft", "list", "table", "inet", "cni_plugins_masquerade").splitlines()
    return [line.strip() for line in listed if line.strip()]


#: What the reference's sources make, but for the readable end of the comment.
LISTED = """
table inet cni_plugins_masquerade {
comment "Masquerading for plugins from github.com/containernetworking/plugins"
chain masq_checks {
comment "Masquerade traffic from certain IPs to any (non-multicast) IP outside their subnet"
ip saddr 10.22.0.2 ip daddr != 10.22.0.0/16 masquerade comment "COMMENT"
ip6 saddr fd00:22::2 ip6 daddr != fd00:22::/64 masquerade comment "COMMENT"
}
chain postrouting {
type nat hook postrouting priority srcnat; policy accept;
ip daddr 224.0.0.0/4 return
ip6 daddr ff00::/8 return
goto masq_checks
}
}
"""


def test_nftables_as_the_references_sources_make_it(tmp_path: Path) -> None:
    hashes = "-".join(hashlib.sha512(text.encode()).hexdigest()[:16] for text in ("net", f"eth0:{CONTAINER}pod"))
    comment = f"{hashes}, net: net, if: eth0, id: {CONTAINER}pod"
    with host_with(tmp_path) as host:
        configuration = NETWORK | {"type": "ptp", "ipMasqBackend": "nftables"}
        call(host, "ADD", configuration)
        assert nft(host) == LISTED.replace("COMMENT", comment).split("\n")[1:-1]
        # What somebody else put at the entrance goes, as with the reference; what was left of an ADD, too.
        table = "inet cni_plugins_masquerade"
        host.execute("nft", f"insert rule {table} postrouting accept")
        call(host, "DEL", configuration)
        host.execute("nft", f'add rule {table} masq_checks ip saddr 10.9.9.9 masquerade comment "{comment}"')
        call(host, "ADD", configuration)
        again = LISTED.replace("COMMENT", comment).replace("10.22.0.2", "10.22.0.3").replace("::2 ", "::3 ")
        assert nft(host) == again.split("\n")[1:-1]
        call(host, "DEL", configuration)
        assert "masquerade comment" not in "\n".join(nft(host))


def test_without_iptables_nftables_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with host_with(tmp_path) as host:
        monkeypatch.setenv("PATH", "/nonexistent")
        configuration = NETWORK | {"type": "ptp"}
        call(host, "ADD", configuration)
        monkeypatch.undo()
        assert CONTAINER in "\n".join(nft(host))
        # The DEL may come from one who has both.
        call(host, "DEL", configuration)
        assert CONTAINER not in rules(host)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_rules_go_whatever_backend_the_del_names(tmp_path: Path, backend: str) -> None:
    with host_with(tmp_path) as host:
        call(host, "ADD", NETWORK | {"type": "ptp", "ipMasqBackend": backend})
        call(
            host,
            "DEL",
            NETWORK | {"type": "ptp", "ipMasqBackend": "iptables" if backend == "nftables" else "nftables"},
        )
        assert CONTAINER not in rules(host)
