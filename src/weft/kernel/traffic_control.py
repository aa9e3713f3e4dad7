"""Traffic control: a token bucket on a device, classes that subnets are put into, and what comes in on one device
sent out through another.

Source: tc-tbf(8), tc-htb(8), tc-mirred(8), tc-u32(8), include/uapi/linux/pkt_sched.h, pkt_cls.h.
"""

import errno
import functools
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from weft.kernel import attributes as attr
from weft.kernel.netlink import CREATE, EXCLUSIVE, REQUEST, Message, NetlinkError, RouteSocket

_NEW_QUEUE = 36
_DELETE_QUEUE = 37
_GET_QUEUE = 38
_NEW_CLASS = 40
_GET_CLASS = 42
_NEW_FILTER = 44

#: struct tcmsg: family, index, handle, parent, information.
_HEADER = struct.Struct("=BxxxiIII")
_KIND = 1
_OPTIONS = 2
_ROOT = 0xFFFFFFFF
_INGRESS = 0xFFFFFFF1
_INGRESS_HANDLE = 0xFFFF0000
_FIRST_HANDLE = 0x00010000

_BUCKET_PARAMETERS = 1
_BUCKET_RATE64 = 4
#: struct tc_ratespec twice (cell_log, linklayer, overhead, cell_align, mpu, rate), then limit, buffer, mtu.
_BUCKET = struct.Struct("=BBHhHI BBHhHI III")

_HIERARCHY_PARAMETERS = 1
_HIERARCHY_INITIAL = 2
_HIERARCHY_RATE64 = 6
_HIERARCHY_CEILING64 = 7
#: struct tc_htb_glob: version, rate to quantum, default class, two more.
_HIERARCHY = struct.Struct("=IIIII")
_HIERARCHY_VERSION = 3
#: The share of a class's rate that it may send at a time, tc's own default.
_RATE_TO_QUANTUM = 10
#: struct tc_htb_opt: struct tc_ratespec of rate and of ceiling, buffer of each, quantum, level, priority.
_CLASS = struct.Struct("=BBHhHI BBHhHI IIIII")

_U32_CLASS = 1
_U32_SELECTOR = 5
_U32_ACTIONS = 7
#: struct tc_u32_sel: flags, offset shift, number of keys, and zeros; the keys follow.
_SELECTOR = struct.Struct("=BBBxHHhhI")
_TERMINAL = 1
#: struct tc_u32_key: mask and value in network order, then where they are compared, from the IP header's start.
_KEY = struct.Struct("=4s4sii")
_KEY_MATCH_ALL = bytes(_KEY.size)
_ACTION_KIND = 1
_ACTION_OPTIONS = 2
_MIRRED_PARAMETERS = 2
#: struct tc_mirred: index, capabilities, action, two counts, what to do, device.
_MIRRED = struct.Struct("=IIiiiiI")
_STOLEN = 4
_REDIRECT = 1

_MICROSECONDS = 1_000_000
_LARGEST = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """A limit: ``rate`` in bytes per second, ``burst`` in bytes, packets that wait longer than ``latency``
    microseconds are dropped."""

    rate: int
    burst: int
    latency: int

    @property
    def limit(self) -> int:
        """Bytes that may wait."""
        return min(int(self.rate * self.latency / _MICROSECONDS) + self.burst, _LARGEST)

    @property
    def buffer(self) -> int:
        """The burst as the kernel counts it, in its own ticks (at most 32 bits of them, as of microseconds)."""
        microseconds = int(self.burst * _MICROSECONDS / self.rate) & _LARGEST
        return int(microseconds * ticks_per_microsecond()) & _LARGEST


@dataclass(frozen=True, slots=True)
class Queue:
    """A queueing discipline. Rate in bytes per second, limit in bytes and buffer in ticks are a token bucket's,
    ``default_class`` a hierarchy's; 0 for others."""

    kind: str
    handle: int
    parent: int
    rate: int
    limit: int
    buffer: int
    default_class: int = 0


@dataclass(frozen=True, slots=True)
class Class:
    """A class of a hierarchy of token buckets, by its ``number`` in it.

    Rate and ceiling in bytes per second, ``buffer`` in ticks, for each of the two.
    """

    number: int
    rate: int
    ceiling: int
    buffer: int


