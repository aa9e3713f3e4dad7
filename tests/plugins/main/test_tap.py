"""``tap``: what the reference is documented to do, and the reference itself where there is one.

Debian's package has no ``tap``; ``WEFT_REFERENCE`` can name a folder with a later one.
"""

import fcntl
import json
import os
import select
import struct
from pathlib import Path
from typing import Any

import pytest

from tests.namespaces import inside, ip
from tests.plugins.main.masters import BOTH, IPAM, IPAM6, leases, own_dns, trial
from tests.plugins.twins import GO_FOLDER, Twins, needs_reference

pytestmark = needs_reference
WITH_REFERENCE = pytest.mark.skipif(
    not (GO_FOLDER / "tap").exists(), reason=f"the reference in {GO_FOLDER} has no tap"
)
SELINUX = Path("/sys/fs/selinux/enforce")
MAC = "02:11:22:33:44:55"


def sent(**keys: Any) -> dict[str, Any]:
    return {"cniVersion": "1.0.0", "name": "net", "type": "tap", **keys}


def flags(seen: dict[str, Any]) -> None:
    """Where owner and group are given, the reference asks for packet information; who opens it decides anew."""
    for link in seen["pod"]["links"]:
        data = link.get("linkinfo", {}).get("info_data", {})
        data.pop("pi", None)


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "layer 2": {},
    "addresses": {"ipam": IPAM},
    "several queues": {"multiQueue": True, "ipam": IPAM},
    "mtu": {"mtu": 1280, "ipam": IPAM},
    "mac": {"mac": MAC, "ipam": IPAM},
    "mac by the runtime": {"mac": "02:00:00:00:00:01", "runtimeConfig": {"mac": MAC}},
    "owner": {"owner": 1001, "ipam": IPAM},
    "group": {"group": 1002, "ipam": IPAM},
    "largest owner": {"owner": (1 << 32) - 2},
    "owner and group": {"owner": 0, "group": 1002, "ipam": IPAM},
    "several queues with an owner": {"multiQueue": True, "owner": 1001, "group": 1002},
    "routes": {"ipam": IPAM | {"routes": [{"dst": "0.0.0.0/0"}, {"dst": "192.0.2.0/24", "gw": "10.24.0.9"}]}},
    "dns": {"ipam": IPAM, "dns": {"nameservers": ["10.1.0.1"]}},
    "keys in any case": {"MULTIQUEUE": True, "Mac": MAC, "ipam": None},
}


@WITH_REFERENCE
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_like_the_reference(twins: Twins, name: str) -> None:
    twins.compare({"type": "tap", **CONFIGURATIONS[name]}, differences=[flags, own_dns])


@WITH_REFERENCE
def test_a_port_of_a_bridge_like_the_reference(twins: Twins) -> None:
    for host in twins:
        for command in ("link add name br7 type bridge", "link set br7 up"):
            ip(*command.split(), namespace=host.pods["pod"])
    twins.compare({"type": "tap", "bridge": "br7", "ipam": IPAM})


@WITH_REFERENCE
@pytest.mark.parametrize(
    "keys",
    [
        {"bridge": "nonesuch"},
        {"mtu": "9"},
        {"mac": "no"},
        {"owner": -1},
        {"group": "wheel"},
        {"ipam": {"type": "nonesuch"}},
        {"selinuxContext": "system_u:system_r:container_t:s0"},
    ],
)
def test_refused_like_the_reference(twins: Twins, keys: dict[str, Any]) -> None:
    if "selinuxContext" in keys and SELINUX.exists():
        pytest.skip("SELinux is on")
    twins.refuse({"type": "tap", **keys})


@WITH_REFERENCE
@pytest.mark.parametrize("go_first", [True, False])
def test_added_by_one_deleted_by_the_other(twins: Twins, go_first: bool) -> None:
    trial(twins.go if go_first else twins.weft, [sent(ipam=IPAM)])


def device(twins: Twins) -> dict[str, Any]:
    """The container's device as ip(8) shows it."""
    (link,) = json.loads(ip("-j", "-d", "link", "show", "dev", "eth0", namespace=twins.weft.pods["pod"]))
    return {**link, **link["linkinfo"]["info_data"]}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_device(twins: Twins, name: str) -> None:
    host, keys = twins.weft, CONFIGURATIONS[name]
    answer = host.call("ADD", sent(**keys))
    assert answer.status == 0, answer.body
    link = device(twins)
    assert link["type"] == "tap" and link["persist"] and "UP" in link["flags"]
    assert link["multi_queue"] == (keys.get("multiQueue") or keys.get("MULTIQUEUE") or False)
    assert link["mtu"] == keys.get("mtu", 1500)
    assert "mac" not in " ".join(keys).lower() or link["address"] == MAC
    # ip(8) shows IDs as names where it knows them, and none where there is none.
    assert str(link.get("user", "")).replace("root", "0") == str(keys.get("owner", ""))
    assert str(link.get("group_id", link.get("group") if "group" in keys else "")) == str(keys.get("group", ""))
    (interface,) = answer.body["interfaces"]
    assert interface == {"name": "eth0", "mac": link["address"], "sandbox": interface["sandbox"]}
    if keys.get("ipam"):
        assert "10.24.0.2/24" in ip("address", namespace=host.pods["pod"])
        assert answer.body["ips"][0]["interface"] == 0
    assert host.call("CHECK", sent(**keys, prevResult=answer.body)).status == 0
    assert host.call("DEL", sent(**keys)).status == 0
    assert "eth0" not in ip("link", namespace=host.pods["pod"])
    assert not keys.get("ipam") or not leases(host)


