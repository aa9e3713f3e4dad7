"""``flannel`` against the reference: as it composes for its delegate, and what the delegate makes.

Debian has no package of the reference. Where ``WEFT_REFERENCE`` names a folder with its executable, that runs on
the other host. Else what the reference would delegate stands here, written by hand, and Go's bridge and host-local
carry it out.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.namespaces import path, run
from tests.plugins.main.test_ptp import undetected
from tests.plugins.meta.test_bandwidth import DIFFERENCES as LIMITED
from tests.plugins.twins import (
    CONTAINER,
    GO_FOLDER,
    Host,
    Twins,
    add_chain,
    as_iptables_shows_it,
    delete_chain,
    needs_reference,
    shell,
    with_runtime,
)

pytestmark = needs_reference

#: The configuration of a flannel node, as kube-flannel writes it to /etc/cni/net.d/10-flannel.conflist.
CONFLIST: dict[str, Any] = {
    "name": "cbr0",
    "cniVersion": "0.3.1",
    "plugins": [
        {"type": "flannel", "delegate": {"hairpinMode": True, "isDefaultGateway": True}},
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}
SUBNETS = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.0.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
SUBNETS6 = "FLANNEL_IPV6_NETWORK=fd00:244::/48\nFLANNEL_IPV6_SUBNET=fd00:244:0:1::1/64\n"
RANGES = [[{"subnet": "10.244.0.0/24"}]]
RANGES6 = [[{"subnet": "fd00:244:0:1::/64"}]]
ROUTES = [{"dst": "10.244.0.0/16"}]
ROUTES6 = [{"dst": "fd00:244::/48"}]
#: Keeps the reservations in the test's folder.
IPAM = {"dataDir": "HERE/ipam"}
COMPOSED = {
    "cniVersion": "0.3.1",
    "name": "cbr0",
    "type": "bridge",
    "ipMasq": False,
    "isGateway": True,
    "mtu": 1450,
}


def composed(ipam: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """What the reference delegates."""
    usual = {"type": "host-local", "ranges": RANGES, "routes": ROUTES, **IPAM}
    return {**COMPOSED, **more, "ipam": usual | (ipam or {})}


#: Keys of flannel, subnet.env, what is delegated.
CASES: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "plain": ({}, SUBNETS, composed()),
    "of the seed": (
        {"delegate": CONFLIST["plugins"][0]["delegate"]},
        SUBNETS,
        composed(hairpinMode=True, isDefaultGateway=True),
    ),
    "flannel does not masquerade": ({}, SUBNETS.replace("true", "false"), composed(ipMasq=True)),
    "keys of the delegate's own": (
        {"delegate": {"ipMasq": True, "mtu": 1300, "isGateway": False, "bridge": "br9"}},
        SUBNETS,
        composed(ipMasq=True, mtu=1300, isGateway=False, bridge="br9"),
    ),
    "several networks": (
        {},
        SUBNETS.replace("10.244.0.0/16", "10.244.0.0/16,10.245.0.0/16,10.244.0.0/16"),
        composed({"routes": [*ROUTES, {"dst": "10.245.0.0/16"}]}),
    ),
    "routes": (
        {"ipam": {"routes": [{"dst": "192.168.0.0/16"}, {"dst": "172.16.0.0/12", "gw": "10.244.0.9"}]}},
        SUBNETS,
        composed({"routes": [{"dst": "192.168.0.0/16"}, {"dst": "172.16.0.0/12", "gw": "10.244.0.9"}, *ROUTES]}),
    ),
    "both families": (
        {"delegate": {"isDefaultGateway": True}},
        SUBNETS + SUBNETS6,
        composed({"ranges": RANGES + RANGES6, "routes": ROUTES + ROUTES6}, isDefaultGateway=True),
    ),
    "ipv6": (
        {},
        SUBNETS6 + "FLANNEL_MTU=1430\nFLANNEL_IPMASQ=false\n",
        composed({"ranges": RANGES6, "routes": ROUTES6}, ipMasq=True, mtu=1430),
    ),
    "another delegate": (
        {"delegate": {"type": "ptp"}},
        SUBNETS,
        {key: value for key, value in composed(type="ptp").items() if key != "isGateway"},
    ),
    "for the runtime": (
        {"runtimeConfig": {"mac": "02:11:22:33:44:55"}},
        SUBNETS,
        composed(runtimeConfig={"mac": "02:11:22:33:44:55"}),
    ),
    "an empty delegate and an empty line": ({"delegate": {}}, "\n# flanneld's\nOTHER=1\n" + SUBNETS, composed()),
}


def configuration(**keys: Any) -> dict[str, Any]:
    """A configuration of flannel whose files are in the test's folder."""
    ipam = IPAM | keys.pop("ipam", {})
    return {
        "cniVersion": "0.3.1",
        "name": "cbr0",
        "type": "flannel",
        "subnetFile": "HERE/subnet.env",
        "dataDir": "HERE/flannel",
        "ipam": ipam,
        **keys,
    }