def add_token_bucket(index: int, bucket: TokenBucket) -> Message:
    """Make the bucket the device's queue; EEXIST where one was added before."""
    rate = min(bucket.rate, _LARGEST)
    parameters = _BUCKET.pack(0, 0, 0, 0, 0, rate, 0, 0, 0, 0, 0, 0, bucket.limit, bucket.buffer, 0)
    options = [attr.attribute(_BUCKET_PARAMETERS, parameters)]
    if bucket.rate > _LARGEST:
        options.append(attr.attribute(_BUCKET_RATE64, struct.pack("=Q", bucket.rate)))
    header = _HEADER.pack(0, index, _FIRST_HANDLE, _ROOT, 0)
    payload = header + attr.text(_KIND, "tbf") + attr.nested(_OPTIONS, *options)
    return Message(_NEW_QUEUE, REQUEST | CREATE | EXCLUSIVE, payload, f"limit what device {index} sends")


def add_hierarchy(index: int, default_class: int) -> Message:
    """Make a hierarchy of token buckets the device's queue: what no filter puts elsewhere goes to that class."""
    initial = _HIERARCHY.pack(_HIERARCHY_VERSION, _RATE_TO_QUANTUM, default_class, 0, 0)
    header = _HEADER.pack(0, index, _FIRST_HANDLE, _ROOT, 0)
    options = attr.nested(_OPTIONS, attr.attribute(_HIERARCHY_INITIAL, initial))
    payload = header + attr.text(_KIND, "htb") + options
    return Message(_NEW_QUEUE, REQUEST | CREATE | EXCLUSIVE, payload, f"divide what device {index} sends")


def add_class(index: int, wanted: Class) -> Message:
    """A class of a device's hierarchy."""
    rate, ceiling = min(wanted.rate, _LARGEST), min(wanted.ceiling, _LARGEST)
    numbers = (0, 0, 0, 0, 0, rate, 0, 0, 0, 0, 0, ceiling, wanted.buffer, wanted.buffer, 0, 0, 0)
    options = [attr.attribute(_HIERARCHY_PARAMETERS, _CLASS.pack(*numbers))]
    for kind, value in ((_HIERARCHY_RATE64, wanted.rate), (_HIERARCHY_CEILING64, wanted.ceiling)):
        if value > _LARGEST:
            options.append(attr.attribute(kind, struct.pack("=Q", value)))
    header = _HEADER.pack(0, index, _FIRST_HANDLE | wanted.number, _FIRST_HANDLE, 0)
    payload = header + attr.text(_KIND, "htb") + attr.nested(_OPTIONS, *options)
    doing = f"add class {wanted.number} to what device {index} sends"
    return Message(_NEW_CLASS, REQUEST | CREATE | EXCLUSIVE, payload, doing)


def add_class_queue(index: int, number: int, packets: int) -> Message:
    """A queue of so many packets for a class.

    Without it the device's own queue length counts, and a device may have none: then all that waits is dropped.
    """
    header = _HEADER.pack(0, index, 0, _FIRST_HANDLE | number, 0)
    payload = header + attr.text(_KIND, "pfifo") + attr.u32(_OPTIONS, packets)
    doing = f"add a queue to class {number} of device {index}"
    return Message(_NEW_QUEUE, REQUEST | CREATE | EXCLUSIVE, payload, doing)


def classify(index: int, network: IPv4Network | IPv6Network, number: int, *, source: bool) -> Message:
    """Put what a device sends to a network, or from it (``source``), into a class of its hierarchy."""
    # The kernel wants another priority for another protocol.
    protocol, priority, start = (0x0800, 16, 12 if source else 16)
    if network.version == 6:
        protocol, priority, start = (0x86DD, 15, 8 if source else 24)
    mask, value = network.netmask.packed, network.network_address.packed
    keys = [
        _KEY.pack(mask[place : place + 4], value[place : place + 4], start + place, 0)
        for place in range(0, len(mask), 4)
        if mask[place : place + 4] != bytes(4)
    ]
    options = attr.nested(
        _OPTIONS,
        attr.attribute(_U32_SELECTOR, _selector(keys or [_KEY_MATCH_ALL])),
        attr.u32(_U32_CLASS, _FIRST_HANDLE | number),
    )
    header = _HEADER.pack(0, index, 0, _FIRST_HANDLE, priority << 16 | socket.htons(protocol))
    payload = header + attr.text(_KIND, "u32") + options
    doing = f"put {network} into class {number} of device {index}"
    return Message(_NEW_FILTER, REQUEST | CREATE | EXCLUSIVE, payload, doing)


def delete_queue(index: int) -> Message:
    """Give the device its usual queue again; ENOENT where it has that."""
    header = _HEADER.pack(0, index, 0, _ROOT, 0)
    return Message(_DELETE_QUEUE, REQUEST, header, f"delete the queue of device {index}")


def delete_ingress(index: int) -> Message:
    """Take the hook away, and the redirection with it; ENOENT or EINVAL where there is none."""
    header = _HEADER.pack(0, index, _INGRESS_HANDLE, _INGRESS, 0)
    return Message(_DELETE_QUEUE, REQUEST, header, f"delete the ingress queue of device {index}")


