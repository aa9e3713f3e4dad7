"""The attributes of network devices, and what the kernel tells with them.

Source: include/uapi/linux/if_link.h, include/uapi/linux/rtnetlink.h, include/uapi/linux/if.h.
"""

import struct
import sys
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from weft.kernel.attributes import (
    MalformedMessage,
    as_i32,
    as_ip_address,
    as_link_address,
    as_text,
    as_u8,
    as_u32,
    decode,
)

#: struct ifinfomsg: family, device type, index, flags, which flags to change.
HEADER = struct.Struct("=BxHiII")
FLAG_UP = 0x1
FLAG_PROMISCUOUS = 0x100
FLAG_ALL_MULTICAST = 0x200

ADDRESS = 1
NAME = 3
MTU = 4
LINK = 5
MASTER = 10
TRANSMIT_QUEUE_LENGTH = 13
OPERATIONAL_STATE = 16
INFORMATION = 18
ALIAS = 20
FAMILIES = 26
GROUP = 27
NAMESPACE_FD = 28
EXTENDED_MASK = 29
PROMISCUITY = 30
TX_QUEUES = 31
RX_QUEUES = 32
LINK_NAMESPACE_ID = 37

#: For EXTENDED_MASK: counters are half of a reply and nobody here reads them.
SKIP_STATISTICS = 1 << 3

# Within INFORMATION.
KIND = 1
DATA = 2
PORT_KIND = 4
PORT_DATA = 5

VETH_PEER = 1

BRIDGE_VLAN_FILTERING = 7

#: The mode of a macvlan (four bytes) and of an ipvlan (two), the VLAN's ID, a VRF's table.
MACVLAN_MODE = IPVLAN_MODE = VLAN_ID = VRF_TABLE = 1
MACVLAN_BROADCAST_QUEUE_LENGTH = 7
IPVLAN_FLAGS = 2

VXLAN_VNI = 1
VXLAN_LINK = 3
VXLAN_LOCAL = 4
VXLAN_LEARNING = 7
VXLAN_PORT = 15
VXLAN_LOCAL6 = 17

PORT_STATE = 1
PORT_HAIRPIN = 4
PORT_LEARNING = 8
PORT_UNICAST_FLOOD = 9
PORT_NEIGHBOUR_SUPPRESSION = 32
PORT_ISOLATED = 33

# Within FAMILIES.
FAMILY_IPV6 = 10
IPV6_ADDRESS_GENERATION = 8
GENERATE_EUI64 = 0
GENERATE_NONE = 1

_OPERATIONALLY_UNKNOWN = 0
_OPERATIONALLY_UP = 6
_PORT_FORWARDING = 3


@dataclass(frozen=True, slots=True)
class Vxlan:
    """What is special to a VXLAN device. ``underlay_index`` is 0 where it is bound to none."""

    vni: int
    port: int
    local: IPv4Address | IPv6Address | None
    underlay_index: int
    learning: bool


@dataclass(frozen=True, slots=True)
class BridgePort:
    """What a bridge holds of one of its ports."""

    forwarding: bool
    hairpin: bool
    isolated: bool
    learning: bool


@dataclass(frozen=True, slots=True)
class Link:
    """A network device.

    ``kind`` is empty for hardware and loopback; ``mtu`` in bytes; ``master`` the index of its bridge or 0. ``up``
    is what was asked for, ``operational`` whether it can carry frames. ``peer_index`` is the device at the other
    end, or the one below, 0 for none; it is an index of the namespace ``peer_namespace_id``, None for this one.
    (That identifier is this namespace's own for the other; dumps of addresses take it too.)
    ``promiscuity`` counts who asked for it; ``transmit_queue_length`` in packets. ``mode`` is that of a macvlan or
    ipvlan, ``table`` that of a VRF, ``vlan_id`` that of a VLAN, 0 for any other kind.
    """

    index: int
    name: str
    kind: str
    address: str
    mtu: int
    up: bool
    operational: bool
    master: int
    group: int
    peer_index: int
    peer_namespace_id: int | None
    vxlan: Vxlan | None
    port: BridgePort | None
    alias: str = ""
    promiscuity: int = 0
    all_multicast: bool = False
    transmit_queue_length: int = 0
    mode: int = 0
    table: int = 0
    vlan_id: int = 0

    @property
    def hairpin(self) -> bool:
        """Whether this is a bridge port in hairpin mode."""
        return self.port is not None and self.port.hairpin


def parse_link(payload: bytes) -> Link:
    """A device from the kernel's message. Raises MalformedMessage."""
    if len(payload) < HEADER.size:
        raise MalformedMessage(f"a device's message of {len(payload)} bytes")
    _, _, index, flags, _ = HEADER.unpack_from(payload)
    found = decode(payload, HEADER.size)
    information = decode(found.get(INFORMATION, b""))
    kind = as_text(information.get(KIND, b""))
    state = _u8(found, OPERATIONAL_STATE)
    return Link(
        index=index,
        name=as_text(found.get(NAME, b"")),
        kind=kind,
        address=as_link_address(found.get(ADDRESS, b"")),
        mtu=_u32(found, MTU),
        up=bool(flags & FLAG_UP),
        operational=bool(flags & FLAG_UP) and state in (_OPERATIONALLY_UNKNOWN, _OPERATIONALLY_UP),
        master=_u32(found, MASTER),
        group=_u32(found, GROUP),
        peer_index=_u32(found, LINK),
        peer_namespace_id=as_i32(found[LINK_NAMESPACE_ID]) if LINK_NAMESPACE_ID in found else None,
        vxlan=_vxlan(information.get(DATA, b"")) if kind == "vxlan" else None,
        port=_port(information[PORT_DATA]) if information.get(PORT_KIND) == b"bridge\0" else None,
        alias=as_text(found.get(ALIAS, b"")),
        promiscuity=_u32(found, PROMISCUITY),
        all_multicast=bool(flags & FLAG_ALL_MULTICAST),
        transmit_queue_length=_u32(found, TRANSMIT_QUEUE_LENGTH),
        mode=_first(information, kind in ("macvlan", "macvtap", "ipvlan")),
        table=_first(information, kind == "vrf"),
        vlan_id=_first(information, kind == "vlan"),
    )


def _first(information: dict[int, bytes], present: bool) -> int:
    """The number that is the first attribute of the kind's data, of whatever size."""
    return int.from_bytes(decode(information.get(DATA, b"")).get(1, b""), sys.byteorder) if present else 0


def _vxlan(data: bytes) -> Vxlan:
    found = decode(data)
    local = found.get(VXLAN_LOCAL) or found.get(VXLAN_LOCAL6)
    return Vxlan(
        vni=_u32(found, VXLAN_VNI),
        port=int.from_bytes(found.get(VXLAN_PORT, b""), "big"),
        local=as_ip_address(local) if local else None,
        underlay_index=_u32(found, VXLAN_LINK),
        learning=bool(_u8(found, VXLAN_LEARNING)),
    )


def _port(data: bytes) -> BridgePort:
    found = decode(data)
    return BridgePort(
        forwarding=_u8(found, PORT_STATE) == _PORT_FORWARDING,
        hairpin=bool(_u8(found, PORT_HAIRPIN)),
        isolated=bool(_u8(found, PORT_ISOLATED)),
        learning=bool(_u8(found, PORT_LEARNING)),
    )


def _u32(found: dict[int, bytes], kind: int) -> int:
    return as_u32(found[kind]) if kind in found else 0


def _u8(found: dict[int, bytes], kind: int) -> int:
    return as_u8(found[kind]) if kind in found else 0
