"""Connection tracking: what flows there are, and forgetting those that must not go on as they are.

Source: include/uapi/linux/netfilter/nfnetlink_conntrack.h.
"""

import errno
import socket
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from weft.kernel import attributes as attr
from weft.kernel.namespace import Kept
from weft.kernel.netlink import REQUEST, Message, NetlinkSocket

_GET = 1 << 8 | 1
_DELETE = 1 << 8 | 2
#: struct nfgenmsg: family, version, resource.
_HEADER = struct.Struct("=BBH")

_ORIGINAL = 1
_REPLY = 2
_FILTER = 25
_ID = 12
_PROTOCOL = 2
_PROTOCOL_NUMBER = 1
_ADDRESSES = 1
_SOURCE_PORT = 2
#: Attributes of source and destination, IPv4 then IPv6 (CTA_IP_V4_SRC and the next).
_SOURCES, _DESTINATIONS = (1, 3), (2, 4)
_DESTINATION_PORT = 3
_FILTER_ORIGINAL = 1
_REPLY = 2
_BY_PROTOCOL_NUMBER = 1 << 3
_BY_DESTINATION_PORT = 1 << 5


class ConntrackSocket(NetlinkSocket):
    """A connection to one namespace's connection tracking."""

    protocol = 12  # NETLINK_NETFILTER


def forget_flows(tracking: ConntrackSocket, family: int, protocol: int, ports: Collection[int]) -> int:
    """Forget the flows of a protocol that were first sent to one of the ports; how many there were.

    ``family`` is AF_INET or AF_INET6. The kernel goes through all flows, which takes some milliseconds; one from
    5.8 on hands over those of the protocol only, for a single port those to it only. Raises NetlinkError.
    """
    header = _HEADER.pack(family, 0, 0)
    sought = {struct.pack("!H", port) for port in ports}
    wanted, by = [attr.u8(_PROTOCOL_NUMBER, protocol)], _BY_PROTOCOL_NUMBER
    if len(sought) == 1:
        wanted += [attr.attribute(_DESTINATION_PORT, port) for port in sought]
        by |= _BY_DESTINATION_PORT
    filters = attr.nested(_ORIGINAL, attr.nested(_PROTOCOL, *wanted)) + attr.nested(
        _FILTER, attr.u32(_FILTER_ORIGINAL, by)
    )
    found = []
    for answer in tracking.dump(Message(_GET, REQUEST, header + filters, "list the tracked flows")):
        values = attr.decode(answer, _HEADER.size)
        sent = attr.decode(attr.decode(values.get(_ORIGINAL, b"")).get(_PROTOCOL, b""))
        if sent.get(_PROTOCOL_NUMBER) != bytes([protocol]) or sent.get(_DESTINATION_PORT) not in sought:
            continue
        found.append((values[_ORIGINAL], values[_ID]))
    return _forget(tracking, family, found, "forget a flow to a port")


@dataclass(frozen=True, slots=True)
class Flow:
    """A tracked connection: its first packet's sender, and to whom it came, behind every translation.

    Ports are 0 for protocols without. ``original`` and ``identity`` stand for it when it is to be forgotten.
    """

    family: int
    protocol: int
    source: str
    destination: str
    source_port: int
    destination_port: int
    original: bytes
    identity: bytes


def flows(tracking: ConntrackSocket, family: int) -> Iterator[Flow]:
    """The tracked flows of AF_INET or AF_INET6. Raises NetlinkError."""
    message = Message(_GET, REQUEST, _HEADER.pack(family, 0, 0), "list the tracked flows")
    for answer in tracking.dump(message):
        values = attr.decode(answer, _HEADER.size)
        if _ORIGINAL not in values or _REPLY not in values or _ID not in values:
            continue
        source, _, protocol, source_port, _ = _tuple(family, values[_ORIGINAL])
        # Replies come from whom the first packet really went to.
        destination, _, _, destination_port, _ = _tuple(family, values[_REPLY])
        yield Flow(
            family, protocol, source, destination, source_port, destination_port, values[_ORIGINAL], values[_ID]
        )


def forget(tracking: ConntrackSocket, found: list[Flow]) -> int:
    """Forget flows; how many of them were still there. Raises NetlinkError."""
    count = 0
    for family in (socket.AF_INET, socket.AF_INET6):
        identities = [(flow.original, flow.identity) for flow in found if flow.family == family]
        count += _forget(tracking, family, identities, "forget a flow")
    return count


def _tuple(family: int, data: bytes) -> tuple[str, str, int, int, int]:
    """Source, destination, protocol, ports."""
    values = attr.decode(data)
    place = 0 if family == socket.AF_INET else 1
    ends = attr.decode(values.get(_ADDRESSES, b""))
    protocol = attr.decode(values.get(_PROTOCOL, b""))
    source, destination = (socket.inet_ntop(family, ends[kinds[place]]) for kinds in (_SOURCES, _DESTINATIONS))
    number = protocol.get(_PROTOCOL_NUMBER, b"\0")[0]
    ports = [int.from_bytes(protocol.get(kind, b""), "big") for kind in (_SOURCE_PORT, _DESTINATION_PORT)]
    return source, destination, number, ports[0], ports[1]


def _forget(tracking: ConntrackSocket, family: int, identities: list[tuple[bytes, bytes]], doing: str) -> int:
    """By identity, so that a flow which came in the place of one meanwhile is left alone."""
    header = _HEADER.pack(family, 0, 0)
    messages = [
        Message(
            _DELETE,
            REQUEST,
            header + attr.attribute(_ORIGINAL | attr.NESTED, original) + attr.attribute(_ID, identity),
            doing,
        )
        for original, identity in identities
    ]
    found = 0
    for refused in tracking.attempt(messages):
        if refused is None:
            found += 1
        elif refused.errno != errno.ENOENT:  # it ended by itself
            raise refused
    return found


# To close one makes the kernel wait for the readers of nftables' rules, where some were deleted.
_kept = Kept(ConntrackSocket)


def forget_udp(family: int, ports: Collection[int]) -> int:
    """``forget_flows`` of UDP in the calling thread's network namespace."""
    return forget_flows(_kept.get(), family, socket.IPPROTO_UDP, ports)
