"""``bridge`` against the reference: every key, addresses of both families, chains, bad input."""

from typing import Any

import pytest

from tests.namespaces import inside, ip
from tests.plugins.twins import CONTAINER, Twins, lacking, needs_reference
from weft.kernel.netlink import RouteSocket

pytestmark = needs_reference

IPAM: dict[str, Any] = {"type": "host-local", "dataDir": "HERE/ipam", "ranges": [[{"subnet": "10.22.0.0/16"}]]}
IPAM6: dict[str, Any] = {"type": "host-local", "dataDir": "HERE/ipam", "ranges": [[{"subnet": "fd00:22::/64"}]]}
BOTH = {**IPAM, "ranges": [*IPAM["ranges"], *IPAM6["ranges"]]}
ROUTES = {"routes": [{"dst": "198.51.100.0/24"}, {"dst": "192.0.2.0/24", "gw": "10.22.0.9"}]}

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "layer 2": {},
    "plain": {"ipam": IPAM},
    "named bridge": {"bridge": "mybridge", "ipam": IPAM},
    "gateway": {"isGateway": True, "ipam": IPAM},
    "default gateway": {"isDefaultGateway": True, "ipam": IPAM},
    "routes": {"isGateway": True, "ipam": IPAM | ROUTES},
    "default gateway and routes": {"isDefaultGateway": True, "ipam": IPAM | ROUTES},
    "default route of its own": {
        "isDefaultGateway": True,
        "ipam": IPAM | {"routes": [{"dst": "0.0.0.0/0", "gw": "10.22.0.9"}]},
    },
    "mtu": {"mtu": 1400, "isGateway": True, "ipam": IPAM},
    "hairpin": {"hairpinMode": True, "ipam": IPAM},
    "promiscuous": {"promiscMode": True, "ipam": IPAM},
    "masquerade": {"isGateway": True, "ipMasq": True, "ipam": IPAM},
    "ipv6": {"isGateway": True, "ipam": IPAM6},
    "ipv6 masquerade": {"isDefaultGateway": True, "ipMasq": True, "ipam": IPAM6},
    "both families": {"isDefaultGateway": True, "ipam": BOTH},
    "both families masqueraded": {"isDefaultGateway": True, "ipMasq": True, "ipam": BOTH},
    "spoof check": {"macspoofchk": True, "ipam": IPAM},
    "spoof check on layer 2": {"macspoofchk": True},
    "duplicate address detection": {"enabledad": True, "isGateway": True, "ipam": IPAM6},
    "dns": {"ipam": IPAM, "dns": {"nameservers": ["10.1.0.1"], "domain": "a", "search": ["b"], "options": ["c"]}},
    "mac": {"ipam": IPAM, "args": {"cni": {"mac": "02:11:22:33:44:55"}}},
    "mac by the runtime": {"ipam": IPAM, "runtimeConfig": {"mac": "02:11:22:33:44:56"}},
    "static": {"isGateway": True, "ipam": {"type": "static", "addresses": [{"address": "10.9.0.5/24"}]}},
    "requested": {"ipam": IPAM, "runtimeConfig": {"ips": ["10.22.3.4"]}},
    "keys in any case": {"ISGATEWAY": True, "Bridge": "other", "ipam": IPAM},
    "null is nothing": {"isGateway": None, "mtu": None, "ipam": IPAM},
    "unknown keys": {"somethingElse": {"a": 1}, "ipam": IPAM},
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_like_the_reference(twins: Twins, name: str) -> None:
    # The reference's CHECK asks for the plugin "" where there is no ipam, and misses routes without a gateway.
    twins.compare(
        {"type": "bridge", **CONFIGURATIONS[name]},
        reference_checks="ipam" in CONFIGURATIONS[name] and "routes" not in name,
    )


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0"])
def test_every_version(twins: Twins, version: str) -> None:
    twins.compare(
        {"type": "bridge", "isDefaultGateway": True, "ipam": BOTH | ROUTES},
        version=version,
        reference_checks=False,
    )


def test_mac_in_arguments(twins: Twins) -> None:
    result = twins.compare(
        {"type": "bridge", "ipam": IPAM}, args="IgnoreUnknown=1;MAC=02:00:00:00:00:07;K8S_POD_NAME=a"
    )
    assert result["interfaces"][2]["mac"] == "02:00:00:00:00:07"


def test_a_bridge_that_is_there(twins: Twins) -> None:
    twins.prepare("link add cni0 mtu 1300 type bridge", "link set cni0 up", "address add 10.22.0.1/16 dev cni0")
    twins.compare({"type": "bridge", "isGateway": True, "ipam": IPAM})


