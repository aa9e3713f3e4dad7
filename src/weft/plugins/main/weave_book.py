"""What ``weave-net`` asks of the node it runs on."""

import socket
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol, TypeVar

from weft.kernel.netlink import RouteSocket
from weft.plugins.main.weave_requests import AddressRequest
from weft.plugins.main.weave_settings import Bridge


class Reservation(Protocol):
    """An attachment in the node's journal; the addresses are None where another IPAM plugin keeps them."""

    @property
    def host_interface(self) -> str: ...
    @property
    def address(self) -> IPv4Address | None: ...
    @property
    def address6(self) -> IPv6Address | None: ...


Reserved = TypeVar("Reserved", bound=Reservation)


class AttachmentBook(Protocol[Reserved]):
    """What this plugin asks of the node it runs on. Every verb journals before it returns."""

    @property
    def bridge(self) -> Bridge:
        """The node's bridge as it is in the kernel."""

    @property
    def host(self) -> RouteSocket:
        """This thread's socket in the node's own namespace."""

    @property
    def packets(self) -> socket.socket:
        """A packet socket in the node's own namespace (``weft.kernel.announce``)."""

    def find(self, container_id: str, ifname: str) -> Reserved | None:
        """The attachment of a container's interface."""

    def reserve(
        self,
        container_id: str,
        ifname: str,
        network: str,
        host_interface: str,
        *,
        own_address: bool,
        wanted: AddressRequest | None = None,
        pod: str = "",
        pod_uid: str = "",
    ) -> Reserved:
        """Write an attachment down and take addresses for it, the wanted ones if any are. ``pod`` is who it is
        for, as NAMESPACE/NAME, and ``pod_uid`` its UID, where a runtime says so. Raises CniError."""

    def confirm(self, reservation: Reserved) -> None:
        """The interface is made. Raises CniError where the attachment was given up meanwhile."""

    def retire(self, reservation: Reserved) -> None:
        """Cut the interface off; it is deleted, and its address freed, soon after. Nothing the second time."""

    def wait_for_retired(self) -> None:
        """Return when the interfaces retired so far are gone."""

    def retire_others(self, network: str, valid: frozenset[tuple[str, str]]) -> None:
        """Retire every attachment of the network that is not among the valid (container, interface)."""

    def ensure_ready(self) -> None:
        """Raise CniError 50 where no attachment could be made now, 51 where those that are made may suffer too."""
