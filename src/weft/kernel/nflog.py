"""Packets that a ruleset's ``log group`` tells of (nfnetlink_log).

Source: include/uapi/linux/netfilter/nfnetlink_log.h. The kernel's own log is silent in network namespaces other
than the first; this way works in all of them.
"""

import select
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from weft.kernel import attributes as attr
from weft.kernel.netlink import REQUEST, Message, NetlinkSocket, split

_SUBSYSTEM = 4 << 8
_PACKET = _SUBSYSTEM | 0
_CONFIGURE = _SUBSYSTEM | 1
#: struct nfgenmsg: family, version, resource (the group, in network order).
_HEADER = struct.Struct("!BBH")
_COMMAND, _MODE = 1, 2
_BIND = 1
_COPY_PACKET = 2
_PAYLOAD, _PREFIX = 9, 10
#: Bytes of a packet that tell its addresses and ports.
_COPIED = 80


@dataclass(frozen=True, slots=True)
class LoggedPacket:
    """The prefix of the rule that told of it, and the packet from its IP header on, cut short."""

    prefix: str
    data: bytes


class LogSocket(NetlinkSocket):
    """Hears one group of one network namespace. One thread at a time."""

    protocol = 12  # NETLINK_NETFILTER

    def bind(self, group: int) -> None:
        """Hear a group. Raises NetlinkError, with EBUSY where another process hears it."""
        header = _HEADER.pack(socket.AF_UNSPEC, 0, group)
        mode = struct.pack("!IBx", _COPIED, _COPY_PACKET)
        doing = f"hear log group {group}"
        self.execute([Message(_CONFIGURE, REQUEST, header + attr.u8(_COMMAND, _BIND), doing)])
        self.execute([Message(_CONFIGURE, REQUEST, header + attr.attribute(_MODE, mode), doing)])

    def packets(self, timeout: float) -> Iterator[LoggedPacket]:
        """What comes within the time in seconds; what came while nobody listened may be lost."""
        if not select.select([self.fileno()], [], [], timeout)[0]:
            return
        try:
            datagram = self._socket.recv(1 << 16)
        except OSError:
            return  # more came than there was room for
        for message in split(datagram):
            if message.kind == _PACKET:
                values = attr.decode(message.payload, _HEADER.size)
                yield LoggedPacket(attr.as_text(values.get(_PREFIX, b"")), values.get(_PAYLOAD, b""))
