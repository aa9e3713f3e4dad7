"""``host-device`` against the reference; hardware that this machine has not, in a folder that looks like sysfs."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.namespaces import inside, ip, network_namespace, path
from tests.plugins.main.masters import BOTH, IPAM, IPAM6, leases, own_dns, request, trial
from tests.plugins.twins import Twins, link_plugins, needs_reference
from weft.cni import CniError, Result
from weft.kernel.namespace import NetworkNamespace
from weft.kernel.sysfs import Sysfs
from weft.plugins import registry
from weft.plugins.main.host_device import HostDevice

pytestmark = needs_reference

MAC = "02:11:22:33:44:55"
DEVICE = (f"link add name d0 address {MAC} type veth peer name d1", "link set d0 up", "link set d1 up")
VIRTUAL = Path("/sys/devices/virtual/net")
_BUS = Path("/sys/bus/pci/devices")
PCI = sorted((*_BUS.glob("*/net/*"), *_BUS.glob("*/virtio*/net/*")))
NEEDS_PCI = pytest.mark.skipif(not PCI, reason="this machine has no network device on a PCI bus")


def alias_kept(seen: dict[str, Any]) -> None:
    """Debian's reference (1.1.1) leaves the alias on the device that came back; later ones, and ours, do not."""
    for link in seen["host"]["links"]:
        link.pop("ifalias", None)


