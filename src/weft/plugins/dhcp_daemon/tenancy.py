"""One pod's lease: the client, its sockets, the namespace they live in, and those who wait for the lease."""

import contextlib
import errno
import logging
import os
from dataclasses import dataclass, field, replace
from random import SystemRandom

from weft.dhcp import Client, Identity, Send, Timing
from weft.dhcp.message import NOWHERE, MessageType
from weft.dhcp.options import Option
from weft.kernel import links
from weft.kernel.attributes import link_address
from weft.kernel.namespace import NetworkNamespace
from weft.kernel.netlink import RouteSocket
from weft.plugins.dhcp_daemon.journal import Key
from weft.plugins.dhcp_daemon.keys import Wishes
from weft.plugins.dhcp_daemon.rpc import Call, ServerConnection
from weft.plugins.dhcp_daemon.sockets import Exchange

_log = logging.getLogger(__name__)

#: RFC 2132 section 9.14: a type, 0 for no hardware address, and at most 254 bytes more.
_IDENTIFIER_TYPE = b"\0"
_LONGEST_IDENTIFIER = 254
#: Bytes that every client must take (RFC 2131 section 2), and those of Ethernet.
_LEAST_MESSAGE, _USUAL_MESSAGE = 576, 1500
_GONE = (errno.ENODEV, errno.ENXIO)


class InterfaceGone(Exception):
    """The interface is not there any more."""


@dataclass(slots=True)
class Waiting:
    """A call to be answered when the lease is there; ``priority`` is the metric of its routes."""

    connection: ServerConnection
    call: Call
    priority: int


@dataclass(slots=True)
class Tenancy:
    """One lease. ``path`` is what the namespace was opened by, None where only a descriptor came."""

    key: Key
    netns: str
    path: str | None
    namespace: NetworkNamespace
    hardware_address: bytes
    wishes: Wishes
    client: Client
    exchange: Exchange
    waiting: list[Waiting] = field(default_factory=list)

    @property
    def gone(self) -> bool:
        """Whether the pod is: its namespace was seen at a path, and is not there now."""
        return self.path is not None and identify(self.path) != self.namespace.identity

    def send(self, sent: Send) -> None:
        """Send a message. Raises InterfaceGone; what else fails is tried again at the next deadline."""
        message = sent.message
        data = message.encode()
        try:
            # A release must be out before the interface is deleted, and cannot wait for ARP.
            if message.client == NOWHERE or message.kind is MessageType.RELEASE:
                self.exchange.send_packet(data, message.client, sent.to)
            elif not self.exchange.send_datagram(data, message.client, sent.to):
                # The address is not the interface's, perhaps a virtual machine's behind it. Nobody would answer
                # the server's ARP: ask as after a reboot (RFC 2131 section 4.3.2), which is answered without.
                wanted = {**message.options, Option.REQUESTED_ADDRESS: message.client.packed}
                asking = replace(message, client=NOWHERE, options=wanted)
                self.exchange.send_packet(asking.encode(), NOWHERE, None)
        except OSError as error:
            if error.errno in _GONE:
                raise InterfaceGone(f"interface {self.key.ifname} is gone") from None
            _log.warning("%s: cannot send %s: %s", self.key, message.kind.name, error)

    def set_down(self) -> None:
        """Take the interface out of use: its address may be another's from now on."""
        with contextlib.suppress(OSError), RouteSocket.open_in(self.namespace) as pod:
            pod.execute([links.set_link(name=self.key.ifname, up=False)])

    def check_interface(self) -> None:
        """Raise InterfaceGone where it is not there as it was."""
        if read_interface(self.namespace, self.key.ifname).hardware_address != self.hardware_address:
            raise InterfaceGone(f"interface {self.key.ifname} has another MAC than when it got its lease")

    def close(self) -> None:
        """Let go of the sockets and the namespace."""
        self.exchange.close()
        self.namespace.close()


@dataclass(frozen=True, slots=True)
class Interface:
    """What of a pod's interface concerns DHCP; MTU in bytes."""

    hardware_address: bytes
    mtu: int
    up: bool


def read_interface(namespace: NetworkNamespace, ifname: str) -> Interface:
    """Look at an interface. Raises InterfaceGone where there is none, OSError."""
    with RouteSocket.open_in(namespace) as pod:
        try:
            link = links.get_link(pod, name=ifname)
        except OSError as error:
            if error.errno in _GONE:
                raise InterfaceGone(f'error looking up "{ifname}": there is no such interface') from None
            raise
    return Interface(link_address(link.address), link.mtu, link.up)


def set_up(namespace: NetworkNamespace, ifname: str) -> None:
    """Bring an interface up. Raises OSError."""
    with RouteSocket.open_in(namespace) as pod:
        pod.execute([links.set_link(name=ifname, up=True)])


def make_client(key: Key, interface: Interface, wishes: Wishes, timing: Timing, broadcast: bool) -> Client:
    """The client for an interface; as the reference's, it is known by ``container ID/network/interface``."""
    identifier = _IDENTIFIER_TYPE + str(key).encode()[:_LONGEST_IDENTIFIER]
    identity = Identity(
        interface.hardware_address,
        identifier,
        wishes.requested,
        wishes.provided,
        broadcast,
        min(max(interface.mtu, _LEAST_MESSAGE), _USUAL_MESSAGE),
    )
    return Client(identity, timing, SystemRandom())


def identify(path: str) -> tuple[int, int] | None:
    """Device and inode of what a path stands for, None of nothing."""
    try:
        status = os.stat(path)  # noqa: PTH116  # os.stat is what NetworkNamespace.identity is made of
    except OSError:
        return None
    return status.st_dev, status.st_ino
