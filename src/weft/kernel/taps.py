"""TAP devices: what a process writes to them arrives as frames, and the other way round.

Source: Documentation/networking/tuntap.rst, include/uapi/linux/if_tun.h.
"""

import fcntl
import os
import struct

from weft.kernel.attributes import packed_name

_DEVICE = "/dev/net/tun"
_SET_INTERFACE = 0x400454CA
_SET_PERSISTENT = 0x400454CB
_SET_OWNER = 0x400454CC
_SET_GROUP = 0x400454CE
_TAP = 0x0002
_MULTI_QUEUE = 0x0100
_NO_PACKET_INFORMATION = 0x1000
_VIRTIO_HEADER = 0x4000
_INTERFACE_REQUEST = struct.Struct("=16sH22x")


def create_tap(
    name: str,
    *,
    owner: int | None = None,
    group: int | None = None,
    multi_queue: bool = False,
    virtio_header: bool = False,
) -> None:
    """Make a TAP device that stays, in the calling thread's network namespace, down.

    ``owner`` and ``group`` are the user and group IDs that may open it besides root. ``virtio_header``: frames
    come with the header that virtual machines use. Raises OSError: EBUSY where the name is taken, ENOENT
    without /dev/net/tun.
    """
    flags = _TAP | _NO_PACKET_INFORMATION
    flags |= _MULTI_QUEUE if multi_queue else 0
    flags |= _VIRTIO_HEADER if virtio_header else 0
    descriptor = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _SET_INTERFACE, _INTERFACE_REQUEST.pack(packed_name(name), flags))
        if owner is not None:
            fcntl.ioctl(descriptor, _SET_OWNER, owner)
        if group is not None:
            fcntl.ioctl(descriptor, _SET_GROUP, group)
        fcntl.ioctl(descriptor, _SET_PERSISTENT, 1)
    finally:
        os.close(descriptor)
