"""TAP devices: what a process writes to them arrives as frames, and the other way round.

Source: Documentation/networking/tuntap.rst, include/uapi/linux/if_tun.h.
"""

import ctypes
import errno
import fcntl
import os
import struct
import subprocess

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
#: The security context of what the calling thread executes next, proc_pid_attr(5).
_EXECUTION_CONTEXT = "/proc/thread-self/attr/exec"
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
    come with the header that virtual machines use. A TAP device of that name is taken over, so give a new one.
    Raises OSError: EINVAL where another device has the name, ENOENT without /dev/net/tun.
    """
    flags = _TAP | _NO_PACKET_INFORMATION
    flags |= _MULTI_QUEUE if multi_queue else 0
    flags |= _VIRTIO_HEADER if virtio_header else 0
    descriptor = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _SET_INTERFACE, _INTERFACE_REQUEST.pack(packed_name(name), flags))
        if owner is not None:
            fcntl.ioctl(descriptor, _SET_OWNER, _signed(owner))
        if group is not None:
            fcntl.ioctl(descriptor, _SET_GROUP, _signed(group))
        fcntl.ioctl(descriptor, _SET_PERSISTENT, 1)
    finally:
        os.close(descriptor)


def _signed(number: int) -> int:
    """An unsigned number of four bytes as ioctl takes it."""
    return ctypes.c_int32(number).value


def create_labelled_tap(
    name: str, context: str, *, owner: int | None = None, group: int | None = None, multi_queue: bool = False
) -> None:
    """As ``create_tap``; only processes that may use TAP devices of that SELinux context can open it.

    A device has the context of the process that made it, so ip(8) is executed with that one. Raises OSError:
    EINVAL where SELinux is off or does not know the context.
    """
    command = creating_command(name, owner=owner, group=group, multi_queue=multi_queue)
    _set_execution_context(context)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except subprocess.TimeoutExpired:
        raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), "ip tuntap") from None
    finally:
        _set_execution_context("")
    if done.returncode:
        raise OSError(errno.EIO, done.stderr.strip() or f"exit status {done.returncode}", "ip tuntap")


def creating_command(
    name: str, *, owner: int | None = None, group: int | None = None, multi_queue: bool = False
) -> list[str]:
    """How ip(8) is told to make such a device."""
    packed_name(name)
    command = ["ip", "tuntap", "add", "mode", "tap", "name", name]
    command += ["multi_queue"] if multi_queue else []
    command += ["user", str(owner)] if owner is not None else []
    command += ["group", str(group)] if group is not None else []
    return command


def _set_execution_context(context: str) -> None:
    descriptor = os.open(_EXECUTION_CONTEXT, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, context.encode())
    except OSError as error:
        raise OSError(error.errno, f"SELinux is off or does not know the context ({error.strerror})") from None
    finally:
        os.close(descriptor)
