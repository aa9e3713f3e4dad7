"""Traffic control: a token bucket on a device, and what comes in on one device sent out through another.

Source: tc-tbf(8), tc-mirred(8), tc-u32(8), include/uapi/linux/pkt_sched.h, pkt_cls.h.
"""

import errno
import functools
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

from weft.kernel import attributes as attr
from weft.kernel.netlink import CREATE, EXCLUSIVE, REQUEST, Message, NetlinkError, RouteSocket

_NEW_QUEUE = 36
_GET_QUEUE = 38
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

_U32_CLASS = 1
_U32_SELECTOR = 5
_U32_ACTIONS = 7
#: struct tc_u32_sel with one key that matches everything: flags, offset shift, number of keys, and zeros.
_MATCH_ALL = struct.pack("=BBBxHHhhI", 1, 0, 1, 0, 0, 0, 0, 0) + bytes(16)
_ACTION_KIND = 1
_ACTION_OPTIONS = 2
_MIRRED_PARAMETERS = 2
#: struct tc_mirred: index, capabilities, action, two counts, what to do, device.
_MIRRED = struct.Struct("=IIiiiiI")
_STOLEN = 4
_REDIRECT = 1

_MICROSECONDS = 1_000_000


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
        return int(self.rate * self.latency / _MICROSECONDS) + self.burst

    @property
    def buffer(self) -> int:
        """The burst as the kernel counts it, in its own ticks (at most 32 bits of them, as of microseconds)."""
        microseconds = int(self.burst * _MICROSECONDS / self.rate) & 0xFFFFFFFF
        return int(microseconds * ticks_per_microsecond()) & 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Queue:
    """A queueing discipline. The last three are a token bucket's, 0 for others: rate in bytes per second, limit in
    bytes, buffer in ticks."""

    kind: str
    handle: int
    parent: int
    rate: int
    limit: int
    buffer: int


def add_token_bucket(index: int, bucket: TokenBucket) -> Message:
    """Make the bucket the device's queue; EEXIST where one was added before."""
    rate = min(bucket.rate, 0xFFFFFFFF)
    parameters = _BUCKET.pack(0, 0, 0, 0, 0, rate, 0, 0, 0, 0, 0, 0, bucket.limit, bucket.buffer, 0)
    options = [attr.attribute(_BUCKET_PARAMETERS, parameters)]
    if bucket.rate > 0xFFFFFFFF:
        options.append(attr.attribute(_BUCKET_RATE64, struct.pack("=Q", bucket.rate)))
    header = _HEADER.pack(0, index, _FIRST_HANDLE, _ROOT, 0)
    payload = header + attr.text(_KIND, "tbf") + attr.nested(_OPTIONS, *options)
    return Message(_NEW_QUEUE, REQUEST | CREATE | EXCLUSIVE, payload, f"limit what device {index} sends")


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
        attr.attribute(_U32_SELECTOR, _MATCH_ALL),
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
    header = _HEADER.pack(0, index, 0, 0, 0)
    try:
        answers = host.dump(Message(_GET_QUEUE, REQUEST, header, f"list the queues of device {index}"))
    except NetlinkError as error:
        if error.errno == errno.ENODEV:
            return []
        raise
    found = []
    for answer in answers:
        _, device, handle, parent, _ = _HEADER.unpack_from(answer)
        if device != index:
            continue
        values = attr.decode(answer, _HEADER.size)
        kind = attr.as_text(values.get(_KIND, b""))
        rate = limit = buffer = 0
        if kind == "tbf":
            options = attr.decode(values.get(_OPTIONS, b""))
            parameters = _BUCKET.unpack(options[_BUCKET_PARAMETERS])
            rate, limit, buffer = parameters[5], parameters[12], parameters[13]
            if _BUCKET_RATE64 in options:
                rate = struct.unpack("=Q", options[_BUCKET_RATE64])[0]
        found.append(Queue(kind, handle, parent, rate, limit, buffer))
    return found


@functools.cache
def ticks_per_microsecond() -> float:
    """The kernel's unit of time in token buckets (/proc/net/psched: two numbers whose quotient it is, and its
    clock)."""
    numbers = [int(number, 16) for number in Path("/proc/net/psched").read_text().split()]
    return numbers[0] / numbers[1] * (numbers[2] / _MICROSECONDS)
