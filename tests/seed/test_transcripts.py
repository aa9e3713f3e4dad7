"""The transcripts that Weft was asked for, in their order, against a lab that the very manifest runs in.

Names, counts, prefixes and structure are compared; times, sizes and generated names are not. Where an answer
differs on purpose, docs/kubernetes.md says why, in a table.
"""

import json
import re
import shutil

import pytest

from tests.lab.test_lab import Lab

pytestmark = [
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl here"),
    pytest.mark.skipif(shutil.which("runc") is None, reason="there is no runc here"),
    pytest.mark.timeout(900),
    pytest.mark.xdist_group("seed"),
]

#: The plugins of the seed's ``/opt/cni/bin``.
PLUGINS = {
    "bandwidth", "bridge", "dhcp", "firewall", "flannel", "host-device", "host-local", "ipvlan", "loopback",
    "macvlan", "portmap", "ptp", "sbr", "static", "tuning", "vlan",
}  # fmt: skip


def rows(lab: Lab, *words: str) -> list[list[str]]:
    return [re.split(r"\s{2,}", line.strip()) for line in lab.weft("kubectl", *words).splitlines()]


def test_the_pod_networking_model(lab: Lab) -> None:
    report = json.loads(lab.weft("check", "-o", "json"))
    assert report["good"]
    assert [rule["rule"] for rule in report["rules"]] == [
        "every pod has an address",
        "every pod reaches every pod on its node",
        "every pod reaches every pod on other nodes without NAT",
    ]


def test_ls_opt_cni_bin(lab: Lab) -> None:
    lines = lab.execute("controlplane", "ls", "-l", "/opt/cni/bin").splitlines()
    assert lines[0].startswith("total ")
    names = {line.split()[8]: line for line in lines[1:]}
    assert set(names) >= PLUGINS
    assert "weave-net" in names
    assert all(line.split()[2:4] == ["root", "root"] for line in names.values())
    assert names["weft-launcher"].startswith("-rwxr-xr-x")


def test_ls_etc_cni_net_d(lab: Lab) -> None:
    for node in ("controlplane", "node01"):
        assert lab.execute(node, "ls", "/etc/cni/net.d/").split() == ["10-weave.conflist"]
    total, line = lab.execute("controlplane", "ls", "-l", "/etc/cni/net.d/").splitlines()
    assert total.startswith("total ")
    assert re.fullmatch(r"-rw-r--r-- 1 root root +\d+ .* 10-weave\.conflist", line)


def test_the_configuration_list(lab: Lab) -> None:
    content = json.loads(lab.execute("controlplane", "cat", "/etc/cni/net.d/10-weave.conflist"))
    assert content["name"] == "weave"
    assert set(content) >= {"name", "cniVersion", "plugins"}
    first, *others = content["plugins"]
    assert first["type"] == "weave-net"
    assert first["hairpinMode"] is True
    assert {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True} in others


def test_get_pods_shows_a_weave_pod_per_node(lab: Lab) -> None:
    weave = [row for row in rows(lab, "get", "pods", "-A") if "weave" in row[1]]
    assert len(weave) == 2
    for row in weave:
        assert re.fullmatch(r"weave-net-[a-z0-9]{5}", row[1])
        assert (row[0], row[2], row[3], row[4]) == ("kube-system", "2/2", "Running", "0")


def test_the_default_range_is_10_32_0_0_12() -> None:
    made = Lab()
    try:
        made.weft("up", "--nodes", "1", "--pods-per-node", "0")
        address = made.execute("controlplane", "ip", "a", "show", "weave")
    finally:
        made.weft("down")
    assert "inet 10.32.0.1/12 brd 10.47.255.255 scope global weave" in address


def test_get_nodes(lab: Lab) -> None:
    header, *found = rows(lab, "get", "nodes", "-A")
    assert header == ["NAME", "STATUS", "ROLES", "AGE", "VERSION"]
    assert [row[:3] + row[4:] for row in found] == [
        ["controlplane", "Ready", "control-plane", "v1.26.0"],
        ["node01", "Ready", "<none>", "v1.26.0"],
    ]


def test_get_pods_of_kube_system(lab: Lab) -> None:
    header, *found = rows(lab, "get", "pods", "-n", "kube-system")
    assert header == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    assert [row[1:4] for row in found] == [["2/2", "Running", "0"]] * 2


def test_get_pods_wide_says_on_which_nodes(lab: Lab) -> None:
    header, *found = rows(lab, "get", "pods", "-n", "kube-system", "-o", "wide")
    assert header == [
        "NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE", "NOMINATED NODE", "READINESS GATES",
    ]  # fmt: skip
    # Pods of the node's own network have the node's address.
    assert sorted(row[5:] for row in found) == [
        ["10.32.201.2", "controlplane", "<none>", "<none>"],
        ["10.32.201.3", "node01", "<none>", "<none>"],
    ]


def test_ip_link(lab: Lab) -> None:
    said = lab.execute("controlplane", "ip", "link")
    up = "<BROADCAST,MULTICAST,UP,LOWER_UP>"
    for pattern in (
        r"\d+: lo: <LOOPBACK,UP,LOWER_UP> mtu 65536 ",
        rf"\d+: weave: {up} mtu \d+ qdisc noqueue state UP mode DEFAULT group default qlen 1000",
        rf"\d+: vxlan-6784: {up} mtu \d+ .* state UNKNOWN ",
        rf"\d+: vethwepl[0-9a-f]{{7}}@if\d+: {up} mtu \d+ .* master weave state UP ",
        rf"\d+: eth0@if\d+: {up} mtu \d+ ",
    ):
        assert re.search(pattern, said), (pattern, said)
    # On purpose: there is no Open vSwitch behind the bridge.
    assert not re.search(r"datapath|vethwe-bridge", said)


def test_ip_a_show_weave(lab: Lab) -> None:
    first, ether, inet, lifetime, *_ = lab.execute("controlplane", "ip", "a", "show", "weave").splitlines()
    assert re.match(r"\d+: weave: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu \d+ qdisc noqueue state UP ", first)
    assert re.match(r" +link/ether [0-9a-f:]{17} brd ff:ff:ff:ff:ff:ff", ether)
    assert inet.strip() == "inet 10.244.0.1/16 brd 10.244.255.255 scope global weave"
    assert lifetime.strip() == "valid_lft forever preferred_lft forever"


def test_the_gateway_of_pods_on_node01(lab: Lab) -> None:
    """A pod is scheduled on node01 by the agent that runs in the DaemonSet's container."""
    lab.weft("run", "busybox", "--node", "node01")
    assert "default via 10.244.192.0 dev eth0" in lab.execute("busybox", "ip", "route")
    routes = lab.execute("node01", "ip", "route").splitlines()
    assert [line.strip() for line in routes if not re.search("vxlan-6784", line)] == [
        "default via 10.32.201.1 dev eth0",
        "10.32.201.0/24 dev eth0 proto kernel scope link src 10.32.201.3",
        "10.244.0.0/16 dev weave proto kernel scope link src 10.244.192.0",
    ]
    assert "6 of 6 pairs" in lab.weft("check")
