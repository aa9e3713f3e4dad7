"""Connections to the members of etcd, and the TLS context that they share."""

import contextlib
import socket
import ssl
import threading
from pathlib import Path

import urllib3

from weft.store.etcd_settings import Endpoint, EtcdSettings

#: Seconds after which the kernel gives up a connection whose other end is gone: a watch would wait for ever.
DEAD_AFTER = 15
_KEPT = 8
_SOCKET_OPTIONS = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_AFTER * 1000),
]


class Pools:
    """A pool of connections per member, made anew when a certificate is renewed. Safe for several threads."""

    def __init__(self, settings: EtcdSettings) -> None:
        """Raises ValueError, naming the file, for a certificate or key that cannot be used."""
        self._settings = settings
        self._lock = threading.Lock()
        self._pools: dict[Endpoint, urllib3.HTTPConnectionPool] = {}
        self._context = tls_context(settings) if settings.tls else None
        self._written = self._files_written()

    def of(self, endpoint: Endpoint) -> urllib3.HTTPConnectionPool:
        """The connections to a member."""
        written = self._files_written()
        with self._lock:
            if written != self._written:
                self._written = written
                # Files that are half written are read again when they are whole; until then the old ones serve.
                with contextlib.suppress(ValueError):
                    self._context = tls_context(self._settings)
                    self._pools.clear()
            pool = self._pools.get(endpoint)
            if pool is None:
                pool = self._pools[endpoint] = self._make(endpoint)
            return pool

    def close(self) -> None:
        """End what is idle."""
        with self._lock:
            for pool in self._pools.values():
                pool.close()
            self._pools.clear()

    def _make(self, endpoint: Endpoint) -> urllib3.HTTPConnectionPool:
        host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
        if self._context is None:
            return urllib3.HTTPConnectionPool(host, endpoint.port, maxsize=_KEPT, socket_options=_SOCKET_OPTIONS)
        return urllib3.HTTPSConnectionPool(
            host, endpoint.port, maxsize=_KEPT, socket_options=_SOCKET_OPTIONS, ssl_context=self._context
        )

    def _files_written(self) -> tuple[int, ...]:
        return tuple(map(_written_at, self._settings.tls_files))


def tls_context(settings: EtcdSettings) -> ssl.SSLContext:
    """Trust for the CA that is named (else for the machine's), and our own certificate.

    Raises ValueError, naming the file.
    """
    try:
        context = ssl.create_default_context(cafile=settings.ca)
    except (ssl.SSLError, OSError):
        raise ValueError(f"store: ca={settings.ca} holds no CA certificate: give a PEM file") from None
    if settings.cert and settings.key:
        try:
            context.load_cert_chain(settings.cert, settings.key, password=_no_password)
        except (ssl.SSLError, OSError, ValueError) as error:
            raise ValueError(
                f"store: cert={settings.cert} and key={settings.key} are no pair of a certificate and its key "
                f"in PEM without a passphrase ({error})"
            ) from None
    return context


def _no_password() -> str:
    # Without this, OpenSSL asks on the terminal.
    raise ValueError("the key has a passphrase")


def _written_at(path: str) -> int:
    try:
        return Path(path).stat().st_mtime_ns
    except OSError:
        return 0
