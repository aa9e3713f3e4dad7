"""What the tests of devices upon a master share."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tests.plugins.twins import (
    Configuration,
    Difference,
    Host,
    add_chain,
    delete_chain,
    lasting,
    link_plugins,
    snapshot,
    unequal,
)
from weft.cni import Invocation, PluginConfiguration
from weft.plugins.plugin import PluginRequest

IPAM: dict[str, Any] = {"type": "host-local", "dataDir": "HERE/ipam", "ranges": [[{"subnet": "10.24.0.0/24"}]]}
IPAM6: dict[str, Any] = {"type": "host-local", "dataDir": "HERE/ipam", "ranges": [[{"subnet": "fd00:24::/64"}]]}
BOTH = {**IPAM, "ranges": [*IPAM["ranges"], *IPAM6["ranges"]]}

#: A device of the host with carrier.
MASTER = ("link add name m0 type veth peer name m1", "link set m0 up", "link set m1 up")


def newer(seen: dict[str, Any]) -> None:
    """Later references than Debian's (1.1.1), and ours, announce IPv6 addresses as well."""
    for parts in (value for place, value in seen.items() if place not in ("result", "files", "_names")):
        parts["sysctls"] = [line for line in parts["sysctls"] if "ndisc_notify" not in line]


def own_dns(seen: dict[str, Any]) -> None:
    """The reference drops the DNS that IPAM gives; ours keeps it where the network has none of its own."""
    if seen["result"]:
        seen["result"].pop("dns", None)


def trial(home: Host, chain: Sequence[Configuration], *, differences: Sequence[Difference] = ()) -> None:
    """ADD by the host's own kind of plugin, DEL by the other: nothing is left but where to search next."""
    before = _kept(home, differences)
    answer = add_chain(home, chain, {})
    assert answer.status == 0, answer.body
    delete_chain(other(home), chain, answer.body, {})
    told = list(unequal(before, _kept(home, differences)))
    assert not told, "\n".join(told)


def _kept(home: Host, differences: Sequence[Difference]) -> dict[str, Any]:
    seen = snapshot(home, None)
    for difference in differences:
        difference(seen)
    return lasting(seen)


def other(home: Host) -> Host:
    """The same host, on which the other kind of plugin runs."""
    if home.go:
        link_plugins(home.folder / "bin")
    return replace(home, go=not home.go)


def leases(host: Host) -> list[str]:
    """The addresses that are taken in ``IPAM``."""
    return [file.name for file in (host.folder / "ipam/net").iterdir() if file.name[0].isdigit()]


def request(configuration: Mapping[str, Any], **environment: str) -> PluginRequest:
    """A call as a plugin sees it, without a container."""
    usual = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c",
        "CNI_NETNS": "/pod",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/",
    }
    return PluginRequest(
        Invocation.from_environment(usual | environment), PluginConfiguration.from_dict(configuration), None
    )
