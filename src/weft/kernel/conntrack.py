"""Connection tracking: forgetting flows that would otherwise keep an address translation that is out of date.

Source: include/uapi/linux/netfilter/nfnetlink_conntrack.h.
"""

import errno
import socket
import struct

from weft.kernel import attributes as attr
from weft.kernel.netlink import REQUEST, Message, NetlinkSocket

_GET = 1 << 8 | 1
_DELETE = 1 << 8 | 2
#: struct nfgenmsg: family, version, resource.
_HEADER = struct.Struct("=BBH")

_ORIGINAL = 1
_FILTER = 25
_ID = 12
_PROTOCOL = 2
_PROTOCOL_NUMBER = 1
_DESTINATION_PORT = 3
_FILTER_ORIGINAL = 1
_BY_PROTOCOL_NUMBER = 1 << 3
_BY_DESTINATION_PORT = 1 << 5


class ConntrackSocket(NetlinkSocket):
    """A connection to one namespace's connection tracking."""

    protocol = 12  # NETLINK_NETFILTER


def forget_flows(tracking: ConntrackSocket, family: int, protocol: int, port: int) -> int:
    """Forget the flows of a protocol that were first sent to a port; how many there were.

    ``family`` is AF_INET or AF_INET6. A kernel from 5.8 on looks them up itself; from an older one all come over.
    Raises NetlinkError.
    """
    header = _HEADER.pack(family, 0, 0)
    wanted = attr.nested(
        _ORIGINAL,
        attr.nested(
            _PROTOCOL,
            attr.u8(_PROTOCOL_NUMBER, protocol),
            attr.attribute(_DESTINATION_PORT, struct.pack("!H", port)),
        ),
    )
    by = attr.nested(_FILTER, attr.u32(_FILTER_ORIGINAL, _BY_PROTOCOL_NUMBER | _BY_DESTINATION_PORT))
    found = 0
    for answer in tracking.dump(Message(_GET, REQUEST, header + wanted + by, "list the tracked flows")):
        values = attr.decode(answer, _HEADER.size)
        sent = attr.decode(attr.decode(values.get(_ORIGINAL, b"")).get(_PROTOCOL, b""))
        if sent.get(_PROTOCOL_NUMBER) != bytes([protocol]) or sent.get(_DESTINATION_PORT) != struct.pack(
            "!H", port
        ):
            continue
        # By its identity, so that a flow which came in its place meanwhile is left alone.
        flow = attr.attribute(_ORIGINAL | attr.NESTED, values[_ORIGINAL]) + attr.attribute(_ID, values[_ID])
        message = Message(_DELETE, REQUEST, header + flow, f"forget a flow to port {port}")
        (refused,) = tracking.attempt([message])
        if refused is None:
            found += 1
        elif refused.errno != errno.ENOENT:  # it ended by itself
            raise refused
    return found


def forget_udp(family: int, port: int) -> int:
    """``forget_flows`` of UDP in the calling thread's network namespace."""
    with ConntrackSocket() as tracking:
        return forget_flows(tracking, family, socket.IPPROTO_UDP, port)
