"""The sockets of one exchange, opened in the pod's namespace.

Before the interface has its address only whole packets can be sent and received, by a packet socket (packet(7)).
Afterwards a UDP socket does, and the kernel finds the way to a server behind a router.
"""

import ctypes
import errno
import os
import queue
import socket
import struct
import threading
from dataclasses import dataclass
from ipaddress import IPv4Address

from weft.dhcp.datagram import CLIENT_PORT, EVERYBODY, SERVER_PORT, unwrap, wrap
from weft.kernel.namespace import NetworkNamespace

_IPV4 = 0x0800
_ALL = b"\xff" * 6
_LARGEST = 65535
_SO_ATTACH_FILTER = 26
_IP_PKTINFO = 8
#: struct in_pktinfo (ip(7)): the interface, 0 for the socket's; the source; what counts on receiving only.
_PACKET_INFORMATION = struct.Struct("=i4s4s")
#: EINVAL is the kernel's word for a source that is not the host's own.
_NO_WAY = (errno.EINVAL, errno.EADDRNOTAVAIL, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRINUSE)
#: Classic BPF, from the IP header on: UDP, no fragment, to the client's port; all of the packet, else nothing.
_FILTER = (
    (0x30, 0, 0, 9),  # the protocol's byte
    (0x15, 0, 6, 17),
    (0x28, 0, 0, 6),  # the fragment's half-word
    (0x45, 4, 0, 0x1FFF),
    (0xB1, 0, 0, 0),  # the header's length
    (0x48, 0, 0, 2),  # UDP's destination port
    (0x15, 0, 1, CLIENT_PORT),
    (0x06, 0, 0, 0xFFFFFFFF),
    (0x06, 0, 0, 0),
)


class Closer:
    """Closes packet sockets on a thread of its own: the kernel lets who closes one wait 12 to 20 ms."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def close(self, opened: socket.socket) -> None:
        """Close it soon; it is of no use any more at once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="dhcp-closer", daemon=True)
            self._thread.start()
        self._waiting.put(opened.detach())

    def end(self) -> None:
        """Wait until all are closed."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (descriptor := self._waiting.get()) is not None:
            os.close(descriptor)


@dataclass(slots=True)
class Exchange:
    """The open sockets of a lease. ``way`` is the MAC from which the last packet came, everybody's before."""

    namespace: NetworkNamespace
    ifname: str
    closer: Closer
    way: bytes = _ALL
    packets: socket.socket | None = None
    datagrams: socket.socket | None = None

    def send_packet(self, data: bytes, source: IPv4Address, destination: IPv4Address | None) -> None:
        """Send without an address of the interface's own: to everybody, or to a server by the way it answered.

        Raises OSError.
        """
        if self.packets is None:
            self.packets = _open_packets(self.namespace, self.ifname)
        way = _ALL if destination is None else self.way
        self.packets.sendto(wrap(data, source, destination or EVERYBODY), (self.ifname, _IPV4, 0, 0, way))

    def send_datagram(self, data: bytes, source: IPv4Address, destination: IPv4Address | None) -> bool:
        """Send from the interface's address. False where it has not that address, or no way. Raises OSError."""
        try:
            if self.datagrams is None:
                self.datagrams = _open_datagrams(self.namespace, self.ifname)
            chosen = (socket.IPPROTO_IP, _IP_PKTINFO, _PACKET_INFORMATION.pack(0, source.packed, b""))
            self.datagrams.sendmsg([data], [chosen], 0, (str(destination or EVERYBODY), SERVER_PORT))
        except OSError as error:
            if error.errno in _NO_WAY:
                return False
            raise
        return True

    @property
    def sockets(self) -> list[socket.socket]:
        """Those that are open."""
        return [item for item in (self.packets, self.datagrams) if item is not None]

    def receive(self, ready: socket.socket) -> bytes | None:
        """A message that came, None of what is none. Raises OSError."""
        if ready is self.packets:
            packet, origin = ready.recvfrom(_LARGEST)
            payload = unwrap(packet)
            if payload is not None:
                self.way = origin[4]
            return payload
        return ready.recv(_LARGEST)

    def close(self) -> None:
        """Close the sockets."""
        if self.packets is not None:
            self.closer.close(self.packets)
        if self.datagrams is not None:
            self.datagrams.close()
        self.packets = self.datagrams = None


def _open_packets(namespace: NetworkNamespace, ifname: str) -> socket.socket:
    with namespace.entered():
        # Protocol 0 until the filter is there: nothing gets in that it would keep out.
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
    try:
        program = b"".join(struct.pack("=HBBI", *instruction) for instruction in _FILTER)
        kept = ctypes.create_string_buffer(program)
        opened.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(_FILTER), ctypes.addressof(kept))
        )
        opened.bind((ifname, _IPV4))
    except OSError:
        opened.close()
        raise
    return opened


def _open_datagrams(namespace: NetworkNamespace, ifname: str) -> socket.socket:
    with namespace.entered():
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, ifname.encode() + b"\0")
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # To any address: a refusal comes by broadcast.
        opened.bind(("", CLIENT_PORT))
    except OSError:
        opened.close()
        raise
    return opened
