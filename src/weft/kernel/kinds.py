"""Devices of the less usual kinds: dummy, IFB, VRF, and those that sit on another device.

Source: include/uapi/linux/if_link.h, Documentation/networking/ipvlan.rst, vrf.rst.
"""

from weft.kernel import attributes as attr
from weft.kernel import link_attributes as ifla
from weft.kernel.links import information
from weft.kernel.netlink import CREATE, EXCLUSIVE, REQUEST, Message

_NEW_LINK = 16
_CREATE = REQUEST | CREATE | EXCLUSIVE

#: The modes of a macvlan, as iproute2 and the CNI plugin name them.
MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
IPVLAN_MODES = {"l2": 0, "l3": 1, "l3s": 2}


def create_dummy(name: str) -> Message:
    """A device that takes every packet and delivers none."""
    return _create(name, "dummy")


def create_ifb(name: str, *, mtu: int) -> Message:
    """A device that what comes in elsewhere can be sent through, to be queued. Up at once; ``mtu`` in bytes.

    Without a queue of its own, since it is made to be given another.
    """
    return _create(name, "ifb", attr.u32(ifla.MTU, mtu), attr.u32(ifla.TRANSMIT_QUEUE_LENGTH, 0), up=True)


def create_vrf(name: str, *, table: int) -> Message:
    """A device whose ports use the routes of ``table`` only. Up at once."""
    return _create(name, "vrf", data=attr.u32(ifla.VRF_TABLE, table), up=True)


def create_vlan(name: str, *, lower: int, vlan_id: int, mtu: int = 0, namespace_fd: int | None = None) -> Message:
    """The 802.1Q VLAN ``vlan_id`` of the device ``lower`` (an index). ``mtu`` in bytes, 0 for the lower one's."""
    return _create_upon(name, "vlan", lower, attr.u16(ifla.VLAN_ID, vlan_id), mtu, namespace_fd)


def create_macvlan(
    name: str,
    *,
    lower: int,
    mode: int,
    mtu: int = 0,
    namespace_fd: int | None = None,
    address: str | bytes | None = None,
    broadcast_queue_length: int = 0,
) -> Message:
    """A MAC of its own on the device ``lower``; ``mode`` out of ``MACVLAN_MODES``.

    ``broadcast_queue_length`` in packets, for the lower device as a whole; 0 leaves the kernel's.
    """
    data = attr.u32(ifla.MACVLAN_MODE, mode)
    if broadcast_queue_length:
        data += attr.u32(ifla.MACVLAN_BROADCAST_QUEUE_LENGTH, broadcast_queue_length)
    more = attr.attribute(ifla.ADDRESS, attr.link_address(address)) if address is not None else b""
    return _create_upon(name, "macvlan", lower, data, mtu, namespace_fd, more)


def create_ipvlan(name: str, *, lower: int, mode: int, mtu: int = 0, namespace_fd: int | None = None) -> Message:
    """Addresses of its own behind the lower device's MAC; ``mode`` out of ``IPVLAN_MODES``."""
    data = attr.u16(ifla.IPVLAN_MODE, mode) + attr.u16(ifla.IPVLAN_FLAGS, 0)
    return _create_upon(name, "ipvlan", lower, data, mtu, namespace_fd)


def _create_upon(
    name: str, kind: str, lower: int, data: bytes, mtu: int, namespace_fd: int | None, more: bytes = b""
) -> Message:
    parts = [attr.u32(ifla.LINK, lower), more]
    if mtu:
        parts.append(attr.u32(ifla.MTU, mtu))
    if namespace_fd is not None:
        parts.append(attr.u32(ifla.NAMESPACE_FD, namespace_fd))
    return _create(name, kind, *parts, data=data)


def _create(name: str, kind: str, *parts: bytes, data: bytes = b"", up: bool = False) -> Message:
    flags = ifla.FLAG_UP if up else 0
    payload = b"".join(
        (
            ifla.HEADER.pack(0, 0, 0, flags, flags),
            attr.interface_name(ifla.NAME, name),
            *parts,
            information(kind, *([data] if data else [])),
        )
    )
    return Message(_NEW_LINK, _CREATE, payload, f"create the {kind} device {name}")