def write_subnets(twins: Twins, text: str) -> None:
    """Do flanneld's work."""
    for host in twins:
        (host.folder / "subnet.env").write_text(text)


def kept(host: Host, container: str = CONTAINER) -> Path:
    """Where the delegate's configuration is."""
    return host.folder / "flannel" / container


def delegated(host: Host, expected: dict[str, Any]) -> None:
    """Do what the reference does in place of ADD's delegation, up to the call of the delegate."""
    kept(host).parent.mkdir()
    text = json.dumps(expected, sort_keys=True, separators=(",", ":"))
    kept(host).write_text(text.replace("HERE", str(host.folder)))


@pytest.mark.parametrize("name", CASES)
def test_like_the_reference(twins: Twins, name: str) -> None:
    keys, subnets, expected = CASES[name]
    write_subnets(twins, subnets)
    answers = []
    for host in twins:
        if host.go and not (GO_FOLDER / "flannel").exists():
            delegated(host, expected)
            answers.append(host.call("ADD", expected))
        else:
            answers.append(host.call("ADD", configuration(**keys)))
    go, ours = answers
    assert (go.status, ours.status) == (0, 0), (go.body, ours.body)
    assert json.loads(kept(twins.weft).read_text().replace(str(twins.weft.folder), "HERE")) == expected
    twins.equal("ADD", [undetected], go.body, ours.body)
    assert kept(twins.weft).stat().st_mode & 0o777 == 0o600
    assert kept(twins.weft).parent.stat().st_mode & 0o777 == 0o700
    for host in twins:
        if host.go and not (GO_FOLDER / "flannel").exists():
            assert host.call("DEL", expected).status == 0
            kept(host).unlink()
        else:
            assert host.call("DEL", configuration(**keys)).status == 0
    twins.equal("DEL", [undetected], None, None)
    assert not kept(twins.weft).exists()


BEHIND: list[dict[str, Any]] = [
    {"type": "portmap", "capabilities": {"portMappings": True}},
    {"type": "bandwidth", "capabilities": {"bandwidth": True}},
    {"type": "tuning", "dataDir": "HERE/tuning", "promisc": True, "sysctl": {"net.core.somaxconn": "500"}},
]
RUNTIME: dict[str, Any] = {
    "portMappings": [
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": 5353, "containerPort": 53, "protocol": "udp", "hostIP": "127.0.0.1"},
    ],
    "bandwidth": {
        "ingressRate": 8_000_000,
        "ingressBurst": 800_000,
        "egressRate": 8_000_000,
        "egressBurst": 800_000,
    },
}


