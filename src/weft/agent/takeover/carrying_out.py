"""Takes away what was Weave Net's. Each step can be repeated; what is gone already is fine."""

import errno
import logging
from collections.abc import Sequence

from weft.agent.takeover.layout import DATAPATH, TUNNEL, UPLINK
from weft.agent.takeover.rules import own_rules
from weft.kernel import ipsets, iptables, links, openvswitch
from weft.kernel.ipsets import IpsetSocket
from weft.kernel.links import Link
from weft.kernel.netlink import NetlinkError, RouteSocket

_log = logging.getLogger(__name__)

#: Times that a table is read and changed until nobody changes it in between.
_ATTEMPTS = 5


def cut_old_way() -> None:
    """No frame of the bridge leaves by Weave's datapath any more, and the name of its tunnel is free for ours.

    Without this a bridge that answers ARP for other nodes' pods would do so for those nodes' pods, too.
    """
    with RouteSocket() as host:
        present = {link.name: link for link in links.dump_links(host)}
        uplink, tunnel = present.get(UPLINK), present.get(TUNNEL)
        if uplink is not None and (uplink.up or uplink.master):
            host.execute([links.set_link(index=uplink.index, up=False, master=0)])
        if tunnel is not None and tunnel.master:
            host.execute([links.delete_link(index=tunnel.index)])


def remove_rules(table: str, *, legacy: bool) -> None:
    """Take Weave's chains and rules out of a table, in one transaction. Raises IptablesError."""
    for left in reversed(range(_ATTEMPTS)):
        found = own_rules(iptables.read(4, table, legacy=legacy))
        try:
            iptables.apply(4, table, found.lines(), legacy=legacy)
        except iptables.IptablesError:
            if not left:
                raise
        else:
            if found.chains or found.rules:
                _log.info("table %s: %d rules and %d chains removed", table, len(found.rules), len(found.chains))
            return


def remove_sets(wanted: Sequence[str]) -> None:
    """Take sets away, those first that hold others; what somebody uses stays, with a line in the log."""
    waiting = list(wanted)
    with IpsetSocket() as sets:
        while waiting:
            outcomes = dict(zip(waiting, sets.attempt([ipsets.destroy(name) for name in waiting]), strict=True))
            busy = [name for name, error in outcomes.items() if error and error.errno not in _GONE]
            if len(busy) == len(waiting):
                _log.warning("ipsets stay, for they are in use: %s", ", ".join(busy))
                return
            waiting = busy


def remove_devices(wanted: Sequence[str]) -> None:
    """Delete Weave's devices in this order, but for our own tunnel. Raises NetlinkError."""
    with RouteSocket() as host:
        for name in wanted:
            link = next((link for link in links.dump_links(host) if link.name == name), None)
            if link is None or (name == TUNNEL and not link.master):
                continue
            _delete(host, link)
            _log.info("device %s removed", name)


def _delete(host: RouteSocket, link: Link) -> None:
    if link.name == DATAPATH and link.kind == openvswitch.KIND:
        with openvswitch.GenericSocket() as generic:
            family = openvswitch.find_family(generic)
            if family is None:
                raise NetlinkError(errno.EOPNOTSUPP, "no Open vSwitch in this kernel", f"delete {link.name}")
            _tolerated(generic.attempt([openvswitch.delete_datapath(family, link.name)]))
    else:
        _tolerated(host.attempt([links.delete_link(index=link.index)]))


_GONE = (errno.ENODEV, errno.ENOENT)


def _tolerated(outcomes: Sequence[NetlinkError | None]) -> None:
    for error in outcomes:
        if error is not None and error.errno not in _GONE:
            raise error
