"""The node's attachments: what plugins ask of the node, over journal, addresses and reaper."""

import logging
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address

from weft.agent.addresses import Addresses, AddressesExhausted, AddressRefused, AddressTaken
from weft.agent.dataplane import Bridge, Dataplane
from weft.agent.journal import Attachment, Journal, JournalError, State
from weft.agent.reaper import RETIRED_GROUP, Reaper, delete_retired
from weft.cni import CniError, ErrorCode
from weft.ipam.ranges import IPAddress
from weft.kernel import addresses, announce, links
from weft.kernel.links import Link
from weft.kernel.netlink import RouteSocket
from weft.plugins.main.weave_net import HOST_PREFIX, host_interface_name
from weft.plugins.main.weave_requests import AddressRequest

_log = logging.getLogger(__name__)

#: An attachment that the kernel has and the journal lost: this and the host interface stand for the container's
#: unknown ID. No container ID has a colon.
ADOPTED = "adopted:"
#: Seconds that an ADD waits for a retired interface of the same name.
DRAIN_TIMEOUT = 5.0


class Attachments:
    """``weft.plugins.main.weave_book.AttachmentBook`` of this node. Safe for several threads."""

    def __init__(self, journal: Journal, own_addresses: Addresses, dataplane: Dataplane, reaper: Reaper) -> None:
        self._journal = journal
        self._addresses = own_addresses
        self._dataplane = dataplane
        self._reaper = reaper
        self._local = threading.local()
        # Open for life: closing a packet socket makes the kernel wait 12 ms for its readers.
        self._packets = announce.open_packet_socket()

    @property
    def bridge(self) -> Bridge:
        return self._dataplane.bridge

    @property
    def host(self) -> RouteSocket:
        host: RouteSocket | None = getattr(self._local, "host", None)
        if host is None:
            host = self._local.host = RouteSocket()
        return host

    @property
    def packets(self) -> socket.socket:
        return self._packets

    def find(self, container_id: str, ifname: str) -> Attachment | None:
        return self._journal.find(container_id, ifname, ADOPTED + host_interface_name(container_id, ifname))

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
    ) -> Attachment:
        taken: tuple[IPAddress, ...] = ()
        try:
            if own_address:
                taken = self._take(wanted)
            return self._journal.reserve(
                container_id, ifname, network, host_interface, *by_family(taken), pod=pod, pod_uid=pod_uid
            )
        except (AddressesExhausted, AddressTaken) as error:
            raise CniError(ErrorCode.TRY_AGAIN_LATER, str(error)) from error
        except AddressRefused as error:
            raise CniError(ErrorCode.INVALID_CONFIG, str(error)) from error
        except JournalError as error:
            self._addresses.release(taken)
            raise CniError(ErrorCode.IO_FAILURE, str(error)) from error

    def _take(self, wanted: AddressRequest | None) -> tuple[IPAddress, ...]:
        try:
            return self._addresses.take(wanted)
        except (AddressesExhausted, AddressTaken):
            # Addresses of pods that are gone come back as soon as their interfaces are deleted.
            self._reaper.drain(DRAIN_TIMEOUT)
            return self._addresses.take(wanted)

    def confirm(self, reservation: Attachment) -> None:
        if not self._journal.set_state(reservation, State.ATTACHED):
            # A GC in the middle of the ADD: its address may be another's already.
            self.host.attempt([links.delete_link(name=reservation.host_interface)])
            raise CniError(
                ErrorCode.TRY_AGAIN_LATER,
                f"container {reservation.container_id} was given up while it was attached: add it again",
            )

    def retire(self, reservation: Attachment) -> None:
        if self._journal.set_state(reservation, State.RETIRING):
            self._reaper.retire(reservation, self.host)

    def wait_for_retired(self) -> None:
        self._reaper.drain(DRAIN_TIMEOUT)

    def retire_others(self, network: str, valid: frozenset[tuple[str, str]]) -> None:
        kept = {host_interface_name(*pair) for pair in valid}
        for attachment in self._journal.attachments():
            key = (attachment.container_id, attachment.ifname)
            if key in valid or attachment.host_interface in kept:
                continue
            if attachment.state is not State.RETIRING and attachment.network == network:
                _log.info("%s of container %s is not valid any more: retired", *reversed(key))
                self.retire(attachment)

    def ensure_ready(self) -> None:
        if why := self._addresses.suspended:
            raise CniError(ErrorCode.LIMITED_CONNECTIVITY, why)
        if why := self._addresses.lacking():
            raise CniError(ErrorCode.NOT_AVAILABLE, why)

    def reconcile(self) -> None:
        """Bring journal and kernel together after a start: what one of them has and the other lacks.

        Half-made interfaces and unfinished deletions go; an attachment whose interface is gone (the pod's
        namespace went with it) gives its address back; an interface that fell off the bridge is put back; one
        that the journal does not know is adopted with its address, so that nobody else gets it. A pod whose
        address belongs to another node by now is cut off.
        """
        with RouteSocket() as host:
            present = {link.name: link for link in links.dump_links(host) if link.name.startswith(HOST_PREFIX)}
            kept, gone = [], []
            for attachment in self._journal.attachments():
                link = present.get(attachment.host_interface)
                in_group = link is not None and link.group == RETIRED_GROUP
                if why := self._addresses.displaced(attachment):
                    _log.error("container %s is cut off: %s; delete its pod", attachment.container_id, why)
                    gone.append(attachment)
                elif attachment.state is State.ATTACHED and link is not None and not in_group:
                    kept.append(attachment)
                    if link.master != self.bridge.index or not link.up:
                        host.execute([links.set_link(index=link.index, master=self.bridge.index, up=True)])
                        _log.info("%s put back on the bridge", link.name)
                else:
                    gone.append(attachment)
            names = {attachment.host_interface for attachment in kept}
            for attachment in gone:
                if attachment.host_interface not in names:
                    self._reaper.cut_off(attachment.host_interface, host)
            delete_retired(host)
            self._journal.forget(gone)
            known = names | {attachment.host_interface for attachment in gone}
            for link in present.values():
                if link.name not in known and link.group != RETIRED_GROUP:
                    self._adopt(link, host)
            for attachment in gone:
                if not self._addresses.displaced(attachment):
                    self._addresses.release(attachment.addresses)
        _log.info("%d attachments kept, %d leftovers removed", len(kept), len(gone))

    def observe(
        self, host: RouteSocket, known: Iterable[Attachment]
    ) -> tuple[frozenset[str], frozenset[IPAddress]]:
        """The names of the node's devices, and the addresses of pods behind ports of the bridge that are of none
        of the known attachments; those only where an attachment has lost its own. Raises NetlinkError.
        """
        present = links.dump_links(host)
        names = frozenset(link.name for link in present)
        expected = {item.host_interface for item in known}
        holders: set[IPAddress] = set()
        if not expected <= names:
            for link in present:
                if link.master == self.bridge.index and link.name not in expected:
                    holders.update(_addresses_behind(link, host))
        return names, frozenset(holders)

    def _adopt(self, link: Link, host: RouteSocket) -> None:
        """Write down what the journal has lost: the pod's address is read through the pair, without its ID."""
        found = [address for address in _addresses_behind(link, host) if self._addresses.hold(address)]
        container_id = ADOPTED + link.name
        adopted = self._journal.reserve(
            container_id, "", self._dataplane.bridge.name, link.name, *by_family(found)
        )
        self._journal.set_state(adopted, State.ATTACHED)
        host.execute([links.set_link(index=link.index, master=self.bridge.index, up=True)])
        listed = ", ".join(map(str, found))
        _log.warning("%s was not in the journal; adopted with %s", link.name, listed or "no address of ours")


def _addresses_behind(link: Link, host: RouteSocket) -> list[IPAddress]:
    """The addresses of the other end of a pair; none where that is in this namespace. Raises NetlinkError."""
    if link.peer_namespace_id is None:
        return []
    found = addresses.dump_addresses(host, link.peer_index, target_namespace_id=link.peer_namespace_id)
    return [item.interface.ip for item in found]


def by_family(taken: Iterable[IPAddress]) -> tuple[IPv4Address | None, IPv6Address | None]:
    """The IPv4 and the IPv6 address of a pod, as the journal has them."""
    first = second = None
    for address in taken:
        if isinstance(address, IPv4Address):
            first = address
        else:
            second = address
    return first, second


def free_addresses(own_addresses: Addresses) -> Callable[[Sequence[Attachment]], None]:
    """What the reaper calls when interfaces are gone."""

    def free(attachments: Sequence[Attachment]) -> None:
        for attachment in attachments:
            own_addresses.release(attachment.addresses)

    return free
