"""Network namespaces, held by an open descriptor rather than by a name that may be reused.

Entering a namespace (setns(2)) concerns the calling thread only. A socket belongs for life to the namespace in
which it was opened, so a visit is short: enter, open sockets, come back.
"""

import ctypes
import fcntl
import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Generic, NoReturn, Self, TypeVar

_CLONE_NEWNET = 0x40000000
#: ioctl on a namespace's descriptor that answers its type (ioctl_ns(2)).
_NS_GET_NSTYPE = 0xB703

_OWN = "/proc/thread-self/ns/net"
Thing = TypeVar("Thing")

#: struct file_handle: the handle's length, its type, the handle itself (open_by_handle_at(2)); MAX_HANDLE_SZ.
_HANDLE = struct.Struct("=Ii")
_LARGEST_HANDLE = 128
_AT_EMPTY_PATH = 0x1000
#: Stands for the file system of namespaces (linux/fcntl.h, Linux 6.18).
_FD_NSFS_ROOT = -10003

_libc = ctypes.CDLL(None, use_errno=True)


class NetworkNamespace:
    """A network namespace that stays alive while this object is open."""

    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: int) -> None:
        """Use ``open``, ``from_fd`` or ``current``."""
        self._descriptor = descriptor

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """The namespace that a file such as /run/netns/NAME or /proc/PID/ns/net stands for.

        Raises OSError where the file cannot be opened, ValueError where it is no network namespace.
        """
        # Without O_NONBLOCK, a FIFO in that place would hold us for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return cls.from_fd(descriptor)
        except ValueError:
            raise ValueError(f"{os.fspath(path)!r} is not a network namespace") from None

    @classmethod
    def from_fd(cls, descriptor: int) -> Self:
        """Own a descriptor from elsewhere.

        Raises ValueError, having closed the descriptor, where it is no network namespace.
        """
        try:
            kind = fcntl.ioctl(descriptor, _NS_GET_NSTYPE)
        except OSError:
            kind = 0
        if kind != _CLONE_NEWNET:
            os.close(descriptor)
            raise ValueError(f"descriptor {descriptor} is not a network namespace")
        return cls(descriptor)

    @classmethod
    def from_handle(cls, handle: bytes) -> Self:
        """The namespace of a ``handle``, whatever its path is or was; Linux 6.18 or later.

        Raises OSError where it is gone, or where the kernel knows no handles of namespaces.
        """
        given = ctypes.create_string_buffer(handle, max(len(handle), _HANDLE.size))
        descriptor = _libc.open_by_handle_at(_FD_NSFS_ROOT, given, os.O_RDONLY | os.O_CLOEXEC)
        if descriptor < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"the network namespace is gone: {os.strerror(number)}")
        return cls.from_fd(descriptor)

    @classmethod
    def current(cls) -> Self:
        """The calling thread's namespace."""
        return cls(os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC))

    @property
    def fd(self) -> int:
        """The descriptor; still owned by this object. -1 once closed."""
        return self._descriptor

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode: equal for two descriptors exactly where the namespace is the same."""
        status = os.fstat(self._descriptor)
        return status.st_dev, status.st_ino

    @property
    def handle(self) -> bytes:
        """What ``from_handle`` finds the namespace by; until the machine starts anew no other one has the same.

        Empty where the kernel has no such thing (before Linux 6.18).
        """
        given = ctypes.create_string_buffer(_HANDLE.pack(_LARGEST_HANDLE, 0), _HANDLE.size + _LARGEST_HANDLE)
        mount = ctypes.c_int()
        if _libc.name_to_handle_at(self._descriptor, b"", given, ctypes.byref(mount), _AT_EMPTY_PATH) != 0:
            return b""
        length, _ = _HANDLE.unpack_from(given.raw)
        return given.raw[: _HANDLE.size + length]

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Put the calling thread into this namespace for the length of the block.

        Nothing in the block may hand the thread to other work (no ``await``). Raises OSError where the namespace
        cannot be entered. Where there is no way back, the process ends: a thread in the wrong namespace would
        change another pod's network.
        """
        home = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _set_namespace(self._descriptor)
            try:
                yield
            finally:
                try:
                    _set_namespace(home)
                except OSError as error:
                    _end_process(error)
        finally:
            os.close(home)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep out others who lock the namespace's file (flock(2)), be they of another process or thread.

        Each must have opened the namespace for itself.
        """
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the namespace. Closing twice is fine."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # A descriptor that was forgotten would keep a dead pod's namespace, and all devices in it, for ever.
        self.close()

    def __repr__(self) -> str:
        if self._descriptor < 0:
            return "<NetworkNamespace closed>"
        device, inode = self.identity
        return f"<NetworkNamespace {device}:{inode} on descriptor {self._descriptor}>"


class Kept(threading.local, Generic[Thing]):
    """A thing such as a socket that each thread keeps for the network namespace that it is in, and never closes.

    For things that are slow to close. In another namespace a new one takes its place, and with the thread it goes.
    """

    def __init__(self, make: Callable[[], Thing]) -> None:
        """``make`` opens one in the calling thread's namespace."""
        self._make = make
        self._held: tuple[tuple[int, int], Thing] | None = None

    def get(self) -> Thing:
        """The thing of the thread's namespace. Raises what ``make`` raises."""
        status = os.stat(_OWN)  # noqa: PTH116
        # What is held keeps its namespace alive, so no other has its inode.
        here = (status.st_dev, status.st_ino)
        if self._held is None or self._held[0] != here:
            self._held = (here, self._make())
        return self._held[1]


def _set_namespace(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot enter the network namespace: {os.strerror(number)}")


def _end_process(error: OSError) -> NoReturn:
    os.write(2, f"weft: no way back to the thread's own network namespace ({error}); ending\n".encode())
    os.abort()