def test_force_address(twins: Twins) -> None:
    twins.prepare("link add cni0 type bridge", "link set cni0 up", "address add 10.99.0.1/16 dev cni0")
    twins.compare({"type": "bridge", "isGateway": True, "forceAddress": True, "ipam": IPAM})


NO_VLANS = lacking("link add name br0 type bridge vlan_filtering 1")
VLAN = pytest.mark.skipif(bool(NO_VLANS), reason=NO_VLANS)


@VLAN
@pytest.mark.parametrize("gateway", [False, True])
def test_vlan(twins: Twins, gateway: bool) -> None:
    # Debian's reference keeps VLAN 1 on the port whatever the configuration says.
    twins.compare({"type": "bridge", "vlan": 100, "preserveDefaultVlan": True, "isGateway": gateway, "ipam": IPAM})


REFUSED: dict[str, dict[str, Any]] = {
    "mtu of the wrong type": {"mtu": "1400"},
    "flag of the wrong type": {"isGateway": "yes"},
    "vlan too large": {"vlan": 4095},
    "vlan below zero": {"vlan": -1},
    "hairpin and promiscuous": {"hairpinMode": True, "promiscMode": True},
    "no such ipam": {"ipam": {"type": "nonesuch"}},
    "ipam without ranges": {"ipam": {"type": "host-local", "dataDir": "HERE/x"}},
    "subnet with host bits": {"ipam": {"type": "host-local", "dataDir": "HERE/x", "subnet": "10.0.0.1/24"}},
    "bad mac": {"ipam": IPAM, "runtimeConfig": {"mac": "no"}},
    "ipam of the wrong type": {"ipam": {"type": 7}},
    "two default routes": {"isDefaultGateway": True, "ipam": IPAM | {"routes": [{"dst": "0.0.0.0/0"}]}},
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_like_the_reference(twins: Twins, name: str) -> None:
    # The reference leaves a bridge behind when it refuses what it read; ours does when the pair or IPAM fails.
    twins.prepare("link add cni0 type bridge", "link set cni0 up")
    twins.refuse({"type": "bridge", **REFUSED[name]})


def test_unknown_arguments_are_refused(twins: Twins) -> None:
    twins.refuse({"type": "bridge", "ipam": IPAM}, "FOO=bar")


def test_an_interface_that_is_there_is_refused(twins: Twins) -> None:
    for host in twins:
        ip("link", "add", "eth0", "type", "bridge", namespace=host.pods["pod"])
    twins.prepare("link add cni0 type bridge", "link set cni0 up")
    answer = twins.refuse({"type": "bridge", "ipam": IPAM})
    assert "eth0" in answer.body["msg"]


def test_another_address_is_refused(twins: Twins) -> None:
    twins.prepare("link add cni0 type bridge", "link set cni0 up", "address add 10.99.0.1/16 dev cni0")
    answer = twins.refuse({"type": "bridge", "isGateway": True, "ipam": IPAM})
    assert "10.99.0.1/16" in answer.body["msg"] and "forceAddress" in answer.body["msg"]


def test_a_device_that_is_no_bridge_is_refused(twins: Twins) -> None:
    twins.prepare("link add cni0 type veth peer name other")
    assert "not a bridge" in twins.refuse({"type": "bridge", "ipam": IPAM}).body["msg"]


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"vlanTrunk": [{"minID": 5}]}, "maxID"),
        ({"vlanTrunk": [{"minID": 9, "maxID": 5}]}, "minID 9"),
        ({"vlanTrunk": [{"id": 4095}]}, "4095"),
        ({"disableContainerInterface": True, "ipam": IPAM}, "disableContainerInterface"),
        ({"ipMasqBackend": "ebtables"}, "ebtables"),
        ({"mtu": 5}, "mtu 5"),
        ({"bridge": "a/b"}, "a/b"),
    ],
)
def test_newer_keys_are_checked(twins: Twins, keys: dict[str, Any], named: str) -> None:
    answer = twins.weft.call("ADD", {"cniVersion": "1.0.0", "name": "net", "type": "bridge", **keys})
    assert answer.code == 999 and named in answer.body["msg"]
    assert "cni0" not in ip("link", namespace=twins.weft.name)


def test_isolated_port_and_interface_that_stays_down(twins: Twins) -> None:
    configuration = {"cniVersion": "1.1.0", "name": "net", "type": "bridge", "portIsolation": True}
    answer = twins.weft.call("ADD", {**configuration, "disableContainerInterface": True})
    assert answer.status == 0, answer.body
    port = answer.body["interfaces"][1]["name"]
    assert "isolated on" in ip("-d", "link", "show", port, namespace=twins.weft.name)
    assert "state DOWN" in ip("link", "show", "eth0", namespace=twins.weft.pods["pod"])