@pytest.mark.parametrize("ipam", [IPAM6, BOTH])
def test_addresses_of_ipv6_wait_for_nobody(twins: Twins, ipam: dict[str, Any]) -> None:
    """The device has no carrier until it is opened, so the detection of duplicates cannot end."""
    answer = twins.weft.call("ADD", sent(ipam=ipam))
    assert answer.status == 0, answer.body
    assert "fd00:24::2/64" in ip("address", namespace=twins.weft.pods["pod"])


def test_a_port_of_a_bridge(twins: Twins) -> None:
    pod = twins.weft.pods["pod"]
    ip("link", "add", "br7", "type", "bridge", namespace=pod)
    assert twins.weft.call("ADD", sent(bridge="br7")).status == 0
    assert device(twins)["master"] == "br7"


def test_mac_in_arguments(twins: Twins) -> None:
    args = "IgnoreUnknown=1;MAC=02:00:00:00:00:07"
    answer = twins.weft.call("ADD", sent(mac=MAC), args=args)
    assert answer.body["interfaces"][0]["mac"] == "02:00:00:00:00:07" == device(twins)["address"]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no such bridge": ({"bridge": "nonesuch"}, "nonesuch"),
    "bridge that is none": ({"bridge": "lo"}, "bridge 'lo'"),
    "mtu": ({"mtu": 70000}, "mtu 70000"),
    "owner below zero": ({"owner": -1}, "owner -1"),
    "owner too large": ({"owner": (1 << 32) - 1}, "owner 4294967295"),
    "group by name": ({"group": "wheel"}, "wheel"),
    "mac": ({"mac": "no"}, "no"),
    "multicast mac": ({"mac": "01:00:00:00:00:01"}, "01:00:00:00:00:01"),
    "unknown ipam": ({"ipam": {"type": "nonesuch"}}, "nonesuch"),
    "late failure": ({"ipam": IPAM | {"routes": [{"dst": "192.0.2.0/24", "gw": "10.99.0.9"}]}}, "192.0.2.0/24"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(twins: Twins, name: str) -> None:
    keys, named = REFUSED[name]
    answer = twins.weft.call("ADD", sent(**keys))
    assert answer.code == 999 and named in answer.body["msg"], answer.body
    assert [item["ifname"] for item in json.loads(ip("-j", "link", namespace=twins.weft.pods["pod"]))] == ["lo"]
    assert not (twins.weft.folder / "ipam").exists() or not leases(twins.weft)


def test_an_interface_that_is_there_is_refused(twins: Twins) -> None:
    """Another TAP device of that name would be opened by a plain request for one."""
    pod = twins.weft.pods["pod"]
    ip("tuntap", "add", "mode", "tap", "name", "eth0", namespace=pod)
    answer = twins.weft.call("ADD", sent(owner=1001))
    assert answer.code == 999 and "eth0" in answer.body["msg"]
    assert "user" not in ip("-d", "link", "show", "eth0", namespace=pod)


def test_a_context_without_selinux(twins: Twins) -> None:
    if SELINUX.exists():
        pytest.skip("SELinux is on")
    answer = twins.weft.call("ADD", sent(selinuxContext="system_u:system_r:container_t:s0"))
    assert answer.code == 999 and "SELinux is off" in answer.body["msg"] and "container_t" in answer.body["msg"]
    assert "eth0" not in ip("link", namespace=twins.weft.pods["pod"])


def test_check_finds_what_changed(twins: Twins) -> None:
    host, pod = twins.weft, twins.weft.pods["pod"]
    configuration = sent(ipam=IPAM)
    configuration |= {"prevResult": host.call("ADD", configuration).body}
    ip("address", "flush", "dev", "eth0", namespace=pod)
    assert "10.24.0.2" in host.call("CHECK", configuration).body["msg"]
    ip("link", "delete", "eth0", namespace=pod)
    assert "not found" in host.call("CHECK", configuration).body["msg"]


def test_status_and_garbage(twins: Twins) -> None:
    host, configuration = twins.weft, sent(ipam=IPAM) | {"cniVersion": "1.1.0"}
    assert host.call("STATUS", configuration, pod=None).status == 0
    assert host.call("ADD", configuration).status == 0
    assert host.call("GC", configuration | {"cni.dev/valid-attachments": []}, pod=None).status == 0
    assert not leases(host)


def test_frames_pass(twins: Twins) -> None:
    """What a program in the container reads from the device is what was sent to it."""
    pod = twins.weft.pods["pod"]
    assert twins.weft.call("ADD", sent(multiQueue=True, ipam=IPAM)).status == 0

    def read_one() -> bytes:
        descriptor = os.open("/dev/net/tun", os.O_RDWR)
        try:
            # TUNSETIFF with IFF_TAP, IFF_NO_PI, IFF_MULTI_QUEUE.
            fcntl.ioctl(descriptor, 0x400454CA, struct.pack("16sH22x", b"eth0", 0x2 | 0x1000 | 0x100))
            ip("neighbour", "add", "10.24.0.9", "lladdr", "02:00:00:00:00:09", "dev", "eth0", namespace=pod)
            import socket

            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.sendto(b"weft", ("10.24.0.9", 9))
            while select.select([descriptor], [], [], 5)[0]:
                frame = os.read(descriptor, 2048)
                if frame.startswith(bytes.fromhex("020000000009")):
                    return frame
            return b""
        finally:
            os.close(descriptor)

    assert inside(pod, read_one).endswith(b"weft")
