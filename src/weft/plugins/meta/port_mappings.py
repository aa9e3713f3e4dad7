"""What ``portmap`` was asked for, as both its forms take it."""

from collections.abc import Mapping as Table
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from weft.cni.results import IPInterface


@dataclass(frozen=True, slots=True)
class Mapping:
    """A port of the host, on one address of it or on all, and the container's port that it leads to."""

    protocol: str
    host_port: int
    container_port: int
    host: IPv4Address | IPv6Address | None = None

    @property
    def bound(self) -> IPv4Address | IPv6Address | None:
        """The one address of the host; None for all of them."""
        return None if self.host is None or self.host.is_unspecified else self.host

    def target(self, address: IPInterface) -> str:
        """Where packets go."""
        return (
            f"[{address.ip}]:{self.container_port}"
            if address.version == 6
            else f"{address.ip}:{self.container_port}"
        )


@dataclass(frozen=True, slots=True)
class Forwarding:
    """The ports of one container.

    ``masquerade``: what comes from the container itself and from 127.0.0.1, with ``masquerade_all`` whatever
    comes, gets the host's address, so that answers pass here again. ``mark`` is the bit that says so in iptables,
    unless an ``external_mark_chain`` does. ``conditions``, by IP version, are more that a packet must meet.
    """

    network: str
    container_id: str
    mappings: tuple[Mapping, ...]
    masquerade: bool
    masquerade_all: bool
    mark: int
    external_mark_chain: str | None
    conditions: Table[int, tuple[str, ...]]

    def of(self, version: int) -> list[Mapping]:
        """The mappings that hold for an IP version."""
        return [item for item in self.mappings if item.host is None or item.host.version == version]
