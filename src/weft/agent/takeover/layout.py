"""What Weave Net leaves on a node, as facts."""

from dataclasses import dataclass, field
from ipaddress import IPv4Interface

from weft.agent.takeover.rules import is_own_chain
from weft.fabric import weave
from weft.kernel.iptables import Table
from weft.plugins.main.weave_net import HOST_PREFIX

#: Weave's datapath of Open vSwitch, and the device in it that has the name and the port of ours.
DATAPATH = "datapath"
TUNNEL = weave.TUNNEL
#: The port by which frames left the bridge for other nodes.
UPLINK = "vethwe-bridge"
#: Further devices of Weave's own: the uplink's other end with and without a datapath, one that held the MTU up.
FURTHER = ("vethwe-datapath", "vethwe-pcap", "vethwedu")
#: How Weave's own sets are called.
SETS = ("weave-", "weaver-")


@dataclass(frozen=True, slots=True)
class Device:
    """A network device; ``master`` is the name of the one that it is a port of, or empty. Bytes for ``mtu``."""

    name: str
    kind: str
    address: str = ""
    mtu: int = 0
    master: str = ""


@dataclass(frozen=True, slots=True)
class PodPair:
    """The host's end of a pod's pair, and the IPv4 addresses at the pod's end."""

    name: str
    addresses: tuple[IPv4Interface, ...]


@dataclass(frozen=True, slots=True)
class FilterTable:
    """A table of iptables; ``legacy`` tells the older form, which may be there beside the newer."""

    table: Table
    legacy: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """What was found on a node. ``bridge_addresses`` are those of the device ``weave``."""

    devices: tuple[Device, ...] = ()
    bridge_addresses: tuple[IPv4Interface, ...] = ()
    pairs: tuple[PodPair, ...] = ()
    tables: tuple[FilterTable, ...] = ()
    sets: tuple[str, ...] = ()
    #: Files of Weave's that could be seen from here.
    files: tuple[str, ...] = ()
    #: Why a table could not be read, a line each.
    unreadable: tuple[str, ...] = ()
    by_name: dict[str, Device] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {device.name: device for device in self.devices})

    @property
    def bridge(self) -> Device | None:
        """The device ``weave``, of whatever kind."""
        return self.by_name.get(weave.BRIDGE)

    @property
    def found(self) -> bool:
        """Whether Weave Net was here. The bridge and its pairs alone are ours as well."""
        tunnel = self.by_name.get(TUNNEL)
        return (
            UPLINK in self.by_name
            or (DATAPATH in self.by_name and self.bridge is not None)
            or (tunnel is not None and tunnel.master == DATAPATH)
            or any(is_own_chain(chain) for item in self.tables for chain in item.table.chains)
        )


def is_pod_pair(name: str) -> bool:
    """Whether a device is the host's end of a pod's pair."""
    return name.startswith(HOST_PREFIX)


def is_own_set(name: str) -> bool:
    """Whether a set is Weave's."""
    return name.startswith(SETS)
