"""Every plugin of this package: its name, where it is, and since which version of the specification it works.

A module is imported when its plugin is first called, so that a call pays for one plugin only.
"""

import importlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass

from weft.cni.versions import OLDEST, SUPPORTED, at_least
from weft.plugins.plugin import Plugin


@dataclass(frozen=True, slots=True)
class Entry:
    """One plugin. ``oldest`` is the first version that can say what it does, as with the reference plugin."""

    name: str
    group: str
    class_name: str
    summary: str
    oldest: str = OLDEST

    @property
    def module(self) -> str:
        """Where it is: ``weft.plugins.GROUP.NAME``."""
        return f"weft.plugins.{self.group}.{self.name.replace('-', '_')}"

    @property
    def versions(self) -> tuple[str, ...]:
        """What it answers to VERSION."""
        return tuple(version for version in SUPPORTED if at_least(version, self.oldest))

    def load(self) -> Callable[[], Plugin]:
        """Its class."""
        found: Callable[[], Plugin] = getattr(importlib.import_module(self.module), self.class_name)
        return found


#: The plugins that need nothing but the host's kernel and files; ``weave-net`` besides needs the agent.
ENTRIES = (
    Entry("bridge", "main", "Bridge", "puts the container on a bridge of the host"),
    Entry("dummy", "main", "Dummy", "an interface that leads nowhere, to hold an address"),
    Entry("host-device", "main", "HostDevice", "moves a device of the host into the container"),
    Entry("ipvlan", "main", "Ipvlan", "addresses of its own behind a host device's MAC"),
    Entry("loopback", "main", "Loopback", "brings lo up"),
    Entry("macvlan", "main", "Macvlan", "a MAC of its own on a host device"),
    Entry("ptp", "main", "PointToPoint", "a pair between host and container, routed"),
    Entry("tap", "main", "Tap", "a TAP device for a virtual machine in the container"),
    Entry("vlan", "main", "Vlan", "a VLAN of a host device"),
    Entry("dhcp", "ipam", "Dhcp", "addresses leased from a DHCP server"),
    Entry("host-local", "ipam", "HostLocal", "addresses out of ranges, kept in files of this host"),
    Entry("static", "ipam", "Static", "addresses written in the configuration"),
    Entry("bandwidth", "meta", "Bandwidth", "limits what goes in and out", "0.3.0"),
    Entry("firewall", "meta", "Firewall", "lets the container's packets through the host's firewall", "0.4.0"),
    Entry("flannel", "meta", "Flannel", "makes a configuration for this node's flannel subnet and delegates"),
    Entry("portmap", "meta", "PortMap", "publishes container ports on the host"),
    Entry("sbr", "meta", "SourceBasedRouting", "routes by source address, for several interfaces"),
    Entry("tuning", "meta", "Tuning", "sysctls and properties of an interface that is there"),
    Entry("vrf", "meta", "Vrf", "puts an interface into a VRF", "0.3.1"),
)
BY_NAME = {entry.name: entry for entry in ENTRIES}
#: The plugin of the agent alone.
AGENT_PLUGIN = "weave-net"

#: What executables of this package are called once their links are followed: the one asks the agent, the other is
#: a Python process of its own.
LAUNCHER = "weft-launcher"
PROGRAM = "weft-plugin"


def own_program(executable: str | os.PathLike[str]) -> str | None:
    """Which of this package's programs a plugin's executable is, None for a foreign one."""
    name = os.path.basename(os.path.realpath(executable))  # noqa: PTH119
    return name if name in (LAUNCHER, PROGRAM) else None


_loaded: dict[str, Plugin] = {}
_loading = threading.Lock()


def find(name: str) -> Plugin | None:
    """The plugin of that name, one object for the process; None for a name that is not in the table."""
    plugin = _loaded.get(name)
    if plugin is None and name in BY_NAME:
        with _loading:
            plugin = _loaded.setdefault(name, BY_NAME[name].load()())
    return plugin
