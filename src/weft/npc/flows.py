"""Cuts connections that a change of policy no longer allows, and those of addresses that changed hands.

Kubernetes leaves to implementations what becomes of connections that were made before. Here they end within
moments: the tracked flow is forgotten, and the table lets no TCP segment through that starts nothing.
"""

import logging
import socket
import threading
import time

from weft.kernel import addresses, conntrack
from weft.kernel.attributes import MalformedMessage
from weft.kernel.conntrack import ConntrackSocket, Flow
from weft.kernel.netlink import NetlinkError, RouteSocket
from weft.policy.evaluation import Evaluator, Packet
from weft.policy.model import Model

_log = logging.getLogger(__name__)

_PROTOCOLS = {socket.IPPROTO_TCP: "tcp", socket.IPPROTO_UDP: "udp", 132: "sctp"}
#: A look takes at most one part in so many of the time.
_SHARE = 10


class FlowCutter:
    """Looks through the tracked flows after changes, several at once where they come fast."""

    def __init__(self) -> None:
        """Raises OSError. Belongs to the calling thread's network namespace."""
        self._tracking, self._host = ConntrackSocket(), RouteSocket()
        self._lock = threading.Condition()
        self._model: Model | None = None
        self._moved: set[str] = set()
        self._stopping = False

    def changed(self, model: Model, moved: frozenset[str]) -> None:
        """The model that is in force now, and addresses whose flows belong to nobody."""
        with self._lock:
            self._model = model
            self._moved |= moved
            self._lock.notify()

    def run(self) -> None:
        """Cut until told to stop."""
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._model is not None or self._stopping)
                model, self._model = self._model, None
                moved, self._moved = frozenset(self._moved), set()
                if self._stopping or model is None:
                    return
            begun = time.monotonic()
            try:
                if count := self.cut(model, moved):
                    _log.info("%d connections are no longer allowed: cut", count)
            except (NetlinkError, OSError, MalformedMessage) as error:
                _log.error("connections that are no longer allowed may go on: %s", error)
            with self._lock:
                self._lock.wait_for(lambda: self._stopping, _SHARE * (time.monotonic() - begun))

    def stop(self) -> None:
        """End ``run``."""
        with self._lock:
            self._stopping = True
            self._lock.notify()

    def close(self) -> None:
        """Close the sockets."""
        self._tracking.close()
        self._host.close()

    def cut(self, model: Model, moved: frozenset[str]) -> int:
        """Forget every flow of a pod that the model does not allow; how many. Raises NetlinkError."""
        own = {str(item.interface.ip) for item in addresses.dump_addresses(self._host)}
        evaluate = Evaluator(model)
        unwanted: list[Flow] = []
        for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
            members = model.sets.get(f"isolated{version}")
            isolated = members.elements if members is not None else frozenset()
            if not isolated and not moved:
                continue
            for flow in conntrack.flows(self._tracking, family):
                ends = (flow.source, flow.destination)
                if not moved.isdisjoint(ends):
                    unwanted.append(flow)
                elif flow.source in own or isolated.isdisjoint(ends):
                    continue  # the node's own way to its pods is always open
                elif not evaluate(_first_packet(flow)).passes:
                    unwanted.append(flow)
        return conntrack.forget(self._tracking, unwanted)


def _first_packet(flow: Flow) -> Packet:
    protocol = _PROTOCOLS.get(flow.protocol)
    return Packet(
        flow.source, flow.destination, protocol or str(flow.protocol), flow.destination_port if protocol else 0
    )