def test_in_a_long_chain(twins: Twins) -> None:
    """With published ports, limits and tuning behind it, on both hosts; DEL leaves nothing of any."""
    write_subnets(twins, SUBNETS + SUBNETS6)
    ipam = {"ranges": RANGES + RANGES6, "routes": ROUTES + ROUTES6}
    expected = composed(ipam, isDefaultGateway=True, hairpinMode=True, cniVersion="1.0.0")
    keys = configuration(delegate={"isDefaultGateway": True, "hairpinMode": True}, cniVersion="1.0.0")
    chains, results = {}, {}
    for host in twins:
        instead = host.go and not (GO_FOLDER / "flannel").exists()
        if instead:
            delegated(host, expected)
        common = {"cniVersion": "1.0.0", "name": "cbr0"}
        chains[host.name] = [expected if instead else keys, *({**common, **plugin} for plugin in BEHIND)]
        answer = add_chain(host, chains[host.name], RUNTIME)
        assert answer.status == 0, answer.body
        results[host.name] = answer.body
    differences = (*LIMITED, as_iptables_shows_it)
    twins.equal("ADD", differences, results[twins.go.name], results[twins.weft.name])
    ours = twins.weft
    for plugin in chains[ours.name]:
        told = ours.call("CHECK", with_runtime(plugin, RUNTIME) | {"prevResult": results[ours.name]})
        assert told.status == 0, told.body
    for host in twins:
        delete_chain(host, chains[host.name], results[host.name], RUNTIME)
    kept(twins.go).unlink(missing_ok=True)
    twins.equal("DEL", differences, None, None)


@pytest.mark.parametrize("ours_adds", [True, False])
def test_one_adds_the_other_deletes(twins: Twins, ours_adds: bool) -> None:
    """On one host: what the reference keeps is what ours needs for DEL, and the reverse."""
    write_subnets(twins, SUBNETS)
    host = twins.weft
    expected = json.loads(json.dumps(composed(ipMasq=True)).replace("HERE", str(host.folder)))
    keys = {"delegate": {"ipMasq": True}}
    if ours_adds:
        assert host.call("ADD", configuration(**keys)).status == 0
        host.go = True
        # The reference hands the delegate what is kept, as it is.
        assert host.call("DEL", json.loads(kept(host).read_text())).status == 0
        kept(host).unlink()
    else:
        delegated(host, expected)
        host.go = True
        assert host.call("ADD", expected).status == 0
        host.go = False
        assert host.call("DEL", configuration(**keys)).status == 0
    assert not kept(host).exists()
    assert not [file for file in (host.folder / "ipam/cbr0").iterdir() if file.name[0].isdigit()]
    assert "veth" not in host.shell("ip link") and "CNI-" not in host.shell("iptables-save -t nat")
    assert "eth0" not in shell(host.pods["pod"], "ip link")


#: What a thread of the container answers with, on the port that the conflist's portMappings publish.
SERVER = """
import socket
server = socket.create_server(("", 80))
print("ready", flush=True)
for _ in range(2):
    connection, address = server.accept()
    connection.sendall(address[0].encode())
    connection.close()
"""
CLIENT = "import socket; print(socket.create_connection(('10.244.0.1', 8080), 5).recv(64).decode())"
#: A mount namespace in which /run/flannel and /var/lib/cni are the test's own.
OWN_FILES = """
set -e
cd "$1"; shift
mkdir -p netns upper/run work/run upper/lib work/lib
mount --rbind /run/netns netns
for name in run lib; do
  lower=/run; [ $name = lib ] && lower=/var/lib
  mount -t overlay overlay -o lowerdir=$lower,upperdir=upper/$name,workdir=work/$name $lower
done
mkdir -p /run/netns /run/flannel
mount --rbind netns /run/netns
cp subnet.env /run/flannel/subnet.env
exec "$@"
"""


