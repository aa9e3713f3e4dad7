"""The VLANs of bridge ports.

Source: include/uapi/linux/if_bridge.h, bridge(8).
"""

import socket
import struct

from weft.kernel import attributes as attr
from weft.kernel import link_attributes as ifla
from weft.kernel.netlink import REQUEST, Message, RouteSocket

_NEW_LINK = 16
_DELETE_LINK = 17
_GET_LINK = 18
_BRIDGE_SPECIFICATION = 26
_WITH_VLANS = 1 << 1

_VLAN = 2
#: struct bridge_vlan_info: flags, VLAN ID.
_VLAN_INFORMATION = struct.Struct("=HH")
_PORT_VLAN = 1 << 1
_UNTAGGED = 1 << 2


def add_vlan(port: int, vlan_id: int, *, port_vlan: bool = False, untagged: bool = False) -> Message:
    """Let a VLAN pass a port. ``port_vlan``: frames without a tag that come in belong to it; ``untagged``: frames
    of it leave without a tag."""
    flags = (_PORT_VLAN if port_vlan else 0) | (_UNTAGGED if untagged else 0)
    return _message(_NEW_LINK, port, vlan_id, flags, f"add VLAN {vlan_id} to bridge port {port}")


def delete_vlan(port: int, vlan_id: int) -> Message:
    """No longer let a VLAN pass a port."""
    return _message(_DELETE_LINK, port, vlan_id, 0, f"delete VLAN {vlan_id} of bridge port {port}")


def dump_vlans(host: RouteSocket, port: int) -> list[tuple[int, bool, bool]]:
    """A port's VLANs: ID, whether it is the port's own, whether it leaves untagged. Raises NetlinkError."""
    header = ifla.HEADER.pack(socket.AF_BRIDGE, 0, 0, 0, 0)
    payload = header + attr.u32(ifla.EXTENDED_MASK, _WITH_VLANS)
    found = []
    for answer in host.dump(Message(_GET_LINK, REQUEST, payload, "list the bridge ports' VLANs")):
        if ifla.HEADER.unpack_from(answer)[2] != port:
            continue
        specification = attr.decode(answer, ifla.HEADER.size).get(_BRIDGE_SPECIFICATION, b"")
        for kind, value in attr.decode_all(specification):
            if kind == _VLAN:
                flags, vlan_id = _VLAN_INFORMATION.unpack(value)
                found.append((vlan_id, bool(flags & _PORT_VLAN), bool(flags & _UNTAGGED)))
    return found


def _message(kind: int, port: int, vlan_id: int, flags: int, doing: str) -> Message:
    header = ifla.HEADER.pack(socket.AF_BRIDGE, 0, port, 0, 0)
    information = attr.attribute(_VLAN, _VLAN_INFORMATION.pack(flags, vlan_id))
    return Message(kind, REQUEST, header + attr.nested(_BRIDGE_SPECIFICATION, information), doing)
