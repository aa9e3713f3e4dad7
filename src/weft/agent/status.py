"""The status API: what Weave's users ask of ``127.0.0.1:6784/status``, in Weave's words.

GET /status          text; 503 until the agent serves, and while somebody has to see to the node; it says why
GET /status/ipam     who owns how much of the range
GET /status/peers    who is there
GET /status/connections    the ways to them
GET /report          all of it as JSON
GET /metrics         for Prometheus; alone on the metrics' own address
GET /healthz         200 as long as there is an agent
DELETE /peer/NAME    take a node that is gone for good out of the cluster; on the unix socket only
POST /ranges/VERB/RANGE    change the cluster's ranges (``weft.agent.range_changes``); on the unix socket only
"""

import http.server
import json
import logging
import os
import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import weft
from weft.agent.report import PAGES, NotServing, Report

_log = logging.getLogger(__name__)


def _unchangeable(verb: str, value: str) -> str:
    raise ValueError(f"{verb} {value}: the ranges cannot be changed here")


class StatusServer:
    """Serves the API on a unix socket for root and, where an address is given, on TCP."""

    def __init__(
        self,
        path: Path,
        address: tuple[str, int] | None,
        report: Callable[[], Report],
        remove: Callable[[str], str],
        metrics: tuple[str, int] | None = None,
        change_ranges: Callable[[str, str], str] = _unchangeable,
    ) -> None:
        """``report`` raises NotServing while there is nothing to tell of. ``remove`` takes a node out of the
        cluster and returns what to say; it raises whatever refuses it. So does ``change_ranges`` with a verb and
        what it is about.

        ``metrics`` is an address that serves /metrics and nothing else.
        """
        handler = _handler(report, {"DELETE peer": remove, "POST ranges": change_ranges})
        path.unlink(missing_ok=True)  # an agent that is gone has left it
        self._servers: list[socketserver.TCPServer] = [_UnixServer(str(path), handler)]
        self._threads: list[threading.Thread] = []
        path.chmod(0o600)
        if address is not None:
            self._servers.append(_TcpServer(address, handler))
        if metrics is not None:
            self._servers.append(_MetricsServer(metrics, handler))

    def start(self) -> None:
        """Serve in threads of their own."""
        for server in self._servers:
            thread = threading.Thread(
                target=server.serve_forever, kwargs={"poll_interval": 5.0}, name="status", daemon=True
            )
            thread.start()
            self._threads.append(thread)

    def close(self) -> None:
        """End the threads and let go of the sockets; requests under way are not waited for."""
        for server in self._servers[: len(self._threads)]:
            # ``shutdown`` waits for the thread's next look around, which the socket's end brings about at once. A
            # socket that is closed under a thread instead is an error to it, again and again.
            ending = threading.Thread(target=server.shutdown, daemon=True)
            ending.start()
            server.socket.shutdown(socket.SHUT_RDWR)
            ending.join()
        for thread in self._threads:
            thread.join()
        for server in self._servers:
            server.server_close()


class _Threads(socketserver.ThreadingMixIn):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        error = sys.exception()
        if isinstance(error, OSError):
            # A client that went away before its answer was ready.
            _log.debug("%s: no answer to a client of the status API", error)
        else:
            _log.error("a request to the status API failed", exc_info=error)


class _UnixServer(_Threads, socketserver.UnixStreamServer):
    """For root."""


class _TcpServer(_Threads, socketserver.TCPServer):
    """Not ``http.server.HTTPServer``, which asks DNS for the host's name: a cluster's DNS is a pod that waits for
    this agent, and nobody's answer takes 20 seconds."""

    # A restarted agent binds although connections of the last one linger.
    allow_reuse_address = True


class _MetricsServer(_TcpServer):
    """What may be open to others than this node."""


def _handler(
    report: Callable[[], Report], changes: Mapping[str, Callable[..., str]]
) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        server_version = f"weft/{weft.__version__}"
        sys_version = ""
        timeout = 10

        def do_GET(self) -> None:
            path = self.path.partition("?")[0].rstrip("/")
            try:
                self._get(path)
            except NotServing as why:
                if path == "/report":
                    self._answer(503, "application/json", why.to_json())
                else:
                    self._answer(503, "text/plain", f"not ready: {why}\n".encode())

        def _get(self, path: str) -> None:
            if path == "/metrics":
                from weft.agent.metrics import CONTENT_TYPE, exposition  # noqa: PLC0415  # only where they are read

                self._answer(200, CONTENT_TYPE, exposition(report()))
            elif isinstance(self.server, _MetricsServer):
                self._answer(404, "text/plain", b"there is /metrics only\n")
            elif path == "/healthz":
                self._answer(200, "text/plain", b"ok\n")
            elif path == "/report":
                self._answer(200, "application/json", report().to_json())
            elif path in PAGES:
                present = report()
                self._answer(200 if present.ready else 503, "text/plain", PAGES[path](present).encode())
            else:
                known = ", ".join([*PAGES, "/report", "/metrics", "/healthz"])
                self._answer(404, "text/plain", f"no page {path!r}; there are: {known}\n".encode())

        def do_DELETE(self) -> None:
            self._change("DELETE", "peer", 1, "DELETE /peer/NAME is the only one: use 'weft rmpeer'")

        def do_POST(self) -> None:
            self._change("POST", "ranges", 2, "POST /ranges/VERB/RANGE is the only one: use 'weft range'")

        def _change(self, method: str, kind: str, count: int, known: str) -> None:
            asked, *words = self.path.removeprefix("/").split("/")
            # Whoever may open the unix socket is root; of TCP nothing is known.
            if not isinstance(self.server, _UnixServer):
                self._answer(403, "text/plain", f"only on the agent's unix socket: {known}\n".encode())
            elif asked != kind or len(words) != count or not all(words):
                self._answer(404, "text/plain", f"{known}\n".encode())
            else:
                try:
                    said = changes[f"{method} {kind}"](*map(unquote, words))
                except NotServing as why:
                    self._answer(503, "text/plain", f"not ready: {why}\n".encode())
                except Exception as error:
                    self._answer(400, "text/plain", f"{error}\n".encode())
                else:
                    self._answer(200, "text/plain", f"{said}\n".encode())

        def _answer(self, code: int, kind: str, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def address_string(self) -> str:
            return self.client_address[0] if self.client_address else "unix"

        def log_message(self, format: str, *args: object) -> None:  # the base class's name
            _log.debug(format, *args)

    return Handler


def fetch_report(path: Path) -> Any:
    """All that the agent reports. Raises OSError where there is none that does."""
    code, body = fetch(path, "/report")
    if code != 200:
        raise OSError(f"{path}: {body.decode(errors='replace').strip()}")
    return json.loads(body)


def fetch(path: Path, page: str, timeout: float = 5.0, method: str = "GET") -> tuple[int, bytes]:
    """Ask the API of this node's agent: the HTTP status and the body. Raises OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        connection.connect(os.fspath(path))
        connection.sendall(f"{method} {page} HTTP/1.0\r\n\r\n".encode())
        answer = b""
        while part := connection.recv(65536):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    try:
        return int(head.split(b" ", 2)[1]), body
    except (IndexError, ValueError):
        raise OSError(f"{path}: not an HTTP answer: {head[:60]!r}") from None
