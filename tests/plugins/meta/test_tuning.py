"""``tuning`` against the reference."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.namespaces import ip, path
from tests.plugins.twins import CONTAINER, Host, Twins, add_chain, delete_chain, needs_reference, shell
from weft.cni import CniError
from weft.plugins.meta.tuning import check_allowed, names_given_twice, sysctl_paths

pytestmark = needs_reference

IPAM: dict[str, Any] = {"type": "host-local", "dataDir": "HERE/ipam", "ranges": [[{"subnet": "10.22.0.0/16"}]]}
BOTH = {**IPAM, "ranges": [*IPAM["ranges"], [{"subnet": "fd00:22::/64"}]]}
BRIDGE: dict[str, Any] = {"type": "bridge", "isDefaultGateway": True, "ipam": IPAM}
FILTER = "net.ipv4.conf.IFNAME.arp_filter"


def tuning(**keys: Any) -> dict[str, Any]:
    """The plugin's part of a chain."""
    return {"type": "tuning", "dataDir": "HERE/tuning", **keys}


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "nothing, in several words": {"promisc": False, "mtu": 0, "mac": "", "sysctl": {}},
    "sysctl": {"sysctl": {"net.core.somaxconn": "511"}},
    "sysctls of the interface": {"sysctl": {FILTER: "1", "net/ipv4/conf/IFNAME/proxy_arp": "1"}},
    "sysctl of several numbers": {"sysctl": {"net.ipv4.ip_local_port_range": "20000 30000"}},
    "mac": {"mac": "02:11:22:33:44:55"},
    "promisc": {"promisc": True},
    "mtu": {"mtu": 1300},
    "not allmulti": {"allmulti": False},
    "all of it": {
        "sysctl": {FILTER: "1", "net.core.somaxconn": "512"},
        "mac": "02:11:22:33:44:55",
        "promisc": True,
        "mtu": 1300,
        "allmulti": True,
    },
    "by arguments": {
        "mtu": 1400,
        "sysctl": {"net.core.somaxconn": "511", FILTER: "0"},
        "args": {
            "cni": {
                "mtu": 1300,
                "mac": "02:11:22:33:44:56",
                "promisc": True,
                "allmulti": True,
                "sysctl": {FILTER: "1"},
            }
        },
    },
    "mac by the runtime": {"mac": "02:11:22:33:44:55", "runtimeConfig": {"mac": "02:11:22:33:44:57"}},
    "mac by the runtime and arguments": {
        "runtimeConfig": {"mac": "02:11:22:33:44:57"},
        "args": {"cni": {"mac": "02:11:22:33:44:58"}},
    },
    "keys in any case": {"MTU": 1300, "AllMulti": True},
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_like_the_reference(twins: Twins, name: str) -> None:
    before = {host.name: watched(host) for host in twins}
    seen: list[Any] = []

    def look(host: Host) -> None:
        assert name in UNCHANGING or watched(host) != before[host.name]
        seen.append(watched(host))

    # What IPAM reserved is in the files that are compared; what the pod was like before is kept in them, too.
    keys = CONFIGURATIONS[name]
    # Debian's CHECK looks for an interface IFNAME, and compares the kernel's tabs with blanks.
    capable = "IFNAME" not in str(keys) and "several numbers" not in name
    twins.compare(BRIDGE, tuning(**keys), meanwhile=look, reference_checks=capable)
    assert seen[0] == seen[1]


UNCHANGING = ("nothing, in several words", "not allmulti")


def watched(host: Host) -> list[str]:
    """What of a pod may change and no snapshot shows."""
    return shell(
        host.pods["pod"],
        """
        ip link show dev eth0 | grep -o ALLMULTI
        cat /proc/sys/net/ipv4/conf/eth0/arp_filter /proc/sys/net/ipv4/ip_local_port_range
        cat /proc/sys/net/core/somaxconn /proc/sys/net/ipv4/conf/eth0/proxy_arp
        cat /sys/class/net/eth0/flags /sys/class/net/eth0/mtu
        ip link show dev eth0 | grep -o "link/ether 02:11:22.* brd"
        """,
    ).splitlines()


def test_mac_in_arguments(twins: Twins) -> None:
    result = twins.compare(
        BRIDGE, tuning(mac="02:11:22:33:44:55"), args="IgnoreUnknown=1;MAC=02:00:00:00:00:07;A=b"
    )
    assert result["interfaces"][2]["mac"] == "02:00:00:00:00:07"


@pytest.mark.parametrize("version", ["0.2.0", "0.3.1"])
def test_every_version(twins: Twins, version: str) -> None:
    twins.compare(BRIDGE | {"ipam": BOTH}, tuning(mtu=1400, mac="02:11:22:33:44:55"), version=version)


