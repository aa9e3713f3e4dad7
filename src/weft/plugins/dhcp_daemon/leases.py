"""All leases of a daemon: calls, messages and the passing of time in; journal, sockets and answers out.

One thread works on all of them; another one only closes sockets. What must be done at a certain time is in a heap,
what came on a socket is told to ``receive``. Sockets are open during an exchange only, so that a lease that waits
costs a descriptor and no thread.
"""

import heapq
import logging
import math
import os
import socket
import time
from collections.abc import Callable, Iterable
from itertools import count

from weft.cni import CniError, PluginConfiguration
from weft.cni.environment import check_container_id, check_interface_name
from weft.dhcp import Bound, Lease, LeaseError, Lost, MalformedMessage, Message, Offered, Send, Timing
from weft.dhcp.client import Action
from weft.kernel.namespace import NetworkNamespace
from weft.plugins.dhcp_daemon import rpc
from weft.plugins.dhcp_daemon.journal import Journal, JournalError, Key, Record
from weft.plugins.dhcp_daemon.keys import DhcpIpam, DhcpSettings, Wishes, parse_wishes
from weft.plugins.dhcp_daemon.results import encode_result
from weft.plugins.dhcp_daemon.rpc import Arguments, Call, ServerConnection
from weft.plugins.dhcp_daemon.sockets import Closer, Exchange
from weft.plugins.dhcp_daemon.tenancy import (
    InterfaceGone,
    Tenancy,
    Waiting,
    identify,
    make_client,
    read_interface,
    set_up,
)
from weft.plugins.settings import read, refused

_log = logging.getLogger(__name__)

#: Entries of the heap that are out of date, per lease, before it is made anew.
_STALE = 4


