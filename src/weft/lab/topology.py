"""What a lab looks like: names, addresses, settings. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Network

DEFAULT_NAME = "weft"
DEFAULT_RANGE = "10.32.0.0/12"
DEFAULT_UNDERLAY = "172.25.1.0/24"
LARGEST = 100
#: Engines that can hold a lab's state.
STORES = ("sqlite", "etcd", "kubernetes")
#: What a lab's pods can run in.
RUNTIMES = ("processes", "containerd")

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_LAB_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?")


class LabError(Exception):
    """A lab cannot be as asked for; the message names the value and the mend. ``usage``: the words are wrong."""

    def __init__(self, message: str, *, usage: bool = False) -> None:
        super().__init__(message)
        self.usage = usage


@dataclass(frozen=True, slots=True)
class Settings:
    """What ``weft lab up`` is asked for. MTU in bytes."""

    name: str
    nodes: int
    pods_per_node: int
    range: str
    ipalloc_init: str
    underlay: str
    underlay_mtu: int
    store: str = "sqlite"
    runtime: str = "processes"

    def check(self) -> None:
        """Raise LabError for the first setting that cannot be used."""
        check_lab_name(self.name)
        if self.store not in STORES:
            raise LabError(f"--store {self.store}: give {' or '.join(STORES)}", usage=True)
        if self.runtime not in RUNTIMES:
            raise LabError(f"--runtime {self.runtime}: give {' or '.join(RUNTIMES)}", usage=True)
        if not 1 <= self.nodes <= LARGEST:
            raise LabError(f"--nodes {self.nodes}: give 1 to {LARGEST}", usage=True)
        if not 0 <= self.pods_per_node <= 250:
            raise LabError(f"--pods-per-node {self.pods_per_node}: give 0 to 250", usage=True)
        if not 676 <= self.underlay_mtu <= 65535:
            raise LabError(f"--underlay-mtu {self.underlay_mtu}: give 676 to 65535 bytes", usage=True)
        if self.store not in STORES:
            raise LabError(f"--store {self.store!r}: give one of {', '.join(STORES)}", usage=True)
        underlay = _network("--underlay", self.underlay)
        if underlay.num_addresses < self.nodes + 3:
            raise LabError(
                f"--underlay {underlay} has no room for {self.nodes} nodes: give a larger one", usage=True
            )
        for text in self.range.split(","):
            pods = _range(text.strip())
            if isinstance(pods, IPv4Network) and pods.overlaps(underlay):
                raise LabError(
                    f"range {pods} overlaps the underlay {underlay}: give another --range or --underlay",
                    usage=True,
                )

    def differences(self, other: "Settings") -> list[str]:
        """In which settings another lab differs, in words."""
        return [
            f"--{name.replace('_', '-')} {getattr(other, name)} instead of {getattr(self, name)}"
            for name in (
                "nodes",
                "pods_per_node",
                "range",
                "ipalloc_init",
                "underlay",
                "underlay_mtu",
                "store",
                "runtime",
            )
            if getattr(self, name) != getattr(other, name)
        ]

    @property
    def gateway(self) -> IPv4Interface:
        """The underlay's own address, the nodes' default gateway; nothing is behind it."""
        network = IPv4Network(self.underlay)
        return IPv4Interface((network.network_address + 1, network.prefixlen))

    def node_address(self, number: int) -> IPv4Interface:
        """A node's address on the underlay, numbered from 0."""
        network = IPv4Network(self.underlay)
        return IPv4Interface((network.network_address + 2 + number, network.prefixlen))

    def node_names(self) -> list[str]:
        """controlplane, node01, node02, …"""
        return ["controlplane", *(f"node{number:02}" for number in range(1, self.nodes))]


def check_lab_name(name: str) -> None:
    """Raise LabError for a name that cannot begin a namespace's name."""
    if not _LAB_NAME.fullmatch(name):
        raise LabError(f"--lab {name!r}: use at most 32 lower-case letters, digits and '-'", usage=True)


def check_pod_name(name: str, what: str = "pod") -> None:
    """Raise LabError for a name that Kubernetes would not take (RFC 1123 label)."""
    if not _LABEL.fullmatch(name):
        raise LabError(f"{what} name {name!r}: use at most 63 lower-case letters, digits and '-'", usage=True)


def parse_ports(texts: Sequence[str]) -> dict[str, str]:
    """``NAME=PROTOCOL/NUMBER`` ports. Raises LabError."""
    ports = {}
    for text in texts:
        name, _, port = text.partition("=")
        protocol, _, number = port.partition("/")
        if not _LABEL.fullmatch(name) or protocol not in ("tcp", "udp", "sctp") or not number.isdigit():
            raise LabError(f"--port {text!r}: write it as NAME=tcp/80", usage=True)
        ports[name] = port
    return ports


def parse_pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    """``KEY=VALUE``, as labels and annotations are written. Raises LabError."""
    pairs = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise LabError(f"{option} {text!r}: write it as KEY=VALUE", usage=True)
        pairs[key] = value
    return pairs


def node_namespace(lab: str, node: str) -> str:
    """The name under which ``ip netns`` shows a node."""
    return f"{lab}-{node}"


def pod_namespace(lab: str, node: str, pod: str) -> str:
    """The name under which ``ip netns`` shows a pod."""
    return f"{lab}-{node}-{pod}"


def underlay_namespace(lab: str) -> str:
    """The namespace of the wire between the nodes."""
    return f"{lab}-underlay"


def _range(text: str) -> IPv4Network | IPv6Network:
    """One of the pod ranges; which there may be together, the agents say."""
    if ":" not in text:
        return _network("--range", text)
    try:
        return IPv6Network(text)
    except ValueError as error:
        raise LabError(
            f"--range {text!r}: {error}; write it as CIDR, such as fd00:10:32::/48", usage=True
        ) from None


def _network(option: str, text: str) -> IPv4Network:
    try:
        if "/" not in text:
            raise ValueError("no prefix length")
        IPv4Address(text.partition("/")[0])
        return IPv4Network(text)
    except ValueError as error:
        raise LabError(
            f"{option} {text!r}: {error}; write it as CIDR, such as {DEFAULT_RANGE}", usage=True
        ) from None
