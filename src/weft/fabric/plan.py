"""What a fabric mode is told, and what it answers."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network
IPInterface = IPv4Interface | IPv6Interface


@dataclass(frozen=True, slots=True)
class Peer:
    """Another node, as the store knows it.

    ``address`` is its address on the underlay, ``link_address`` the MAC of its VXLAN device (the VTEP),
    ``gateway`` and ``gateway6`` its bridge's addresses, ``blocks`` the blocks it owns.
    """

    name: str
    address: IPv4Address
    link_address: str
    gateway: IPv4Address
    blocks: tuple[IPNetwork, ...]
    gateway6: IPv6Address | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """This node: its name, its address on the underlay, its bridge's addresses with their ranges' prefixes."""

    name: str
    address: IPv4Address
    bridge: IPv4Interface
    mtu: int
    bridge6: IPv6Interface | None = None

    @property
    def bridges(self) -> tuple[IPInterface, ...]:
        """The bridge's addresses."""
        return (self.bridge,) if self.bridge6 is None else (self.bridge, self.bridge6)


@dataclass(frozen=True, slots=True)
class Device:
    """A network device that must exist; ``address`` is its MAC. Bytes for ``mtu``."""

    name: str
    address: str
    mtu: int


@dataclass(frozen=True, slots=True)
class Vxlan(Device):
    """A VXLAN device: VNI, UDP port, and the underlay address that packets leave with."""

    vni: int
    port: int
    local: IPv4Address


@dataclass(frozen=True, slots=True)
class Devices:
    """The devices of a node, whatever its peers."""

    bridge: Device
    bridge_addresses: tuple[IPInterface, ...]
    tunnel: Vxlan


@dataclass(frozen=True, slots=True)
class Route:
    """Packets for the destination go to the gateway, which is reachable through the tunnel although no
    subnet there says so; the node's own packets leave with ``source``. IPv6 gateways are link-local."""

    destination: IPNetwork
    gateway: IPAddress
    source: IPAddress


@dataclass(frozen=True, slots=True)
class Neighbour:
    """The gateway has this MAC on the tunnel."""

    gateway: IPAddress
    link_address: str


@dataclass(frozen=True, slots=True)
class ForwardingEntry:
    """Frames for the MAC are sent to the node at this underlay address."""

    link_address: str
    address: IPv4Address


@dataclass(frozen=True, slots=True)
class Forwarding:
    """Everything that leads to other nodes: O(blocks) routes, O(nodes) of the rest, no flooding."""

    routes: frozenset[Route] = frozenset()
    neighbours: frozenset[Neighbour] = frozenset()
    entries: frozenset[ForwardingEntry] = frozenset()

    @classmethod
    def union(cls, parts: Iterable["Forwarding"]) -> "Forwarding":
        """All of several plans."""
        several = list(parts)
        return cls(
            frozenset().union(*(part.routes for part in several)),
            frozenset().union(*(part.neighbours for part in several)),
            frozenset().union(*(part.entries for part in several)),
        )

    def __sub__(self, other: "Forwarding") -> "Forwarding":
        return Forwarding(
            self.routes - other.routes, self.neighbours - other.neighbours, self.entries - other.entries
        )


def link_local(link_address: str) -> IPv6Address:
    """The link-local address that belongs to a MAC (RFC 4291, appendix A)."""
    mac = bytes.fromhex(link_address.replace(":", ""))
    return IPv6Address(b"\xfe\x80" + bytes(6) + bytes([mac[0] ^ 0x02]) + mac[1:3] + b"\xff\xfe" + mac[3:])


def derived_link_address(role: str, node: str) -> str:
    """A MAC that a node's device keeps for ever: locally administered, unicast, from the node's name.

    Peers hold it in their tables, so it must not change when an agent starts anew.
    """
    digest = bytearray(hashlib.sha256(f"{role}\0{node}".encode()).digest()[:6])
    digest[0] = digest[0] & 0xFC | 0x02
    return digest.hex(":")
