"""The daemon's loop: one thread for the callers' sockets, the leases' sockets and the timers."""

import contextlib
import logging
import os
import resource
import selectors
import socket
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weft.dhcp import Timing
from weft.kernel.namespace import NetworkNamespace
from weft.plugins.dhcp_daemon import rpc
from weft.plugins.dhcp_daemon.gob import GobError
from weft.plugins.dhcp_daemon.journal import Journal
from weft.plugins.dhcp_daemon.leases import Leases
from weft.plugins.dhcp_daemon.tenancy import Tenancy

_log = logging.getLogger(__name__)

_BACKLOG = 512
#: Seconds that a daemon which is there takes to greet.
_PROBE_TIMEOUT = 2.0
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7), SO_PEERCRED)
#: The first descriptor that systemd passes (sd_listen_fds(3)).
_FIRST_PASSED = 3


class DaemonError(Exception):
    """The daemon cannot start; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class DaemonSettings:
    """Where the daemon listens and writes; ``prefix`` goes before the paths of namespaces.

    ``broadcast``: servers are asked to answer by broadcast.
    """

    socket_path: Path
    journal: Path
    prefix: str = ""
    broadcast: bool = False
    timing: Timing = field(default_factory=Timing)


@dataclass(slots=True)
class _Caller:
    """One connection; ``namespace`` is the one that came with it."""

    socket: socket.socket
    wire: rpc.ServerConnection
    namespace: NetworkNamespace | None = None


class Daemon:
    """Made and ``run`` by one thread, told to ``stop`` by any."""

    def __init__(self, settings: DaemonSettings, listener: socket.socket | None = None) -> None:
        """Bind the socket, or take the ``listener``, and open the journal; callers wait until ``run``.

        Raises DaemonError, JournalError, OSError.
        """
        self._settings = settings
        self._journal = Journal(settings.journal)
        self._bound = listener is None
        try:
            self._listener = _listen(settings.socket_path) if listener is None else listener
        except BaseException:
            self._journal.close()
            raise
        self._listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._stopping = False
        self._callers: list[_Caller] = []
        #: The sockets of each lease that are watched.
        self._watched: dict[int, list[socket.socket]] = {}
        self._leases = Leases(self._journal, settings.timing, settings.prefix, settings.broadcast, self._watch)

    def run(self) -> None:
        """Serve until told to stop; the leases stay. Raises JournalError."""
        _allow_descriptors()
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        try:
            self._leases.restore()
            _log.info("serving at %s, %d leases kept", self._settings.socket_path, len(self._leases))
            while not self._stopping:
                wait = self._leases.tick()
                self._answer_all()
                for key, _ in self._selector.select(wait):
                    self._handle(key.fileobj, key.data)
        finally:
            self._close()

    def stop(self) -> None:
        """End ``run`` soon. Safe in a signal handler."""
        self._stopping = True
        with contextlib.suppress(OSError):
            self._waker.send(b"\0")

    # ---- Callers

    def _handle(self, ready: Any, what: Any) -> None:
        if isinstance(what, Tenancy):
            if ready in self._watched.get(id(what), ()):
                self._leases.receive(what, ready)
        elif isinstance(what, _Caller):
            self._read(what)
        elif ready is self._listener:
            self._accept()
        self._answer_all()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError as error:
            _log.warning("a caller went away: %s", error)
            return
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        if _CREDENTIALS.unpack(credentials)[1] not in (0, os.geteuid()):
            _log.warning("a caller is not root")
            connection.close()
            return
        connection.setblocking(False)
        caller = _Caller(connection, rpc.ServerConnection())
        self._callers.append(caller)
        self._selector.register(connection, selectors.EVENT_READ, caller)

    def _read(self, caller: _Caller) -> None:
        try:
            data, descriptors = rpc.receive(caller.socket)
            self._take(caller, descriptors)
            if not data:
                self._hang_up(caller)
                return
            for call in caller.wire.feed(data):
                self._leases.call(caller.wire, call, caller.namespace)
        except BlockingIOError:
            return
        except (OSError, GobError) as error:
            _log.warning("a caller is cut off: %s", error)
            self._hang_up(caller)

    def _take(self, caller: _Caller, descriptors: list[int]) -> None:
        """Keep the one namespace that a caller passes."""
        for number, descriptor in enumerate(descriptors):
            if number or caller.namespace is not None:
                os.close(descriptor)
                continue
            try:
                caller.namespace = NetworkNamespace.from_fd(descriptor)
            except ValueError as error:
                raise GobError(str(error)) from None

    def _answer_all(self) -> None:
        """Send callers what there is for them."""
        for caller in [item for item in self._callers if item.wire.outgoing]:
            try:
                sent = caller.socket.send(caller.wire.outgoing)
                del caller.wire.outgoing[:sent]
            except BlockingIOError:
                pass
            except OSError:
                self._hang_up(caller)
                continue
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if caller.wire.outgoing else 0)
            self._selector.modify(caller.socket, wanted, caller)

    def _hang_up(self, caller: _Caller) -> None:
        self._callers.remove(caller)
        self._selector.unregister(caller.socket)
        caller.socket.close()
        if caller.namespace is not None:
            caller.namespace.close()
        self._leases.hang_up(caller.wire)

    # ---- Leases

    def _watch(self, tenancy: Tenancy) -> None:
        """Watch a lease's open sockets, and those only."""
        watched, wanted = self._watched.pop(id(tenancy), []), tenancy.exchange.sockets
        for item in watched:
            if item not in wanted:
                self._selector.unregister(item)
        for item in wanted:
            if item not in watched:
                self._selector.register(item, selectors.EVENT_READ, tenancy)
        if wanted:
            self._watched[id(tenancy)] = wanted

    def _close(self) -> None:
        if self._bound:
            with contextlib.suppress(FileNotFoundError):
                self._settings.socket_path.unlink()
        for caller in self._callers:
            caller.socket.close()
        self._leases.close()
        self._selector.close()
        for item in (self._listener, self._woken, self._waker):
            item.close()
        self._journal.close()


def passed_listener() -> socket.socket | None:
    """The socket that systemd passes (sd_listen_fds(3)), None without one. Raises DaemonError for several."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    text = os.environ.get("LISTEN_FDS", "")
    if text in ("", "0"):
        return None
    if text != "1":
        raise DaemonError(f"LISTEN_FDS={text}: pass one socket, in the unit's ListenStream=")
    try:
        return socket.socket(fileno=_FIRST_PASSED)
    except OSError as error:
        raise DaemonError(f"LISTEN_FDS=1, but descriptor {_FIRST_PASSED} is no socket: {error.strerror}") from None


def _listen(path: Path) -> socket.socket:
    """Listen there, in place of a socket that a dead daemon left. Raises DaemonError where one lives, OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking, contextlib.suppress(OSError):
        asking.settimeout(_PROBE_TIMEOUT)
        asking.connect(str(path))
        raise DaemonError(f"another DHCP daemon listens at {path}: stop it, or give another -socketpath")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        listener.bind(str(temporary))
        temporary.chmod(0o600)
        listener.listen(_BACKLOG)
        # Bound under another name first: nobody ever meets a socket that does not listen yet.
        temporary.rename(path)
    except OSError as error:
        listener.close()
        raise DaemonError(f"cannot listen at {path}: {error.strerror or error}") from None
    return listener


def _allow_descriptors() -> None:
    """As many open files as may be: every lease holds its pod's namespace."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
