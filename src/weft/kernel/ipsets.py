"""ipsets: which there are, and taking one away.

Source: include/uapi/linux/netfilter/ipset/ip_set.h, ipset(8).
"""

import errno
import socket
import struct

from weft.kernel import attributes as attr
from weft.kernel.netlink import REQUEST, Message, NetlinkError, NetlinkSocket

_SUBSYSTEM = 6 << 8
_DESTROY = _SUBSYSTEM | 3
_LIST = _SUBSYSTEM | 7
#: struct nfgenmsg: family, version, resource.
_HEADER = struct.pack("=BBH", socket.AF_INET, 0, 0)

_PROTOCOL, _NAME, _FLAGS = 1, 2, 6
_VERSION = attr.u8(_PROTOCOL, 6)
#: Names are all that is asked for, in network byte order as every number of this protocol.
_NAMES_ONLY = attr.attribute(_FLAGS | 0x4000, struct.pack("!I", 1 << 1))


class IpsetSocket(NetlinkSocket):
    """A connection to one namespace's ipsets."""

    protocol = 12  # NETLINK_NETFILTER


def names(sets: IpsetSocket) -> list[str]:
    """The names of all sets; none where the kernel has no ipsets. Raises NetlinkError."""
    try:
        answers = sets.dump(Message(_LIST, REQUEST, _HEADER + _VERSION + _NAMES_ONLY, "list the ipsets"))
    except NetlinkError as error:
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
            return []
        raise
    found = (attr.decode(answer, len(_HEADER)).get(_NAME, b"") for answer in answers)
    return sorted(attr.as_text(name) for name in found)


def destroy(name: str) -> Message:
    """Take a set away: EBUSY while a rule or another set uses it, ENOENT where there is none."""
    return Message(_DESTROY, REQUEST, _HEADER + _VERSION + attr.text(_NAME, name), f"destroy the ipset {name}")