def add_ingress(index: int) -> Message:
    """The hook that what comes in on a device passes."""
    header = _HEADER.pack(0, index, _INGRESS_HANDLE, _INGRESS, 0)
    payload = header + attr.text(_KIND, "ingress")
    return Message(_NEW_QUEUE, REQUEST | CREATE | EXCLUSIVE, payload, f"add the ingress queue of device {index}")


def redirect_ingress(index: int, target: int) -> Message:
    """Send everything that comes in on a device out of another; needs ``add_ingress`` first."""
    parameters = _MIRRED.pack(0, 0, _STOLEN, 0, 0, _REDIRECT, target)
    action = attr.nested(
        1,
        attr.text(_ACTION_KIND, "mirred"),
        attr.nested(_ACTION_OPTIONS, attr.attribute(_MIRRED_PARAMETERS, parameters)),
    )
    options = attr.nested(
        _OPTIONS,
        attr.attribute(_U32_SELECTOR, _selector([_KEY_MATCH_ALL])),
        attr.u32(_U32_CLASS, _FIRST_HANDLE | 1),
        attr.nested(_U32_ACTIONS, action),
    )
    every_protocol = socket.htons(0x0003)
    header = _HEADER.pack(0, index, 0, _INGRESS_HANDLE, 1 << 16 | every_protocol)
    payload = header + attr.text(_KIND, "u32") + options
    doing = f"redirect what comes in on device {index} to device {target}"
    return Message(_NEW_FILTER, REQUEST | CREATE | EXCLUSIVE, payload, doing)


def dump_queues(host: RouteSocket, index: int) -> list[Queue]:
    """The queueing disciplines of a device. Raises NetlinkError."""
    found = []
    for handle, parent, kind, options in _dump(host, _GET_QUEUE, index, "queues"):
        rate = limit = buffer = default = 0
        if kind == "tbf":
            parameters = _BUCKET.unpack(options[_BUCKET_PARAMETERS])
            rate, limit, buffer = parameters[5], parameters[12], parameters[13]
            rate = _number64(options, _BUCKET_RATE64) or rate
        elif kind == "htb":
            default = _HIERARCHY.unpack(options[_HIERARCHY_INITIAL])[2]
        found.append(Queue(kind, handle, parent, rate, limit, buffer, default))
    return found


def dump_classes(host: RouteSocket, index: int) -> list[Class]:
    """The classes of a device's hierarchy. Raises NetlinkError."""
    found = []
    for handle, _, kind, options in _dump(host, _GET_CLASS, index, "classes"):
        if kind == "htb":
            parameters = _CLASS.unpack(options[_HIERARCHY_PARAMETERS])
            rate = _number64(options, _HIERARCHY_RATE64) or parameters[5]
            ceiling = _number64(options, _HIERARCHY_CEILING64) or parameters[11]
            found.append(Class(handle & 0xFFFF, rate, ceiling, parameters[12]))
    return found


def _dump(host: RouteSocket, kind: int, index: int, what: str) -> Iterator[tuple[int, int, str, dict[int, bytes]]]:
    """Of each: handle, parent, kind, and its options."""
    header = _HEADER.pack(0, index, 0, 0, 0)
    try:
        answers = host.dump(Message(kind, REQUEST, header, f"list the {what} of device {index}"))
    except NetlinkError as error:
        if error.errno == errno.ENODEV:
            return
        raise
    for answer in answers:
        _, device, handle, parent, _ = _HEADER.unpack_from(answer)
        if device != index:
            continue
        values = attr.decode(answer, _HEADER.size)
        name = attr.as_text(values.get(_KIND, b""))
        # Others write their options in other ways.
        options = attr.decode(values.get(_OPTIONS, b"")) if name in ("tbf", "htb") else {}
        yield handle, parent, name, options


def _selector(keys: list[bytes]) -> bytes:
    return _SELECTOR.pack(_TERMINAL, 0, len(keys), 0, 0, 0, 0, 0) + b"".join(keys)


def _number64(options: dict[int, bytes], kind: int) -> int:
    number: int = struct.unpack("=Q", options[kind])[0] if kind in options else 0
    return number


@functools.cache
def ticks_per_microsecond() -> float:
    """The kernel's unit of time in token buckets (/proc/net/psched: two numbers whose quotient it is, and its
    clock)."""
    numbers = [int(number, 16) for number in Path("/proc/net/psched").read_text().split()]
    return numbers[0] / numbers[1] * (numbers[2] / _MICROSECONDS)
