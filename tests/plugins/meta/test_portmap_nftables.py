"""``portmap`` in its nftables form: as the reference's sources make it, and as a later reference does."""

from dataclasses import replace
from typing import Any

import pytest

from tests.plugins.meta.test_portmap import (
    ADDRESSES,
    BOTH,
    BRIDGE,
    CONFIGURATIONS,
    PORTMAP,
    PORTS,
    call,
    compare,
    found,
    needs_newer,
)
from tests.plugins.twins import (
    CONTAINER,
    Host,
    Twins,
    needs_reference,
)

pytestmark = needs_reference

#: What the reference's sources make of ADDRESSES for 10.22.0.2 and fd00:22::2.
LISTED = f"""
table ip cni_hostport {{
comment "CNI portmap plugin"
chain hostports {{
ip daddr 192.0.2.1 tcp dport 8080 dnat to 10.22.0.2:80 comment "{CONTAINER}"
tcp dport 8081 dnat to 10.22.0.2:81 comment "{CONTAINER}"
sctp dport 8084 dnat to 10.22.0.2:84 comment "{CONTAINER}"
}}
chain hostip_hostports {{
}}
chain hostports_all {{
jump hostip_hostports
jump hostports
}}
chain prerouting {{
type nat hook prerouting priority dstnat; policy accept;
ip saddr 192.0.2.0/24 fib daddr type local jump hostports_all
}}
chain output {{
type nat hook output priority -100; policy accept;
ip saddr 192.0.2.0/24 fib daddr type local jump hostports_all
}}
chain masquerading {{
type nat hook postrouting priority srcnat; policy accept;
ip saddr 10.22.0.2 ip daddr 10.22.0.2 masquerade comment "{CONTAINER}"
ip saddr 127.0.0.1 ip daddr 10.22.0.2 masquerade comment "{CONTAINER}"
}}
}}
table ip6 cni_hostport {{
comment "CNI portmap plugin"
chain hostports {{
ip6 daddr 2001:db8::1 udp dport 8082 dnat to [fd00:22::2]:82 comment "{CONTAINER}"
udp dport 8083 dnat to [fd00:22::2]:83 comment "{CONTAINER}"
sctp dport 8084 dnat to [fd00:22::2]:84 comment "{CONTAINER}"
}}
chain hostip_hostports {{
}}
chain hostports_all {{
jump hostip_hostports
jump hostports
}}
chain prerouting {{
type nat hook prerouting priority dstnat; policy accept;
fib daddr type local jump hostports_all
}}
chain output {{
type nat hook output priority -100; policy accept;
fib daddr type local jump hostports_all
}}
chain masquerading {{
type nat hook postrouting priority srcnat; policy accept;
ip6 saddr fd00:22::2 ip6 daddr fd00:22::2 masquerade comment "{CONTAINER}"
}}
}}
"""


def listing(host: Host) -> list[str]:
    """The ruleset, without indents and empty lines."""
    return [line.strip() for line in host.execute("nft", "list", "ruleset").splitlines() if line.strip()]


def test_nftables_as_the_references_sources_make_it(twins: Twins) -> None:
    host = twins.weft
    keys: dict[str, Any] = {
        "backend": "nftables",
        "conditionsV4": ["ip", "saddr", "192.0.2.0/24"],
        "runtimeConfig": ADDRESSES,
    }
    assert call(host, "ADD", **keys).status == 0
    assert listing(host) == LISTED.split("\n")[1:-1]
    assert call(host, "ADD", "other", **keys).status == 0
    assert call(host, "DEL", "other", **keys).status == 0
    assert listing(host) == LISTED.split("\n")[1:-1]


@pytest.mark.parametrize("masquerade_all", [True, False])
def test_nftables_of_the_reference_is_taken_down(twins: Twins, masquerade_all: bool) -> None:
    """Rules as older versions put them, too: those with an address in a chain of their own."""
    host = twins.weft
    table = "ip cni_hostport"
    assert call(host, "ADD", "stays", backend="nftables", masqAll=masquerade_all).status == 0
    before = listing(host)
    rule = f'tcp dport 8085 dnat to 10.22.0.9:80 comment "{CONTAINER}"'
    for line in (
        f"add rule {table} hostip_hostports ip daddr 192.0.2.1 {rule}",
        f"insert rule {table} hostports {rule}",
        f'add rule {table} masquerading ip saddr 10.22.0.9 ip daddr 10.22.0.9 masquerade comment "{CONTAINER}"',
    ):
        host.execute("nft", line)
    assert found(host) == 3
    assert call(host, "DEL", backend="nftables").status == 0
    assert listing(host) == before


@needs_newer
@pytest.mark.parametrize(
    "name", ["plain", "no masquerading", "more than 15 ports", "both families", "masquerade all"]
)
def test_nftables_like_a_newer_reference(twins: Twins, name: str) -> None:
    keys, bridge, runtime = CONFIGURATIONS.get(name, ({"masqAll": True}, {"ipam": BOTH}, PORTS))
    compare(twins, BRIDGE | bridge, PORTMAP | keys | {"backend": "nftables"}, runtime=runtime)


@needs_newer
def test_masquerade_all_like_a_newer_reference(twins: Twins) -> None:
    compare(twins, BRIDGE | {"ipam": BOTH}, PORTMAP | {"masqAll": True}, runtime=PORTS)


@needs_newer
@pytest.mark.parametrize("go_adds", [True, False])
def test_nftables_is_taken_down_by_either(twins: Twins, go_adds: bool) -> None:
    host = twins.go
    hosts = (host, replace(host, go=False)) if go_adds else (replace(host, go=False), host)
    assert call(hosts[0], "ADD", "stays", backend="nftables").status == 0
    before = listing(host)
    assert call(hosts[0], "ADD", backend="nftables").status == 0
    assert all(call(each, "CHECK", backend="nftables").status == 0 for each in hosts)
    assert call(hosts[1], "DEL", backend="nftables").status == 0
    assert listing(host) == before