def test_in_a_longer_chain(twins: Twins) -> None:
    from tests.plugins.meta.test_bandwidth import DIFFERENCES, EGRESS, INGRESS, limited

    twins.compare(
        BRIDGE | {"ipam": BOTH, "ipMasq": True},
        limited(**INGRESS, **EGRESS),
        tuning(mtu=1400, promisc=True, sysctl={FILTER: "1"}),
        differences=DIFFERENCES,
        reference_checks=False,
    )


def test_an_interface_with_a_dot(twins: Twins) -> None:
    """Debian's reference takes the dot for a divider of the sysctl's path; later ones do not."""
    host = twins.weft
    chain = [{"cniVersion": "1.0.0", "name": "net", **plugin} for plugin in (BRIDGE, tuning(sysctl={FILTER: "1"}))]
    answer = add_chain(host, chain, {}, ifname="eth0.5")
    assert answer.status == 0, answer.body
    assert shell(host.pods["pod"], "cat /proc/sys/net/ipv4/conf/eth0.5/arp_filter") == "1\n"


def test_what_restores_is_the_references_file(twins: Twins) -> None:
    """ADD by one, DEL by the other; in between the file says what was before."""
    host = twins.weft
    chain = [
        {"cniVersion": "1.0.0", "name": "net", **plugin} for plugin in (BRIDGE, tuning(mtu=1300, promisc=True))
    ]
    for go in (True, False):
        host.go = go
        answer = add_chain(host, chain, {})
        assert answer.status == 0, answer.body
        kept = host.folder / f"tuning/{CONTAINER}_eth0.json"
        assert kept.read_text() == '{\n "promisc": false,\n "mtu": 1500\n}'
        assert "mtu 1300" in shell(host.pods["pod"], "ip link show eth0")
        host.go = not go
        sent = chain[1] | {"prevResult": answer.body}
        assert host.call("CHECK", sent).status == 0
        assert host.call("DEL", sent).status == 0
        assert "mtu 1500" in shell(host.pods["pod"], "ip link show eth0") and not kept.exists()
        assert "PROMISC" not in shell(host.pods["pod"], "ip link show eth0")
        delete_chain(host, chain[:1], answer.body, {})


def test_queue_length(twins: Twins) -> None:
    """A key that Debian's reference does not know."""
    host, pod = twins.weft, twins.weft.pods["pod"]
    chain = [{"cniVersion": "1.0.0", "name": "net", **plugin} for plugin in (BRIDGE, tuning(txQLen=77))]
    answer = add_chain(host, chain, {})
    assert answer.status == 0, answer.body
    assert "qlen 77" in shell(pod, "ip link show eth0")
    assert json.loads((host.folder / f"tuning/{CONTAINER}_eth0.json").read_text()) == {"txQLen": 1000}
    sent = chain[1] | {"prevResult": answer.body}
    assert host.call("CHECK", sent).status == 0
    shell(pod, "ip link set eth0 txqueuelen 78")
    assert "txQLen of eth0 is 78" in host.call("CHECK", sent).body["msg"]
    assert host.call("DEL", sent).status == 0
    assert "qlen 1000" in shell(pod, "ip link show eth0")
    by_arguments = sent | {"args": {"cni": {"txQLen": 0}}}
    assert host.call("ADD", by_arguments).status == 0
    assert "qlen" not in shell(pod, "ip link show eth0")


