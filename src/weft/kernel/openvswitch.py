"""Open vSwitch's datapaths: taking one away, with all its ports.

Its device cannot be deleted as others are.
Source: include/uapi/linux/openvswitch.h, include/uapi/linux/genetlink.h.
"""

import errno
import struct

from weft.kernel import attributes as attr
from weft.kernel.netlink import REQUEST, Message, NetlinkError, NetlinkSocket

#: What the kernel calls the devices of a datapath.
KIND = "openvswitch"

_CONTROL = 0x10
_GET_FAMILY = 3
_FAMILY_ID, _FAMILY_NAME = 1, 2
#: struct genlmsghdr: command, version, reserved.
_GENERIC = struct.Struct("=BBH")
#: struct ovs_header: the index of the datapath's device, 0 where a name says which.
_DATAPATH = struct.Struct("=i")

_DELETE, _DATAPATH_VERSION, _DATAPATH_NAME = 2, 2, 1
_FAMILY = "ovs_datapath"


class GenericSocket(NetlinkSocket):
    """A connection to one namespace's generic netlink."""

    protocol = 16  # NETLINK_GENERIC


def find_family(generic: GenericSocket) -> int | None:
    """This kernel's number for messages about datapaths; None without Open vSwitch. Raises NetlinkError."""
    payload = _GENERIC.pack(_GET_FAMILY, 1, 0) + attr.text(_FAMILY_NAME, _FAMILY)
    try:
        answer = generic.get(Message(_CONTROL, REQUEST, payload, f"find the netlink family {_FAMILY}"))
    except NetlinkError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    return attr.as_u16(attr.decode(answer, _GENERIC.size)[_FAMILY_ID])


def delete_datapath(family: int, name: str) -> Message:
    """Delete a datapath (OVS_DP_CMD_DEL): its own device and its tunnels go, other ports are let off."""
    payload = _GENERIC.pack(_DELETE, _DATAPATH_VERSION, 0) + _DATAPATH.pack(0) + attr.text(_DATAPATH_NAME, name)
    return Message(family, REQUEST, payload, f"delete the datapath {name}")