def sent(**keys: Any) -> dict[str, Any]:
    usual = {"cniVersion": "1.0.0", "name": "net", "type": "host-device"}
    return usual | (keys if {"hwaddr", "kernelpath", "pciBusID"} & keys.keys() else {"device": "d0"} | keys)


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "device": {"device": "d0"},
    "link address": {"hwaddr": "02:11:22:33:44:55"},
    "link address in another spelling": {"hwaddr": "0211.2233.4455"},
    "link address in capitals": {"hwaddr": "02-11-22-33-44-55"},
    "device before link address": {"device": "d0", "hwaddr": "02:00:00:00:00:01"},
    "addresses": {"device": "d0", "ipam": IPAM},
    "ipv6": {"device": "d0", "ipam": IPAM6},
    "both families": {"device": "d0", "ipam": BOTH | {"routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}},
    "dns": {"device": "d0", "ipam": IPAM, "dns": {"nameservers": ["10.1.0.1"]}},
    "keys in any case": {"DEVICE": "d0", "hwADDR": "", "ipam": IPAM},
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_like_the_reference(twins: Twins, name: str) -> None:
    twins.prepare(*DEVICE, "address add 10.1.0.1/24 dev d0")
    # Debian's reference (1.1.1) does not find routes without a gateway in CHECK.
    twins.compare(
        {"type": "host-device", **CONFIGURATIONS[name]},
        differences=[alias_kept],
        reference_checks=name != "both families",
    )


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0"])
def test_every_version(twins: Twins, version: str) -> None:
    twins.prepare(*DEVICE)
    twins.compare({"type": "host-device", "device": "d0", "ipam": BOTH}, version=version, differences=[alias_kept])


def test_the_name_stays_where_it_is_the_wanted_one(twins: Twins) -> None:
    twins.prepare(*DEVICE)
    twins.compare({"type": "host-device", "device": "d0"}, ifname="d0", differences=[alias_kept])


def test_kernel_path(twins: Twins) -> None:
    name = min(entry.name for entry in VIRTUAL.iterdir())
    if name == "lo":
        pytest.skip("the first virtual device of this machine is lo, which cannot be moved")
    twins.prepare(f"link add name {name} type veth peer name d1")
    twins.compare({"type": "host-device", "kernelpath": str(VIRTUAL.parent)}, differences=[alias_kept])


@NEEDS_PCI
@pytest.mark.parametrize("key", ["pciBusID", "deviceID"])
def test_pci_address(twins: Twins, key: str) -> None:
    address = PCI[0].relative_to(_BUS).parts[0]
    twins.prepare(f"link add name {PCI[0].name} type veth peer name d1")
    keys = {"pciBusID": address} if key == "pciBusID" else {"runtimeConfig": {"deviceID": address}}
    twins.compare({"type": "host-device", **keys}, ifname="net1", differences=[alias_kept])


REFUSED: dict[str, dict[str, Any]] = {
    "nothing says which": {"device": ""},
    "no such device": {"device": "nonesuch"},
    "no such link address": {"hwaddr": "02:00:00:00:00:09"},
    "bad link address": {"hwaddr": "02:00"},
    "kernel path elsewhere": {"kernelpath": "/etc"},
    "no such kernel path": {"kernelpath": "/sys/devices/nonesuch"},
    "no such pci device": {"pciBusID": "0000:ff:1f.7"},
    "no such device id": {"runtimeConfig": {"deviceID": "nonesuch"}},
    "device of the wrong type": {"device": 7},
    "loopback": {"device": "lo"},
    "no such ipam": {"ipam": {"type": "nonesuch"}},
    "ipam without ranges": {"ipam": {"type": "host-local", "dataDir": "HERE/x"}},
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_like_the_reference(twins: Twins, name: str) -> None:
    twins.prepare(*DEVICE)
    twins.refuse(sent(**REFUSED[name]))


@pytest.mark.parametrize(
    "keys",
    [
        {"kernelpath": "/sys/devices/../../etc"},
        {"kernelpath": "/sys/devices/virtual/../virtual"},
        {"pciBusID": "../devices"},
        {"pciBusID": "."},
        {"runtimeConfig": {"deviceID": "../../../etc"}},
        {"device": "a/b"},
    ],
)
def test_paths_that_lead_elsewhere_are_refused(twins: Twins, keys: dict[str, Any]) -> None:
    assert twins.weft.call("ADD", sent(**keys)).code == 999


def test_an_interface_that_is_there_is_refused(twins: Twins) -> None:
    """The reference of Debian moves the device in and leaves it there."""
    host = twins.weft
    twins.prepare(*DEVICE, "address add 10.1.0.1/24 dev d0")
    ip("link", "add", "eth0", "type", "bridge", namespace=host.pods["pod"])
    before = ip("-o", "address", "show", "dev", "d0", namespace=host.name)
    answer = host.call("ADD", sent(ipam=IPAM))
    assert answer.code == 999 and "eth0" in answer.body["msg"]
    assert ip("-o", "address", "show", "dev", "d0", namespace=host.name) == before
    assert not (host.folder / "ipam").exists()


def test_a_failed_add_puts_the_device_back(twins: Twins) -> None:
    """A route leads through a gateway that is on no subnet."""
    host, pod = twins.weft, twins.weft.pods["pod"]
    twins.prepare(*DEVICE, "link set d0 alias uplink")
    routes = {"routes": [{"dst": "192.0.2.0/24", "gw": "10.99.0.9"}]}
    answer = host.call("ADD", sent(ipam=IPAM | routes))
    assert answer.code == 999, answer.body
    (link,) = json.loads(ip("-j", "link", "show", "dev", "d0", namespace=host.name))
    assert (link["ifalias"], "UP" in link["flags"], link["address"]) == ("uplink", True, MAC)
    assert "eth0" not in ip("link", namespace=pod)
    assert not leases(host)


@pytest.mark.parametrize("go_first", [True, False])
def test_added_by_one_deleted_by_the_other(twins: Twins, go_first: bool) -> None:
    twins.prepare(DEVICE[0], "link set d1 up")
    trial(twins.go if go_first else twins.weft, [sent(ipam=BOTH)], differences=[alias_kept])


def test_deleting_what_is_gone(twins: Twins) -> None:
    host = twins.weft
    twins.prepare(*DEVICE)
    assert host.call("ADD", sent(ipam=IPAM)).status == 0
    assert leases(host) == ["10.24.0.2"]
    for pod in ("pod", "pod", None):
        assert host.call("DEL", sent(ipam=IPAM), pod=pod).status == 0
    for wrong in ({"device": ""}, {"device": "a/b"}, {"hwaddr": "no"}, {"pciBusID": "nonesuch"}):
        assert host.call("DEL", sent(**wrong)).status == 0
    assert not leases(host)
    assert "d0" in ip("link", namespace=host.name)


def test_a_device_of_somebody_else_stays(twins: Twins) -> None:
    """Without the alias the device in the container was not put there by this plugin."""
    for host in twins:
        ip("link", "add", "eth0", "type", "bridge", namespace=host.pods["pod"])
        assert host.call("DEL", sent()).code == 999
        assert "eth0" in ip("link", namespace=host.pods["pod"])


def test_a_name_that_the_host_gave_away_meanwhile(twins: Twins) -> None:
    host, pod = twins.weft, twins.weft.pods["pod"]
    twins.prepare(*DEVICE)
    assert host.call("ADD", sent()).status == 0
    ip("link", "add", "d0", "type", "bridge", namespace=host.name)
    answer = host.call("DEL", sent())
    assert answer.code == 999 and "d0" in answer.body["msg"]
    (link,) = json.loads(ip("-j", "link", "show", "dev", "eth0", namespace=pod))
    assert "UP" in link["flags"] and link["ifalias"] == "d0"
    ip("link", "delete", "d0", namespace=host.name)
    assert host.call("DEL", sent()).status == 0
    assert MAC in ip("link", "show", "dev", "d0", namespace=host.name)


def test_a_container_that_has_a_device_of_the_hosts_name(twins: Twins) -> None:
    host, pod = twins.weft, twins.weft.pods["pod"]
    twins.prepare(*DEVICE)
    ip("link", "add", "d0", "type", "bridge", namespace=pod)
    assert host.call("ADD", sent()).status == 0
    assert MAC in ip("link", "show", "dev", "eth0", namespace=pod)
    assert host.call("DEL", sent()).status == 0
    assert MAC in ip("link", "show", "dev", "d0", namespace=host.name)
    assert MAC not in ip("link", "show", "dev", "d0", namespace=pod)


@pytest.mark.parametrize("name", ["eth0", "dev7"])
@pytest.mark.parametrize("keys", [{"device": "d0"}, {"hwaddr": MAC}])
def test_the_name_is_restored_where_the_namespace_went_first(
    twins: Twins, name: str, keys: dict[str, Any]
) -> None:
    """The kernel moved the device back by itself: with the container's name, or one that it made up."""
    host = twins.weft
    came_back = f"link add name {name} address {MAC} type veth peer name d1"
    for command in (came_back, f"link set {name} alias d0"):
        ip(*command.split(), namespace=host.name)
    assert host.call("DEL", sent(**keys), pod=None).status == 0
    (link,) = json.loads(ip("-j", "link", "show", "dev", "d0", namespace=host.name))
    assert "ifalias" not in link


def test_a_device_that_came_back_late_can_be_used_again(twins: Twins) -> None:
    host, pod = twins.weft, twins.weft.pods["pod"]
    for command in (f"link add name net7 address {MAC} type veth peer name d1", "link set net7 alias d0"):
        ip(*command.split(), namespace=host.name)
    assert host.call("ADD", sent()).status == 0
    (link,) = json.loads(ip("-j", "link", "show", "dev", "eth0", namespace=pod))
    assert link["ifalias"] == "d0"


def test_an_administrators_alias_is_no_name(twins: Twins) -> None:
    host = twins.weft
    for command in (f"link add name eth0 address {MAC} type veth peer name d1", "link set eth0 alias uplink up"):
        ip(*command.split(), namespace=host.name)
    assert host.call("DEL", sent(hwaddr=MAC), pod=None).status == 0
    (link,) = json.loads(ip("-j", "link", "show", "dev", "eth0", namespace=host.name))
    assert link["ifalias"] == "uplink"


def test_check_finds_what_changed(twins: Twins) -> None:
    host, pod = twins.weft, twins.weft.pods["pod"]
    twins.prepare(*DEVICE)
    configuration = sent(ipam=IPAM)
    configuration |= {"prevResult": host.call("ADD", configuration).body}
    assert host.call("CHECK", configuration).status == 0
    ip("link", "set", "eth0", "address", "02:00:00:00:00:09", namespace=pod)
    assert "02:00:00:00:00:09" in host.call("CHECK", configuration).body["msg"]
    ip("link", "set", "eth0", "address", MAC, namespace=pod)
    ip("address", "flush", "dev", "eth0", namespace=pod)
    assert "10.24.0.2" in host.call("CHECK", configuration).body["msg"]
    ip("link", "set", "eth0", "down", namespace=pod)
    ip("link", "set", "eth0", "name", "other", namespace=pod)
    assert "not found" in host.call("CHECK", configuration).body["msg"]


def test_status_and_garbage(twins: Twins) -> None:
    host = twins.weft
    twins.prepare(*DEVICE)
    configuration = sent(cniVersion="1.1.0", ipam=IPAM)
    assert host.call("STATUS", configuration, pod=None).status == 0
    assert host.call("ADD", configuration).status == 0
    assert host.call("GC", configuration | {"cni.dev/valid-attachments": []}, pod=None).status == 0
    assert not leases(host)


@pytest.fixture
def hardware(tmp_path: Path) -> Path:
    """A sysfs with an InfiniBand-like PCI device, one that DPDK drives, and an auxiliary device, all on d0."""
    root = tmp_path / "sys"
    for bus, name, driver in (
        ("pci", "0000:01:00.0", "mlx5_core"),
        ("pci", "0000:02:00.0", "vfio-pci"),
        ("pci", "0000:03:00.0", ""),
        ("auxiliary", "mlx5_core.sf.2", "mlx5_core.sf"),
    ):
        folder = root / "bus" / bus / "devices" / name
        folder.mkdir(parents=True)
        if driver:
            (root / "drivers" / driver).mkdir(parents=True, exist_ok=True)
            (folder / "driver").symlink_to(root / "drivers" / driver)
        if driver.startswith("mlx5"):
            (folder / "net" / "d0").mkdir(parents=True)
    return root


def attached(root: Path, **keys: Any) -> tuple[Result, str]:
    """What ADD answers on a host with d0, and the container's devices; DEL has to undo it."""
    plugin = HostDevice(Sysfs(root))
    with network_namespace() as host, network_namespace() as pod, NetworkNamespace.open(path(pod)) as namespace:
        for command in DEVICE:
            ip(*command.split(), namespace=host)
        call = replace(request(sent(**keys)), namespace=namespace)
        result = inside(host, lambda: plugin.add(call))
        seen = ip("link", namespace=pod)
        told = request(sent(**keys, prevResult={"cniVersion": "1.0.0", **json.loads(result.to_json("1.0.0"))}))
        inside(host, lambda: plugin.check(replace(told, namespace=namespace)))
        inside(host, lambda: plugin.delete(call))
        assert "d0" in ip("link", namespace=host)
        assert "eth0" not in ip("link", namespace=pod)
        return result, seen


@pytest.mark.parametrize(
    "keys",
    [
        {"pciBusID": "0000:01:00.0"},
        {"device": "", "runtimeConfig": {"deviceID": "0000:01:00.0"}},
        {"device": "", "runtimeConfig": {"deviceID": "mlx5_core.sf.2"}},
        # What the runtime says goes before the configuration.
        {"pciBusID": "0000:02:00.0", "runtimeConfig": {"deviceID": "0000:01:00.0"}},
        {"pciBusID": "0000:02:00.0", "runtimeConfig": {"deviceID": "mlx5_core.sf.2"}},
    ],
)
def test_hardware(hardware: Path, keys: dict[str, Any]) -> None:
    result, seen = attached(hardware, **keys)
    assert result.interfaces[0].mac == MAC and MAC in seen


@pytest.mark.parametrize(
    "keys",
    [
        {"pciBusID": "0000:02:00.0"},
        {"device": "", "runtimeConfig": {"deviceID": "0000:02:00.0"}},
        {"dpdkMode": True},
    ],
)
def test_what_dpdk_drives_is_passed_through(hardware: Path, keys: dict[str, Any]) -> None:
    result, seen = attached(hardware, **keys)
    assert [(item.name, item.mac, item.sandbox) for item in result.interfaces] == [("eth0", "", "/pod")]
    assert "eth0" not in seen


def test_what_is_passed_through_has_addresses(hardware: Path, tmp_path: Path) -> None:
    addresses = [{"address": "10.9.0.5/24", "gateway": "10.9.0.1"}]
    link_plugins(tmp_path / "bin")
    call = request(
        sent(pciBusID="0000:02:00.0", ipam={"type": "static", "addresses": addresses}),
        CNI_PATH=str(tmp_path / "bin"),
    )
    with network_namespace() as pod, NetworkNamespace.open(path(pod)) as namespace:
        result = HostDevice(Sysfs(hardware)).add(replace(call, namespace=namespace, lookup=registry.find))
    assert [(str(item.address), item.interface) for item in result.ips] == [("10.9.0.5/24", 0)]


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"pciBusID": "0000:03:00.0"}, "no driver"),
        ({"pciBusID": "0000:09:00.0"}, "0000:09:00.0"),
        ({"kernelpath": "/sys/devices/nonesuch"}, "no network device"),
    ],
)
def test_hardware_that_cannot_be_used(hardware: Path, keys: dict[str, Any], named: str) -> None:
    with pytest.raises(CniError, match=named):
        attached(hardware, **keys)


def test_hardware_that_is_gone_on_del(hardware: Path) -> None:
    """The device is in the container all the same, and comes back."""
    plugin = HostDevice(Sysfs(hardware))
    with network_namespace() as host, network_namespace() as pod, NetworkNamespace.open(path(pod)) as namespace:
        for command in DEVICE:
            ip(*command.split(), namespace=host)
        call = replace(request(sent(pciBusID="0000:01:00.0")), namespace=namespace)
        inside(host, lambda: plugin.add(call))
        for _ in range(2):
            inside(host, lambda: HostDevice(Sysfs(hardware / "nothing")).delete(call))
            assert "d0" in ip("link", namespace=host)


def test_dns_without_addresses(twins: Twins) -> None:
    """The reference leaves ``dns`` out of the result where there is no IPAM."""
    twins.prepare(*DEVICE)
    keys = {"device": "d0", "dns": {"nameservers": ["10.1.0.1"]}}
    twins.compare({"type": "host-device", **keys}, differences=[alias_kept, own_dns])