def test_masquerade_by_nftables(twins: Twins) -> None:
    host = twins.weft
    configuration = {"cniVersion": "1.1.0", "name": "net", "type": "bridge", "isGateway": True, "ipMasq": True}
    configuration |= {"ipMasqBackend": "nftables", "ipam": BOTH}
    answer = host.call("ADD", configuration)
    assert answer.status == 0, answer.body
    rules = host.execute("nft", "list", "table", "inet", "cni_plugins_masquerade")
    assert 'ip saddr 10.22.0.2 ip daddr != 10.22.0.0/16 masquerade comment "' in rules
    assert "ip6 saddr fd00:22::2 ip6 daddr != fd00:22::/64 masquerade" in rules
    assert f"net: net, if: eth0, id: {CONTAINER}" in rules
    assert host.call("ADD", configuration, container="b" * 12, ifname="eth1").status == 0
    listed = {"cni.dev/valid-attachments": [{"containerID": "b" * 12, "ifname": "eth1"}]}
    assert host.call("GC", configuration | listed, pod=None).status == 0
    rules = host.execute("nft", "list", "table", "inet", "cni_plugins_masquerade")
    assert CONTAINER not in rules and "b" * 12 in rules
    assert host.call("DEL", configuration, container="b" * 12, ifname="eth1").status == 0
    assert "masquerade comment" not in host.execute("nft", "list", "table", "inet", "cni_plugins_masquerade")


def test_rules_and_addresses_go_where_the_sandbox_is_gone(twins: Twins) -> None:
    """The reference leaves its iptables chain behind when the namespace went before the DEL."""
    host = twins.weft
    configuration = {"cniVersion": "1.0.0", "name": "net", "type": "bridge", "ipMasq": True, "ipam": IPAM}
    before = host.execute("iptables-save", "-t", "nat")
    assert host.call("ADD", configuration).status == 0
    assert "CNI-" in host.execute("iptables-save", "-t", "nat")
    assert host.call("DEL", configuration, pod=None).status == 0
    assert "CNI-" not in host.execute("iptables-save", "-t", "nat"), before
    assert [file.name for file in (host.folder / "ipam/net").iterdir() if "10." in file.name] == []


def test_garbage_is_collected(twins: Twins) -> None:
    host = twins.weft
    configuration = {"cniVersion": "1.1.0", "name": "net", "type": "bridge", "ipMasq": True, "ipam": IPAM}
    for number in range(3):
        answer = host.call("ADD", configuration, container=f"c{number}", ifname=f"eth{number}")
        assert answer.status == 0, answer.body
    listed = {"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth1"}]}
    assert host.call("GC", configuration | listed, pod=None).status == 0
    saved = host.execute("iptables-save", "-t", "nat")
    assert "c1" in saved and "c0" not in saved and "c2" not in saved
    kept = [file.name for file in (host.folder / "ipam/net").iterdir() if file.name[0].isdigit()]
    assert kept == ["10.22.0.3"]


def test_a_failed_add_leaves_nothing(twins: Twins) -> None:
    """The bridge cannot take its address, after pair and IPAM were done."""
    host = twins.weft
    inside(host.name, lambda: RouteSocket().close())
    ip("link", "add", "cni0", "type", "bridge", namespace=host.name)
    ip("address", "add", "10.22.9.9/16", "dev", "cni0", namespace=host.name)
    configuration = {"cniVersion": "1.0.0", "name": "net", "type": "bridge", "isGateway": True, "ipMasq": True}
    assert host.call("ADD", configuration | {"ipam": IPAM}).code == 999
    assert "veth" not in ip("link", namespace=host.name)
    assert "eth0" not in ip("link", namespace=host.pods["pod"])
    assert not [file for file in (host.folder / "ipam/net").iterdir() if file.name[0].isdigit()]


def test_check_finds_what_changed(twins: Twins) -> None:
    host, pod = twins.weft, twins.weft.pods["pod"]
    configuration = {
        "cniVersion": "1.0.0",
        "name": "net",
        "type": "bridge",
        "isDefaultGateway": True,
        "ipam": IPAM,
    }
    result = host.call("ADD", configuration).body
    sent = configuration | {"prevResult": result}
    assert host.call("CHECK", sent).status == 0
    ip("route", "del", "default", namespace=pod)
    assert "0.0.0.0/0" in host.call("CHECK", sent).body["msg"]
    ip("address", "flush", "dev", "eth0", namespace=pod)
    assert "10.22.0.2" in host.call("CHECK", sent).body["msg"]
    port = result["interfaces"][1]["name"]
    ip("link", "set", port, "nomaster", namespace=host.name)
    ip("address", "add", "10.22.0.2/16", "dev", "eth0", namespace=pod)
    ip("route", "add", "default", "via", "10.22.0.1", namespace=pod)
    assert "not on bridge cni0" in host.call("CHECK", sent).body["msg"]
