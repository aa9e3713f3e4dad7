"""``portmap`` against the reference, rule by rule. Its nftables form and packets are in files of their own.

Debian's reference knows iptables only. Where ``WEFT_REFERENCE`` names a later one, nftables is compared as well;
else with what the later one's sources make.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.plugins.twins import (
    CONTAINER,
    GO_FOLDER,
    Answer,
    Host,
    Twins,
    as_iptables_shows_it,
    needs_reference,
    shell,
)

pytestmark = needs_reference

IPAM: dict[str, Any] = {"type": "host-local", "dataDir": "HERE/ipam", "ranges": [[{"subnet": "10.22.0.0/16"}]]}
IPAM6: dict[str, Any] = {"type": "host-local", "dataDir": "HERE/ipam", "ranges": [[{"subnet": "fd00:22::/64"}]]}
BOTH = {**IPAM, "ranges": [*IPAM["ranges"], *IPAM6["ranges"]]}
BRIDGE = {"type": "bridge", "isDefaultGateway": True, "ipMasq": True, "ipam": IPAM}
PORTMAP: dict[str, Any] = {"type": "portmap", "capabilities": {"portMappings": True}}
#: A previous result, for calls of portmap alone.
PREVIOUS = {
    "cniVersion": "1.0.0",
    "interfaces": [{"name": "cni0"}, {"name": "eth0", "sandbox": "/run/netns/x"}],
    "ips": [
        {"address": "10.22.0.1/16", "interface": 0},
        {"address": "10.22.0.2/16", "interface": 1},
        {"address": "10.22.0.3/16"},
        {"address": "fd00:22::2/64"},
    ],
}
NFTABLES = GO_FOLDER.joinpath("portmap").exists() and b"cni_hostport" in GO_FOLDER.joinpath("portmap").read_bytes()
needs_newer = pytest.mark.skipif(not NFTABLES, reason="this reference has no nftables form; WEFT_REFERENCE may")


def mapping(host: int, container: int = 80, protocol: str = "tcp", address: str = "") -> dict[str, Any]:
    found = {"hostPort": host, "containerPort": container, "protocol": protocol}
    return found | ({"hostIP": address} if address else {})


PORTS = {"portMappings": [mapping(8080), mapping(5353, 53, "udp")]}
ADDRESSES = {
    "portMappings": [
        mapping(8080, 80, "tcp", "192.0.2.1"),
        mapping(8081, 81, "tcp", "0.0.0.0"),
        mapping(8082, 82, "udp", "2001:db8::1"),
        mapping(8083, 83, "udp", "::"),
        mapping(8084, 84, "sctp"),
    ]
}
MANY = {"portMappings": [mapping(8000 + number) for number in range(32)] + [mapping(53, 53, "udp")]}

#: Keys of portmap, keys of the bridge, what the runtime says.
CONFIGURATIONS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}, PORTS),
    "no mappings": ({}, {}, {}),
    "no masquerading": ({"snat": False}, {}, PORTS),
    "other bit": ({"markMasqBit": 0}, {}, PORTS),
    "conditions": (
        {"conditionsV4": ["-s", "192.0.2.0/24", "!", "-i", "lo"], "conditionsV6": ["-d", "2001:db8::1"]},
        {"ipam": BOTH},
        PORTS,
    ),
    "empty conditions": ({"conditionsV4": [], "conditionsV6": None}, {}, PORTS),
    "more than 15 ports": ({}, {}, MANY),
    "addresses of the host": ({}, {}, ADDRESSES),
    "ipv6": ({}, {"ipam": IPAM6}, ADDRESSES),
    "both families": ({}, {"ipam": BOTH}, ADDRESSES),
    "without ipMasq": ({}, {"ipMasq": False}, PORTS),
    "layer 2": ({}, {"ipMasq": False, "isDefaultGateway": False, "ipam": {}}, PORTS),
    "the same port twice": ({}, {}, {"portMappings": [mapping(8080), mapping(8080, 81)]}),
    "keys in any case": ({"Snat": False, "CONDITIONSV4": ["-s", "192.0.2.0/24"]}, {}, PORTS),
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_like_the_reference(twins: Twins, name: str) -> None:
    keys, bridge, runtime = CONFIGURATIONS[name]
    compare(twins, BRIDGE | bridge, PORTMAP | keys, runtime=runtime)


def compare(twins: Twins, *plugins: dict[str, Any], **more: Any) -> None:
    """Without the CHECK of Debian's reference: it looks into both families, and finds the other's missing."""
    twins.compare(*plugins, differences=[as_iptables_shows_it], reference_checks=False, **more)


def test_behind_ptp_with_a_firewall(twins: Twins) -> None:
    ptp = {"type": "ptp", "ipMasq": True, "ipam": IPAM | {"routes": [{"dst": "0.0.0.0/0"}]}}
    compare(twins, ptp, PORTMAP, {"type": "firewall"}, runtime=PORTS)


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0"])
def test_every_version(twins: Twins, version: str) -> None:
    compare(twins, BRIDGE, PORTMAP, runtime=PORTS, version=version)


def test_a_chain_of_others_marks(twins: Twins) -> None:
    for host in twins:
        host.execute("iptables", "-t", "nat", "-N", "KUBE-MARK-MASQ")
    compare(twins, BRIDGE, PORTMAP | {"externalSetMarkChain": "KUBE-MARK-MASQ"}, runtime=PORTS)


def test_several_containers(twins: Twins) -> None:
    """They share what is shared, and each takes away its own; the second network has another mark."""
    for host in twins:
        for container, network, bit in (("a", "net", 13), ("b", "net", 13), ("a", "other", 5)):
            assert call(host, "ADD", container, network, markMasqBit=bit).status == 0
    assert rules(twins.go) == rules(twins.weft)
    assert sum("-j CNI-DN-" in line for line in rules(twins.weft)) == 2 * 2 * 3
    for host in twins:
        assert call(host, "DEL", "a", "net").status == 0
    assert rules(twins.go) == rules(twins.weft)
    assert sum("-j CNI-DN-" in line for line in rules(twins.weft)) == 2 * 2 * 2


def test_with_the_legacy_programs(twins: Twins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "programs"
    folder.mkdir()
    for name in ("iptables", "ip6tables"):
        for word in ("", "-save", "-restore"):
            (folder / f"{name}{word}").symlink_to(f"/usr/sbin/{name}-legacy{word}")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    if "nf_tables" in twins.weft.execute("iptables", "--version"):
        pytest.skip("the legacy programs are not installed")
    if shell(twins.weft.name, "iptables -t nat -S >/dev/null && ip6tables -t nat -S >/dev/null && echo yes") == "":
        pytest.skip("this kernel has no legacy tables")
    for host in twins:
        assert call(host, "ADD").status == 0
    assert rules(twins.go) == rules(twins.weft)
    assert call(twins.weft, "CHECK").status == 0
    for host in twins:
        assert call(host, "DEL").status == 0
    assert rules(twins.go) == rules(twins.weft)
    assert "CNI-DN-" not in "".join(rules(twins.weft))


def call(host: Host, command: str, container: str = CONTAINER, network: str = "net", **keys: Any) -> Answer:
    """Call portmap alone, with a result of others."""
    configuration = {"cniVersion": "1.0.0", "name": network, **PORTMAP, "runtimeConfig": PORTS, **keys}
    return host.call(command, {"prevResult": PREVIOUS, **configuration}, container=container)


def rules(host: Host) -> list[str]:
    """iptables of both families, without counters."""
    text = host.execute("iptables-save", "-t", "nat") + host.execute("ip6tables-save", "-t", "nat")
    return [line.partition(" [")[0] for line in text.splitlines() if not line.startswith("#")]


CONDITIONS = st.sampled_from([[], ["-s", "192.0.2.0/24"], ["!", "-i", "lo"], ["-m", "mark", "--mark", "0x1"]])
MAPPINGS = st.lists(
    st.builds(
        mapping,
        st.integers(1, 65535),
        st.integers(1, 65535),
        st.sampled_from(["tcp", "udp", "sctp"]),
        st.sampled_from(["", "192.0.2.1", "0.0.0.0", "127.0.0.1", "2001:db8::1", "::"]),
    ),
    min_size=1,
    max_size=20,
)


@given(mappings=MAPPINGS, snat=st.booleans(), bit=st.integers(0, 31), words=CONDITIONS)
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_mapped(
    twins: Twins, mappings: list[dict[str, Any]], snat: bool, bit: int, words: list[str]
) -> None:
    keys: dict[str, Any] = {
        "snat": snat,
        "markMasqBit": bit,
        "conditionsV4": words,
        "runtimeConfig": {"portMappings": mappings},
    }
    for host in twins:
        assert call(host, "ADD", **keys).status == 0
    assert rules(twins.go) == rules(twins.weft)
    assert call(twins.weft, "CHECK", **keys).status == 0
    for host in twins:
        assert call(host, "DEL", **keys).status == 0
    assert rules(twins.go) == rules(twins.weft)


REFUSED: dict[str, dict[str, Any]] = {
    "no previous result": {"prevResult": None},
    "bit too large": {"markMasqBit": 32},
    "bit below zero": {"markMasqBit": -1},
    "bit of the wrong type": {"markMasqBit": "13"},
    "both ways to mark": {"markMasqBit": 13, "externalSetMarkChain": "X"},
    "no such chain": {"externalSetMarkChain": "NOT-THERE"},
    "snat of the wrong type": {"snat": "yes"},
    "host port zero": {"runtimeConfig": {"portMappings": [mapping(0)]}},
    "host port below zero": {"runtimeConfig": {"portMappings": [mapping(-1)]}},
    "host port too large": {"runtimeConfig": {"portMappings": [mapping(65536)]}},
    "no container port": {"runtimeConfig": {"portMappings": [{"hostPort": 80, "protocol": "tcp"}]}},
    "container port too large": {"runtimeConfig": {"portMappings": [mapping(80, 70000)]}},
    "no protocol": {"runtimeConfig": {"portMappings": [{"hostPort": 80, "containerPort": 80}]}},
    "protocol without ports": {"runtimeConfig": {"portMappings": [mapping(80, 80, "icmp")]}},
    "mappings of the wrong type": {"runtimeConfig": {"portMappings": {"hostPort": 80}}},
    "port of the wrong type": {"runtimeConfig": {"portMappings": [{**mapping(80), "hostPort": "80"}]}},
    "conditions of the wrong type": {"conditionsV4": "-s 10.0.0.0/8"},
    "conditions that iptables does not know": {"conditionsV4": ["--nonsense"]},
    "conditions of IPv6 that iptables does not know": {"conditionsV6": ["--nonsense"]},
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_like_the_reference(twins: Twins, name: str) -> None:
    for host in twins:
        assert call(host, "ADD", "before").status == 0
    sent = {**PORTMAP, "prevResult": PREVIOUS, "runtimeConfig": PORTS} | REFUSED[name]
    twins.refuse({key: value for key, value in sent.items() if value is not None})


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"backend": "ebtables"}, "ebtables"),
        ({"backend": "nftables", "conditionsV4": ["-s", "10.0.0.0/8"]}, "conditionsV4"),
        ({"backend": "iptables", "conditionsV6": ["ip6", "saddr", "fd00::/8"]}, "conditionsV6"),
        ({"backend": "nftables", "externalSetMarkChain": "X"}, "externalSetMarkChain"),
        ({"conditionsV4": ["ip saddr 10.0.0.0/8"], "conditionsV6": ["-s", "fd00::/8"]}, "conditionsV4"),
        ({"backend": "nftables", "conditionsV4": ["iifname x; accept"]}, "conditionsV4"),
        ({"backend": "nftables", "conditionsV4": ["nonsense"]}, "nonsense"),
        ({"conditionsV4": ["-s", "10.0.0.0/8\nCOMMIT"]}, "conditionsV4"),
        ({"externalSetMarkChain": "X -j ACCEPT"}, "externalSetMarkChain"),
        ({"masqAll": 1}, "masqAll"),
        ({"runtimeConfig": {"portMappings": [mapping(80, 80, "tcp", "nonsense")]}}, "nonsense"),
        ({"runtimeConfig": {"portMappings": [mapping(80, 80, "tcp", "fe80::1%eth0")]}}, "fe80::1%eth0"),
    ],
)
def test_what_the_reference_would_get_wrong_is_refused(twins: Twins, keys: dict[str, Any], named: str) -> None:
    host = twins.weft
    answer = call(host, "ADD", **keys)
    assert answer.code == 999 and named in answer.body["msg"]
    assert "CNI-" not in "".join(rules(host)) and "cni_hostport" not in host.execute("nft", "list", "ruleset")


@pytest.mark.parametrize("go_adds", [True, False])
def test_either_takes_down_what_the_other_made(twins: Twins, go_adds: bool) -> None:
    host = twins.go
    go, ours = host, replace(host, go=False)
    first, second = (go, ours) if go_adds else (ours, go)
    assert call(first, "ADD", "x").status == 0
    assert call(first, "DEL", "x").status == 0
    before = rules(host)
    assert call(first, "ADD", runtimeConfig=MANY).status == 0
    assert rules(host) != before
    if go_adds:
        assert call(ours, "CHECK", runtimeConfig=MANY).status == 0
    assert call(second, "DEL", runtimeConfig=MANY).status == 0
    assert rules(host) == before


def test_del_by_other_mappings_takes_all_away(twins: Twins) -> None:
    """As where the runtime has forgotten which there were: what leads to the chain is found by the chain."""
    host = twins.weft
    assert call(host, "ADD", runtimeConfig=MANY).status == 0
    assert call(host, "DEL", runtimeConfig=PORTS).status == 0
    assert "CNI-DN-" not in "".join(rules(host))


def test_what_add_refuses_does_not_keep_del_from_its_work(twins: Twins) -> None:
    host = twins.weft
    wrong = {"portMappings": [*PORTS["portMappings"], mapping(70000), mapping(80, 80, "icmp")]}
    assert call(host, "DEL", runtimeConfig=wrong).status == 0
    assert call(host, "ADD").status == 0
    assert call(host, "ADD", "other", runtimeConfig=wrong).code == 999
    assert call(host, "DEL", runtimeConfig=wrong).status == 0
    assert "CNI-DN-" not in "".join(rules(host))


def test_add_twice_makes_it_once(twins: Twins) -> None:
    host = twins.weft
    assert call(host, "ADD").status == 0
    before = rules(host)
    assert call(host, "ADD").status == 0
    assert rules(host) == before


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
def test_ours_share_from_the_first_on(twins: Twins, backend: str) -> None:
    """None finds what all share, all make it."""
    with ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(call, twins.weft, "ADD", str(number), backend=backend) for number in range(4)]
        assert [each.result().body for each in calls if each.result().status] == []
    for number in range(4):
        assert call(twins.weft, "CHECK", str(number), backend=backend).status == 0
    assert sum("-j CNI-HOSTPORT-DNAT" in line for line in rules(twins.weft)) in (0, 4)


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
def test_many_at_once(twins: Twins, backend: str) -> None:
    """Ours and, with iptables, the reference's side by side on one host: nobody's rules are lost or left."""
    host = twins.weft
    hosts = [host, replace(host, go=backend == "iptables")]
    keys: dict[str, Any] = {"backend": backend, "runtimeConfig": {"portMappings": [mapping(8080)]}}
    keys |= {"prevResult": {"cniVersion": "1.0.0", "ips": [{"address": "10.22.0.2/16"}]}}

    def at_once(command: str) -> list[Answer]:
        with ThreadPoolExecutor(6) as threads:
            calls = [
                threads.submit(call, each, command, f"{word}{number}", **keys)
                for number in range(4)
                for word, each in zip(("ours", "theirs"), hosts, strict=True)
            ]
            return [each.result() for each in calls]

    # The reference fails where another makes what all share at the same time.
    assert backend == "nftables" or call(hosts[1], "ADD", "first").status == 0
    assert [answer.body for answer in at_once("ADD") if answer.status] == []
    for number in range(4):
        assert all(call(host, "CHECK", f"{word}{number}", **keys).status == 0 for word in ("ours", "theirs"))
    assert [answer.body for answer in at_once("DEL") if answer.status] == []
    assert found(host, "ours") == found(host, "theirs") == 0


BACKENDS = ["iptables", "nftables"]


def found(host: Host, word: str = CONTAINER) -> int:
    """How many rules of a container there are, in either form."""
    return sum(word in line for line in (*rules(host), *host.execute("nft", "list", "ruleset").splitlines()))


@pytest.mark.parametrize("backend", BACKENDS)
def test_del_is_repeatable_and_needs_no_namespace(twins: Twins, backend: str) -> None:
    host = twins.weft
    configuration = {"cniVersion": "1.0.0", "name": "net", **PORTMAP, "runtimeConfig": PORTS, "backend": backend}
    assert call(host, "DEL", backend=backend).status == 0
    assert call(host, "ADD", backend=backend).status == 0
    assert found(host)
    assert host.call("DEL", configuration, pod=None).status == 0
    assert not found(host)
    assert host.call("DEL", configuration, pod=None).status == 0
    assert call(host, "DEL", backend=backend).status == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_del_without_a_backend_looks_into_both(twins: Twins, backend: str) -> None:
    host = twins.weft
    assert call(host, "ADD", backend=backend).status == 0
    assert call(host, "DEL").status == 0
    assert not found(host)


@pytest.mark.parametrize("backend", BACKENDS)
def test_check_finds_what_is_missing(twins: Twins, backend: str) -> None:
    host = twins.weft
    assert call(host, "CHECK", backend=backend).code == 999
    assert call(host, "ADD", backend=backend).status == 0
    assert call(host, "CHECK", backend=backend).status == 0
    more = {"portMappings": [*PORTS["portMappings"], mapping(9999)]}
    answer = call(host, "CHECK", backend=backend, runtimeConfig=more)
    assert answer.code == 999 and "9999" in answer.body["msg"]
    assert call(host, "CHECK", backend=backend, prevResult=None).code == 999
    if backend == "iptables":
        host.execute("iptables", "-t", "nat", "-D", "OUTPUT", "1")
        assert "OUTPUT" in call(host, "CHECK").body["msg"]


def test_garbage_is_collected(twins: Twins) -> None:
    host = twins.weft
    for container, network in (("a", "net"), ("b", "net"), ("c", "other")):
        assert call(host, "ADD", container, network).status == 0
    keys: dict[str, Any] = {
        "cniVersion": "1.1.0",
        "cni.dev/valid-attachments": [{"containerID": "b", "ifname": "eth0"}],
    }
    assert call(host, "GC", **keys).status == 0
    left = "\n".join(rules(host))
    assert 'id: \\"a\\"' not in left and 'id: \\"b\\"' in left and 'id: \\"c\\"' in left
    assert left.count(":CNI-DN-") == 4


@pytest.mark.parametrize("backend", BACKENDS)
def test_status(twins: Twins, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {"cniVersion": "1.1.0", "backend": backend}
    assert call(twins.weft, "STATUS", **keys).status == 0
    if backend == "iptables":
        monkeypatch.setenv("PATH", "/nonexistent")
        answer = call(twins.weft, "STATUS", **keys)
        assert answer.code == 50 and "iptables" in answer.body["msg"]


def test_without_iptables_nftables_serves(twins: Twins, monkeypatch: pytest.MonkeyPatch) -> None:
    host = twins.weft
    monkeypatch.setenv("PATH", "/nonexistent")
    assert call(host, "ADD").status == 0
    assert call(host, "DEL").status == 0
    monkeypatch.undo()
    assert "cni_hostport" in host.execute("nft", "list", "ruleset") and not found(host)
