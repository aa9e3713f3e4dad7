"""The sockets that the server listens on: TCP with TLS or without, and Unix."""

import contextlib
import http.server
import logging
import socket
import socketserver
import ssl
from typing import Any

_log = logging.getLogger(__name__)

Handler = type[http.server.BaseHTTPRequestHandler]


def listener(address: tuple[str, int] | str, handler: Handler, tls: ssl.SSLContext | None) -> "Listener":
    """A listener on a TCP address, or on a Unix socket where the address is a path. Raises OSError."""
    return (UnixListener if isinstance(address, str) else Listener)(address, handler, tls)


class Listener(http.server.ThreadingHTTPServer):
    """A thread per connection; all of them can be closed at once."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 256

    def __init__(self, address: tuple[str, int] | str, handler: Handler, tls: ssl.SSLContext | None) -> None:
        self._tls = tls
        self._open: set[socket.socket] = set()
        super().__init__(address, handler)  # type: ignore[arg-type]  # a path, where it is Unix's

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection to its end; a thread of its own does."""
        if self._tls is not None:
            try:
                request = self._tls.wrap_socket(request, server_side=True)
            except (OSError, ValueError) as error:
                _log.debug("no TLS: %s", error)
                return
        self._open.add(request)
        try:
            super().finish_request(request, client_address)
        finally:
            self._open.discard(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is none."""
        _log.debug("a client went away", exc_info=True)

    def close_connections(self) -> None:
        """End every connection."""
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class UnixListener(Listener):
    """On a path that must be free."""

    address_family = socket.AF_UNIX

    def server_bind(self) -> None:
        """Without the look at host names that HTTP's own does."""
        socketserver.TCPServer.server_bind(self)