REFUSED: dict[str, dict[str, Any]] = {
    "a sysctl of the kernel": {"sysctl": {"kernel.hostname": "x"}},
    "a way out": {"sysctl": {"net/../kernel/hostname": "x"}},
    "a way out from the root": {"sysctl": {"/net/../../kernel/hostname": "x"}},
    "a sysctl that is not there": {"sysctl": {"net.ipv4.nonesuch": "1"}},
    "a sysctl without a name": {"sysctl": {"": "1"}},
    "a folder": {"sysctl": {"net.ipv4": "1"}},
    "a sysctl's wrong value": {"sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "many"}},
    "a sysctl's number": {"sysctl": {"net.core.somaxconn": 511}},
    "sysctls in a list": {"sysctl": ["net.core.somaxconn"]},
    "bad mac": {"mac": "nonsense"},
    "multicast mac": {"mac": "01:00:5e:00:00:01"},
    "negative mtu": {"mtu": -1},
    "large mtu": {"mtu": 70000},
    "mtu of the wrong type": {"mtu": "1400"},
    "promisc of the wrong type": {"promisc": "yes"},
    "allmulti of the wrong type": {"allmulti": 1},
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_like_the_reference(twins: Twins, name: str) -> None:
    """Ours changes nothing; the reference may have set the sysctls and kept its file."""
    chain = [{"cniVersion": "1.0.0", "name": "net", **BRIDGE}]
    results = [add_chain(host, chain, {}).body for host in twins]
    before = watched(twins.weft)
    good = {"net.ipv4.conf.IFNAME.proxy_arp": "1"}
    keys = {**REFUSED[name]}
    if isinstance(keys.get("sysctl", {}), dict):
        keys["sysctl"] = good | keys.get("sysctl", {})
    for host, result in zip(twins, results, strict=True):
        answer = host.call("ADD", {**chain[0], **tuning(**{"allmulti": True, **keys}), "prevResult": result})
        assert answer.code == 999, answer.body
    assert watched(twins.weft) == before
    assert not list(twins.weft.folder.glob("tuning/*"))


def test_without_a_previous_result_it_is_refused(twins: Twins) -> None:
    assert "prevResult" in twins.refuse(tuning(mtu=1300)).body["msg"]


def test_an_interface_that_is_not_there(twins: Twins) -> None:
    twins.refuse(tuning(mtu=1300) | {"prevResult": {"cniVersion": "1.0.0", "interfaces": [{"name": "eth0"}]}})


def test_unknown_arguments_are_refused(twins: Twins) -> None:
    twins.refuse(tuning(mtu=1300), "FOO=bar")


def test_delete_where_the_sandbox_is_gone(twins: Twins) -> None:
    """The reference keeps its file then."""
    host = twins.weft
    chain = [{"cniVersion": "1.0.0", "name": "net", **plugin} for plugin in (BRIDGE, tuning(mtu=1300))]
    assert add_chain(host, chain, {}).status == 0
    assert host.call("DEL", chain[1], pod=None).status == 0
    assert not list(host.folder.glob("tuning/*"))
    assert host.call("DEL", chain[1], pod=None).status == 0
    for text in ("nonsense", '{"mtu": 1200}'):
        (host.folder / f"tuning/{CONTAINER}_eth0.json").write_text(text)
        assert host.call("DEL", chain[1], ifname="eth0").status == 0
        assert not list(host.folder.glob("tuning/*"))


def test_a_failed_add_takes_everything_back(twins: Twins) -> None:
    """The kernel refuses the MTU after sysctls and promiscuous mode were set."""
    host, pod = twins.weft, twins.weft.pods["pod"]
    ip("tuntap", "add", "mode", "tap", "name", "eth1", namespace=pod)
    previous = {"cniVersion": "1.0.0", "interfaces": [{"name": "eth1", "sandbox": str(path(pod))}]}
    before = shell(pod, "ip link show eth1; cat /proc/sys/net/ipv4/conf/eth1/arp_filter")
    keys = {"promisc": True, "mtu": 65535, "sysctl": {FILTER: "1"}}
    sent = {"cniVersion": "1.0.0", "name": "net", **tuning(**keys), "prevResult": previous}
    answer = host.call("ADD", sent, ifname="eth1")
    assert answer.code == 999 and "mtu of eth1" in answer.body["msg"]
    assert shell(pod, "ip link show eth1; cat /proc/sys/net/ipv4/conf/eth1/arp_filter") == before
    assert not list(host.folder.glob("tuning/*"))


def test_check_finds_what_changed(twins: Twins) -> None:
    host, pod = twins.weft, twins.weft.pods["pod"]
    keys = {"mtu": 1300, "mac": "02:11:22:33:44:55", "promisc": True, "allmulti": True, "sysctl": {FILTER: "1"}}
    chain = [{"cniVersion": "1.0.0", "name": "net", **plugin} for plugin in (BRIDGE, tuning(**keys))]
    sent = chain[1] | {"prevResult": add_chain(host, chain, {}).body}
    assert host.call("CHECK", sent).status == 0
    for command, told in (
        ("ip link set eth0 allmulticast off", "allmulti of eth0"),
        ("ip link set eth0 mtu 1301", "mtu of eth0 is 1301"),
        ("ip link set eth0 promisc off", "promisc of eth0"),
        ("ip link set eth0 address 02:11:22:33:44:59", "mac of eth0 is 02:11:22:33:44:59"),
        ("echo 0 > /proc/sys/net/ipv4/conf/eth0/arp_filter", "arp_filter is '0'"),
    ):
        shell(pod, command)
        assert told in host.call("CHECK", sent).body["msg"]
    assert host.call("STATUS", sent | {"cniVersion": "1.1.0"}, pod=None).status == 0
    assert host.call("GC", sent | {"cniVersion": "1.1.0"}, pod=None).status == 0


def test_a_sysctl_that_can_only_be_written(twins: Twins) -> None:
    twins.compare(BRIDGE, tuning(sysctl={"net.ipv4.route.flush": "1"}), check=False)


#: Runs a plugin where /etc/cni/tuning/allowlist.conf is the test's.
WITH_ALLOWLIST = """
set -e
mkdir upper work
mount -t overlay overlay -o lowerdir=/etc,upperdir=upper,workdir=work /etc
mkdir -p /etc/cni/tuning
cp allowlist.conf /etc/cni/tuning/
exec "$@"
"""


def test_the_allowlist_of_the_host(twins: Twins) -> None:
    host = twins.weft
    chain = [{"cniVersion": "1.1.0", "name": "net", **BRIDGE}]
    result = add_chain(host, chain, {}).body
    (host.folder / "allowlist.conf").write_text("^net.ipv4.conf.IFNAME.[a-z_]*$\n\n  ^net.core.somaxconn$  \n")
    for number, (key, allowed) in enumerate(((FILTER, True), ("net.ipv4.ip_forward", False))):
        folder = host.folder / str(number)
        folder.mkdir()
        sent = chain[0] | tuning(sysctl={key: "1"}) | {"prevResult": result}
        (folder / "allowlist.conf").write_text((host.folder / "allowlist.conf").read_text())
        (folder / "configuration").write_text(json.dumps(sent).replace("HERE", str(host.folder)))
        script = f"cd {folder}; {WITH_ALLOWLIST}"
        environment = {
            "CNI_COMMAND": "ADD",
            "CNI_CONTAINERID": CONTAINER,
            "CNI_NETNS": str(path(host.pods["pod"])),
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(host.executables),
        }
        words = [f"{name}={value}" for name, value in environment.items()]
        said = host.shell(
            f"unshare --mount sh -c '{script}' sh env {' '.join(words)} {sys.executable} -m weft.plugins tuning"
            f" < {folder}/configuration"
        )
        assert ("interfaces" in json.loads(said)) == allowed, said
        assert allowed or "is not allowed" in json.loads(said)["msg"]


def test_a_bad_allowlist(tmp_path: Path) -> None:
    file = tmp_path / "allowlist.conf"
    check_allowed({"net.ipv4.ip_forward": "1"}, file)
    file.write_text("[\n")
    with pytest.raises(CniError, match="regular expression"):
        check_allowed({"net.ipv4.ip_forward": "1"}, file)
    file.write_text("\n")
    with pytest.raises(CniError, match="net.ipv4.ip_forward is not allowed"):
        check_allowed({"net.ipv4.ip_forward": "1"}, file)


@given(st.text(alphabet="net./ipv4IFNAME\0xé", max_size=40))
def test_no_key_leads_out_of_net(key: str) -> None:
    """Whatever is written: the path begins with net and has no part that leads elsewhere, or it is refused."""
    try:
        (found,) = sysctl_paths({key: "1"}, "eth0.5")
    except CniError:
        return
    assert found[0] == "net" and len(found) > 1
    assert all(part not in ("", ".", "..") and "/" not in part for part in found)


@pytest.mark.parametrize(
    ("text", "repeated"),
    [
        ('{"sysctl": {"a": "1", "b": "2", "a": "3"}}', ["a"]),
        ('{"args": {"cni": {"Sysctl": {"b": "1", "b": "1"}}}}', ["b"]),
        ('{"sysctl": {"a": "1", "b": "2"}, "mtu": 1, "mtu": 2, "x": [{"a": 1, "a": 2}]}', []),
        ('{"sysctl": ["a", "a"]}', []),
        ("", []),
        ("[" * 100_000, []),
    ],
)
def test_names_given_twice(text: str, repeated: list[str]) -> None:
    assert names_given_twice(text.encode(), "sysctl") == repeated


def test_a_sysctl_given_twice_is_refused(twins: Twins) -> None:
    """As by later references than Debian's; what is sent has the name twice, which no dictionary can hold."""
    host = twins.weft
    environment = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": CONTAINER, "CNI_NETNS": str(path(host.pods["pod"]))}
    text = b"""{"cniVersion": "1.0.0", "name": "net", "type": "tuning", "prevResult": {"interfaces": []},
        "sysctl": {"net.ipv4.ip_forward": "1", "net.ipv4.ip_forward": "0"}}"""
    status, output = host._ours("tuning", environment | {"CNI_IFNAME": "lo", "CNI_PATH": "/"}, text)
    assert (status, json.loads(output)["code"]) == (1, 999) and b"ip_forward" in output


def test_the_same_sysctl_twice_is_refused() -> None:
    with pytest.raises(CniError, match="twice"):
        sysctl_paths({"net.ipv4.ip_forward": "1", "net/ipv4/ip_forward": "0"}, "eth0")
    assert sysctl_paths({"net.ipv4.conf.IFNAME.x": "1"}, "a.b") == {("net", "ipv4", "conf", "a.b", "x"): "1"}