def test_the_conflist_of_a_node(twins: Twins) -> None:
    """Unchanged, with the files where they always are; hairpin and a published port work."""
    host, pod = twins.weft, twins.weft.pods["pod"]
    write_subnets(twins, SUBNETS)
    (host.folder / "net.d").mkdir()
    (host.folder / "net.d/10-flannel.conflist").write_text(json.dumps(CONFLIST, indent=2))
    program = host.executables / "weft-plugin"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m weft.plugins "${{0##*/}}"\n')
    mappings = {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}

    def cni(verb: str) -> str:
        return host.execute(
            *("unshare", "--mount", "sh", "-c", OWN_FILES, "sh", str(host.folder)),
            *(sys.executable, "-m", "weft", "cni", verb, "cbr0", pod, "--container-id", CONTAINER),
            *("--conf-dir", str(host.folder / "net.d"), "--cap-args", json.dumps(mappings)),
            *("--bin-dir", str(host.executables)),
        )

    result = json.loads(cni("add"))
    assert [item["address"] for item in result["ips"]] == ["10.244.0.2/24"]
    assert "default via 10.244.0.1" in shell(pod, "ip route")
    assert "hairpin on" in host.shell("ip -d link show type veth")
    assert "mtu 1450" in shell(pod, "ip link show eth0")
    assert (host.folder / "upper/lib/cni/flannel" / CONTAINER).exists()
    assert (host.folder / "upper/lib/cni/networks/cbr0/10.244.0.2").exists()
    with subprocess.Popen(
        ["nsenter", f"--net={path(pod)}", sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None and server.stdout.readline() == "ready\n"
            assert host.execute(sys.executable, "-c", CLIENT) == "10.244.0.1\n"
            # To itself by the published port: out by the port that it came in.
            assert run(sys.executable, "-c", CLIENT, namespace=pod) == "10.244.0.1\n"
        finally:
            server.kill()
    cni("del")
    assert "eth0" not in shell(pod, "ip link") and "veth" not in host.shell("ip link")
    assert not (host.folder / "upper/lib/cni/flannel" / CONTAINER).exists()
    assert not (host.folder / "upper/lib/cni/networks/cbr0/10.244.0.2").exists()
    assert CONTAINER not in host.shell("iptables-save")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "type is no text": ({"delegate": {"type": 7}}, SUBNETS),
    "a name": ({"delegate": {"name": "mine"}}, SUBNETS),
    "an ipam": ({"delegate": {"ipam": {"type": "static"}}}, SUBNETS),
    "delegate is no object": ({"delegate": "bridge"}, SUBNETS),
    "routes are none": ({"ipam": {"routes": [{"dst": "nonsense"}]}}, SUBNETS),
    "routes are no list": ({"ipam": {"routes": "10.0.0.0/8"}}, SUBNETS),
    "subnetFile is no text": ({"subnetFile": 7}, SUBNETS),
    "no subnetFile": ({"subnetFile": "HERE/elsewhere"}, SUBNETS),
    "no such delegate": ({"delegate": {"type": "nonesuch"}}, SUBNETS),
    "delegate that refuses": ({"delegate": {"vlan": 4095}}, SUBNETS),
    "no network": ({}, SUBNETS.replace("FLANNEL_NETWORK", "OTHER")),
    "no subnet": ({}, SUBNETS.replace("FLANNEL_SUBNET", "OTHER")),
    "no mtu": ({}, SUBNETS.replace("FLANNEL_MTU", "OTHER")),
    "no ipmasq": ({}, SUBNETS.replace("FLANNEL_IPMASQ", "OTHER")),
    "bad network": ({}, SUBNETS.replace("10.244.0.0/16", "10.244.0.0")),
    "bad second network": ({}, SUBNETS.replace("10.244.0.0/16", "10.244.0.0/16,")),
    "bad subnet": ({}, SUBNETS.replace("10.244.0.1/24", "10.244.0.1/33")),
    "bad mtu": ({}, SUBNETS.replace("1450", "-1")),
    "large mtu": ({}, SUBNETS.replace("1450", "4294967296")),
    "empty file": ({}, ""),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(twins: Twins, name: str) -> None:
    keys, subnets = REFUSED[name]
    write_subnets(twins, subnets)
    twins.prepare("link add cni0 type bridge", "link set cni0 up")
    if (GO_FOLDER / "flannel").exists():
        twins.refuse(configuration(**keys))
    before = {file: file.read_text() for file in twins.weft.folder.rglob("*") if file.is_file()}
    answer = twins.weft.call("ADD", configuration(**keys))
    assert answer.code == 999, answer.body
    after = {file: file.read_text() for file in twins.weft.folder.rglob("*") if file.is_file()}
    assert {name for name in before ^ after.keys() if "ipam" not in name.parts} == set()
    assert "veth" not in twins.weft.shell("ip link")


def test_a_second_add_that_is_refused_leaves_the_first(twins: Twins) -> None:
    write_subnets(twins, SUBNETS)
    host = twins.weft
    assert host.call("ADD", configuration()).status == 0
    before = kept(host).read_text()
    answer = host.call("ADD", configuration(delegate={"mtu": 1200}))
    assert answer.code == 999
    assert kept(host).read_text() == before
    assert "eth0" in shell(host.pods["pod"], "ip link")


def test_delete_of_what_is_not_there(twins: Twins) -> None:
    host = twins.weft
    assert host.call("DEL", configuration(), pod=None).status == 0
    kept(host).parent.mkdir()
    kept(host).write_text("{")  # as a power failure leaves the reference's
    assert host.call("DEL", configuration(), pod=None).status == 0


def test_delete_of_a_configuration_that_add_would_refuse_now(twins: Twins) -> None:
    """What was delegated counts, not what the file of the network says meanwhile."""
    write_subnets(twins, SUBNETS)
    host = twins.weft
    assert host.call("ADD", configuration()).status == 0
    write_subnets(twins, "")
    assert host.call("DEL", configuration(delegate={"name": "mine"})).status == 0
    assert not kept(host).exists() and "veth" not in host.shell("ip link")


def test_delete_where_the_kept_file_is_damaged(twins: Twins) -> None:
    """The reference gives up and leaves all; ours deletes what it would make now."""
    write_subnets(twins, SUBNETS)
    host = twins.weft
    assert host.call("ADD", configuration()).status == 0
    kept(host).write_text("{")
    assert host.call("DEL", configuration()).status == 0
    assert "eth0" not in shell(host.pods["pod"], "ip link")
    assert not kept(host).exists()


def test_a_failed_delete_keeps_what_the_next_one_needs(twins: Twins) -> None:
    write_subnets(twins, SUBNETS)
    host = twins.weft
    assert host.call("ADD", configuration()).status == 0
    (host.executables / "bridge").unlink()
    assert host.call("DEL", configuration()).code == 999
    assert kept(host).exists()
    (host.executables / "bridge").symlink_to(host.executables / "weft-plugin")
    assert host.call("DEL", configuration()).status == 0
    assert not kept(host).exists()


def test_check(twins: Twins) -> None:
    write_subnets(twins, SUBNETS)
    host = twins.weft
    newer = configuration(cniVersion="1.0.0")
    result = host.call("ADD", newer).body
    assert host.call("CHECK", newer | {"prevResult": result}).status == 0
    shell(host.pods["pod"], "ip address flush dev eth0")
    assert "10.244.0.2/24" in host.call("CHECK", newer | {"prevResult": result}).body["msg"]
    kept(host).unlink()
    assert str(kept(host)) in host.call("CHECK", newer | {"prevResult": result}).body["msg"]


def test_garbage_is_collected(twins: Twins) -> None:
    write_subnets(twins, SUBNETS)
    host = twins.weft
    newer = configuration(cniVersion="1.1.0")
    for number in range(3):
        answer = host.call("ADD", newer, container=f"c{number}", ifname=f"eth{number}")
        assert answer.status == 0, answer.body
    kept(host, "c3").write_text(json.dumps({"type": "bridge", "name": "another"}))
    listed = {"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth1"}]}
    assert host.call("GC", newer | listed, pod=None).status == 0
    assert sorted(file.name for file in kept(host).parent.iterdir()) == ["c1", "c3"]
    left = [file.name for file in (host.folder / "ipam/cbr0").iterdir() if file.name[0].isdigit()]
    assert left == ["10.244.0.3"]


def test_status(twins: Twins) -> None:
    host = twins.weft
    newer = configuration(cniVersion="1.1.0")
    answer = host.call("STATUS", newer, pod=None)
    assert answer.code == 50 and "subnet.env" in answer.body["msg"]
    write_subnets(twins, SUBNETS.replace("/24", "/30"))
    assert host.call("STATUS", newer, pod=None).status == 0
    assert host.call("ADD", newer).status == 0
    answer = host.call("STATUS", newer, pod=None)
    assert answer.code == 50 and "no IP addresses" in answer.body["msg"]
