"""Pairs of interfaces between host and container, and the checks of what is configured of an interface."""

import errno
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from weft.kernel import links
from weft.kernel.attributes import packed_name
from weft.kernel.links import Link
from weft.kernel.namespace import NetworkNamespace
from weft.kernel.netlink import Message, RouteSocket
from weft.plugins import interface, names
from weft.plugins.settings import invalid, refused

#: Attempts to find a name for the host's end that nobody has.
_ATTEMPTS = 10
#: Bytes; what the kernel takes for any device.
_LARGEST_MTU = 65535
_SMALLEST_MTU = 68
_MAC = re.compile(r"[0-9a-f]{2}([:-][0-9a-f]{2})*|[0-9a-f]{4}(\.[0-9a-f]{4})*")
#: Bytes of an Ethernet MAC.
_ETHERNET = (6,)


@dataclass(frozen=True, slots=True)
class Pair:
    """Both ends, as the kernel had them when they were made."""

    host: Link
    container: Link

    def delete(self, host: RouteSocket) -> None:
        """Delete both; fine where they are gone."""
        (failed,) = host.attempt([links.delete_link(self.host.index)])
        if failed is not None and failed.errno != errno.ENODEV:
            raise failed


def make_pair(
    host: RouteSocket,
    pod: RouteSocket,
    sandbox: NetworkNamespace | None,
    ifname: str,
    *,
    mtu: int = 0,
    address: str | None = None,
    master: int = 0,
    more: Callable[[str], Sequence[Message]] = lambda name: (),
) -> Pair:
    """Make a pair with ``ifname`` in the sandbox, down, and a random name on the host, up and on ``master``.

    ``mtu`` in bytes, 0 for the kernel's; ``address`` is the container's MAC; ``more`` are messages about the
    host's end, sent with it. Raises CniError where the sandbox has an interface of that name.
    """
    for _ in range(_ATTEMPTS):
        name = names.host_interface()
        create = links.create_veth(
            name=name,
            peer_name=ifname,
            peer_namespace_fd=None if sandbox is None else sandbox.fd,
            mtu=mtu,
            master=master,
            peer_address=address,
        )
        outcomes = host.attempt([create, *more(name)])
        if outcomes[0] is None:
            break
        if outcomes[0].errno != errno.EEXIST:
            raise refused(f"failed to make veth pair: {outcomes[0]}") from None
        if interface.exists(pod, ifname):
            raise refused(f"CNI_IFNAME {ifname}: the container has an interface of that name already")
    else:
        raise refused("failed to find a unique veth name")
    try:
        if failed := next(filter(None, outcomes), None):
            raise refused(str(failed)) from None
        interface.write_optional([(("net", "ipv6", "conf", name, "accept_ra"), 0)])
        return Pair(links.get_link(host, name=name), links.get_link(pod, name=ifname))
    except BaseException:
        host.attempt([links.delete_link(name=name)])
        raise


def check_mac(key: str, text: str, lengths: Sequence[int] = _ETHERNET) -> str:
    """A MAC as the kernel writes it, of one of these lengths in bytes. Raises CniError."""
    found = bytes.fromhex(re.sub(r"[:.-]", "", text)) if _MAC.fullmatch(text.lower()) else b""
    if len(found) not in lengths:
        raise invalid(key, text, "give a MAC such as 0a:58:0a:f4:00:01")
    if len(found) in _ETHERNET and (found[0] & 1 or not any(found)):
        raise invalid(key, text, "no device can have it; give one with an even first byte, and not all zero")
    return found.hex(":")


def check_mtu(key: str, mtu: int) -> None:
    """Raise CniError for an MTU that no device can have; 0 stands for the usual one."""
    if mtu and not _SMALLEST_MTU <= mtu <= _LARGEST_MTU:
        raise invalid(key, mtu, f"give {_SMALLEST_MTU} to {_LARGEST_MTU} bytes, or 0 for the usual one")


def check_name(key: str, name: str) -> None:
    """Raise CniError for what cannot be a device's name."""
    try:
        packed_name(name)
    except ValueError as error:
        raise refused(f"{key} {error}") from None
