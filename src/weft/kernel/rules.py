"""Rules of policy routing: which table a packet's route is looked up in.

Source: include/uapi/linux/fib_rules.h, ip-rule(8).
"""

import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network

from weft.kernel import attributes as attr
from weft.kernel.netlink import CREATE, EXCLUSIVE, REQUEST, Message, RouteSocket

_NEW_RULE = 32
_DELETE_RULE = 33
_GET_RULE = 34

#: struct fib_rule_hdr: family, destination's and source's prefix length, TOS, table, action, flags.
_HEADER = struct.Struct("=BBBBBxxBI")
_SOURCE = 2
_PRIORITY = 6
_TABLE = 15
_LOOK_UP = 1


@dataclass(frozen=True, slots=True)
class Rule:
    """Packets from ``source`` (None: from anywhere) look into ``table``. The lowest ``priority`` goes first."""

    family: int
    source: IPv4Network | IPv6Network | None
    table: int
    priority: int


def add_rule(source: IPv4Network | IPv6Network, *, table: int) -> Message:
    """A rule before all others that were added so; EEXIST where there is such a rule."""
    return _message(
        _NEW_RULE, REQUEST | CREATE | EXCLUSIVE, source, table, f"add the rule from {source} to {table}"
    )


def delete_rule(source: IPv4Network | IPv6Network, *, table: int) -> Message:
    """ENOENT where there is none."""
    return _message(_DELETE_RULE, REQUEST, source, table, f"delete the rule from {source} to {table}")


def dump_rules(host: RouteSocket) -> list[Rule]:
    """The rules of both families that look into a table. Raises NetlinkError."""
    found = []
    for family in (socket.AF_INET, socket.AF_INET6):
        header = _HEADER.pack(family, 0, 0, 0, 0, 0, 0)
        for answer in host.dump(Message(_GET_RULE, REQUEST, header, "list the rules")):
            own_family, _, length, _, table, action, _ = _HEADER.unpack_from(answer)
            if own_family != family or action != _LOOK_UP:
                continue
            values = attr.decode(answer, _HEADER.size)
            source = None
            if _SOURCE in values:
                source = ip_network((values[_SOURCE], length), strict=False)
            priority = attr.as_u32(values[_PRIORITY]) if _PRIORITY in values else 0
            table = attr.as_u32(values[_TABLE]) if _TABLE in values else table
            found.append(Rule(family, source, table, priority))
    return found


def _message(kind: int, flags: int, source: IPv4Network | IPv6Network, table: int, doing: str) -> Message:
    family = socket.AF_INET if source.version == 4 else socket.AF_INET6
    header = _HEADER.pack(family, 0, source.prefixlen, 0, 0, _LOOK_UP, 0)
    parts = (attr.attribute(_SOURCE, source.network_address.packed), attr.u32(_TABLE, table))
    return Message(kind, flags, b"".join((header, *parts)), doing)