class Leases:
    """``changed`` is called with a lease whose open sockets may be others than before."""

    def __init__(
        self, journal: Journal, timing: Timing, prefix: str, broadcast: bool, changed: Callable[[Tenancy], None]
    ) -> None:
        """``prefix`` goes before the paths of namespaces (the reference's -hostprefix)."""
        self._journal = journal
        self._timing = timing
        self._prefix = prefix
        self._broadcast = broadcast
        self._changed = changed
        self._closer = Closer()
        self._held: dict[Key, Tenancy] = {}
        self._expected: dict[ServerConnection, list[Tenancy]] = {}
        self._timers: list[tuple[float, int, Key]] = []
        self._numbers = count()

    # ---- What happens

    def restore(self) -> None:
        """Go on with what the journal knows. Raises JournalError."""
        for record in self._journal.records():
            try:
                self._resume(record)
            except (OSError, ValueError, InterfaceGone) as error:
                _log.warning("%s: the lease is dropped: %s", record.key, error)
                self._journal.forget(record.key)

    def call(self, connection: ServerConnection, call: Call, namespace: NetworkNamespace | None) -> None:
        """Answer a call, or remember who waits for the answer."""
        try:
            match call.method:
                case rpc.ALLOCATE:
                    self._allocate(connection, call, namespace)
                    return
                case rpc.RELEASE:
                    self._release(call.arguments)
                case rpc.COLLECT:
                    self._collect(call.arguments)
                case _:
                    raise refused(f"rpc: can't find method {call.method}")
            connection.answer(call, None)
        except CniError as error:
            connection.refuse(call, error.message)
        except (OSError, LeaseError, InterfaceGone, JournalError) as error:
            connection.refuse(call, str(error))

    def hang_up(self, connection: ServerConnection) -> None:
        """Who called has gone: a lease that only they waited for is given up."""
        for tenancy in self._expected.pop(connection, ()):
            waited = bool(tenancy.waiting)
            tenancy.waiting = [item for item in tenancy.waiting if item.connection is not connection]
            if waited and not tenancy.waiting:
                _log.info("%s: nobody waits for the lease any more", tenancy.key)
                self._give_back(tenancy)

    def receive(self, tenancy: Tenancy, ready: socket.socket) -> None:
        """Take a message from a lease's socket."""
        try:
            data = tenancy.exchange.receive(ready)
            message = None if data is None else Message.decode(data)
        except MalformedMessage as error:
            _log.info("%s: %s", tenancy.key, error)
        except OSError as error:
            # Told of by ICMP or by the interface; the next deadline tries again or ends it.
            _log.info("%s: %s", tenancy.key, error)
        else:
            if message is not None:
                self._perform(tenancy, tenancy.client.on_message(message, now()))

    def tick(self) -> float | None:
        """Do what is due; the seconds until something is, None where nothing will be."""
        while self._timers:
            deadline, _, key = self._timers[0]
            tenancy = self._held.get(key)
            if tenancy is None or tenancy.client.deadline != deadline:
                heapq.heappop(self._timers)
                continue
            if deadline > now():
                return deadline - now()
            heapq.heappop(self._timers)
            if tenancy.gone:
                _log.info("%s: the pod is gone", key)
                self._give_back(tenancy)
                continue
            self._perform(tenancy, tenancy.client.on_timer(now()))
        return None

    def close(self) -> None:
        """Let go of everything; leases stay in the journal."""
        for tenancy in self._held.values():
            tenancy.close()
        self._held.clear()
        self._closer.end()

    def __len__(self) -> int:
        return len(self._held)

    # ---- Calls

    def _allocate(self, connection: ServerConnection, call: Call, namespace: NetworkNamespace | None) -> None:
        arguments = call.arguments
        key, settings = _read(arguments)
        wishes = parse_wishes(settings, arguments.args)
        tenancy = self._held.get(key)
        if tenancy is not None and namespace is not None and tenancy.namespace.identity != namespace.identity:
            _log.warning("%s: comes with another namespace than before", key)
            self._give_back(tenancy)
            tenancy = None
        if tenancy is not None and tenancy.client.lease is not None:
            self._confirm(tenancy)
            connection.answer(call, encode_result(tenancy.client.lease, settings.priority))
            return
        first = tenancy is None
        if tenancy is None:
            tenancy = self._admit(key, arguments.netns, self._namespace(arguments.netns, namespace), wishes)
        tenancy.waiting.append(Waiting(connection, call, settings.priority))
        self._expected.setdefault(connection, []).append(tenancy)
        if first:
            _log.info("%s: acquiring a lease", key)
            self._perform(tenancy, tenancy.client.acquire(now()))

    def _release(self, arguments: Arguments) -> None:
        key, _ = _read(arguments)
        if tenancy := self._held.get(key):
            self._give_back(tenancy)

    def _collect(self, arguments: Arguments) -> None:
        """Give back the network's leases that belong to no valid attachment."""
        configuration = PluginConfiguration.from_json(arguments.configuration)
        for key, tenancy in list(self._held.items()):
            valid = (key.container_id, key.ifname) in configuration.valid_attachments
            if key.network == configuration.name and not valid:
                self._give_back(tenancy)

    def _confirm(self, tenancy: Tenancy) -> None:
        """Raise InterfaceGone, and drop the lease, where its interface is gone."""
        try:
            tenancy.check_interface()
        except InterfaceGone:
            self._drop(tenancy)
            raise

    # ---- Leases

    def _namespace(self, netns: str, given: NetworkNamespace | None) -> NetworkNamespace:
        """The namespace that came with a call, or the one at its path. Raises OSError, CniError."""
        if given is not None:
            return NetworkNamespace.from_fd(os.dup(given.fd))
        try:
            return NetworkNamespace.open(self._prefix + netns)
        except ValueError as error:
            raise refused(str(error)) from None
        except OSError as error:
            raise refused(f"failed to open netns {self._prefix + netns!r}: {error.strerror}") from None

    def _admit(self, key: Key, netns: str, namespace: NetworkNamespace, wishes: Wishes) -> Tenancy:
        """A lease without a grant yet; owns the namespace. Raises InterfaceGone, OSError."""
        try:
            interface = read_interface(namespace, key.ifname)
            if not interface.up:
                set_up(namespace, key.ifname)
        except BaseException:
            namespace.close()
            raise
        path = self._prefix + netns
        tenancy = self._held[key] = Tenancy(
            key,
            netns,
            path if identify(path) == namespace.identity else None,
            namespace,
            interface.hardware_address,
            wishes,
            make_client(key, interface, wishes, self._timing, self._broadcast),
            Exchange(namespace, key.ifname, self._closer),
        )
        return tenancy

    def _resume(self, record: Record) -> None:
        """Raises InterfaceGone, OSError and ValueError where the pod is not there as it was."""
        # By its handle it is found even where its path is not seen, as in a container.
        namespace = (
            NetworkNamespace.from_handle(record.handle)
            if record.handle
            else NetworkNamespace.open(self._prefix + record.netns)
        )
        if namespace.identity != record.identity:
            namespace.close()
            raise InterfaceGone("another namespace is in the place of the pod's")
        lease = Lease.granted(Message.decode(record.message), now() - max(time.time() - record.obtained, 0))
        tenancy = self._admit(record.key, record.netns, namespace, record.wishes)
        if tenancy.hardware_address != record.hardware_address:
            self._drop(tenancy)
            raise InterfaceGone("another interface is in the place of the pod's")
        tenancy.exchange.way = record.way
        actions = tenancy.client.resume(lease, now())
        if not record.granted:
            self._give_back(tenancy)
            return
        _log.info("%s: going on with %s", record.key, lease.address)
        self._perform(tenancy, actions)

    def _perform(self, tenancy: Tenancy, actions: Iterable[Action]) -> None:
        """Do what a client says, then set its timer."""
        try:
            for action in actions:
                match action:
                    case Send():
                        tenancy.send(action)
                    case Offered(lease):
                        self._write(tenancy, lease, granted=False)
                    case Bound(lease):
                        self._bound(tenancy, lease)
                    case Lost(reason):
                        self._lost(tenancy, reason)
        except (InterfaceGone, JournalError, LeaseError) as error:
            self._refuse(tenancy, str(error))
            if isinstance(error, InterfaceGone):
                self._drop(tenancy)
            else:
                self._give_back(tenancy)
        if self._held.get(tenancy.key) is tenancy:
            self._changed(tenancy)
            self._set_timer(tenancy)

    def _bound(self, tenancy: Tenancy, lease: Lease) -> None:
        """Raises LeaseError where the grant is of no use, JournalError."""
        answers = [(item, encode_result(lease, item.priority)) for item in tenancy.waiting]
        self._write(tenancy, lease, granted=True)
        tenancy.exchange.close()
        _log.info("%s: %s is leased for %.0f s", tenancy.key, lease.address, lease.expires_at - lease.obtained)
        tenancy.waiting = []
        for item, result in answers:
            item.connection.answer(item.call, result)

    def _lost(self, tenancy: Tenancy, reason: str) -> None:
        if tenancy.waiting:
            self._refuse(tenancy, reason)
        else:
            _log.error("%s: %s; interface %s is set down", tenancy.key, reason, tenancy.key.ifname)
            tenancy.set_down()
        self._drop(tenancy)

    def _refuse(self, tenancy: Tenancy, reason: str) -> None:
        _log.warning("%s: %s", tenancy.key, reason)
        waiting, tenancy.waiting = tenancy.waiting, []
        for item in waiting:
            item.connection.refuse(item.call, reason)

    def _give_back(self, tenancy: Tenancy) -> None:
        """Tell the server that the address is free, and forget the lease."""
        if tenancy.waiting:
            self._refuse(tenancy, "the lease was given up")
        try:
            for action in tenancy.client.release(now()):
                if isinstance(action, Send):
                    tenancy.send(action)
                    _log.info("%s: released %s", tenancy.key, action.message.client)
        except InterfaceGone as error:
            _log.warning("%s: the server is not told: %s", tenancy.key, error)
        self._drop(tenancy)

    def _drop(self, tenancy: Tenancy) -> None:
        if self._held.get(tenancy.key) is tenancy:
            del self._held[tenancy.key]
            try:
                self._journal.forget(tenancy.key)
            except JournalError as error:
                # The next start finds the pod gone, and drops the lease.
                _log.error("%s: %s", tenancy.key, error)
        tenancy.close()
        self._changed(tenancy)

    def _write(self, tenancy: Tenancy, lease: Lease, *, granted: bool) -> None:
        self._journal.write(
            Record(
                tenancy.key,
                tenancy.netns,
                tenancy.namespace.identity,
                tenancy.namespace.handle,
                tenancy.hardware_address,
                tenancy.wishes,
                granted,
                lease.acknowledgement.encode(),
                time.time(),
                tenancy.exchange.way,
            )
        )

    def _set_timer(self, tenancy: Tenancy) -> None:
        if math.isinf(tenancy.client.deadline):
            return
        heapq.heappush(self._timers, (tenancy.client.deadline, next(self._numbers), tenancy.key))
        if len(self._timers) > _STALE * (len(self._held) + 16):
            current = {(item.client.deadline, key) for key, item in self._held.items()}
            self._timers = [entry for entry in self._timers if (entry[0], entry[2]) in current]
            heapq.heapify(self._timers)


def now() -> float:
    """Seconds of a clock that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _read(arguments: Arguments) -> tuple[Key, DhcpIpam]:
    """Whose lease a call is about, and its keys. Raises CniError."""
    configuration = PluginConfiguration.from_json(arguments.configuration)
    check_container_id(arguments.container_id)
    check_interface_name(arguments.ifname)
    if not configuration.name:
        raise refused("missing network name")
    ipam = read(DhcpSettings, configuration).ipam
    if ipam is None:
        raise refused("IPAM config missing 'ipam' key")
    return Key(arguments.container_id, configuration.name, arguments.ifname), ipam
