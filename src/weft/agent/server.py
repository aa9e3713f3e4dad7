"""The launcher's end of the agent: a unix socket, a few threads, one request per connection."""

import contextlib
import logging
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from weft.agent.wire import Request, WireError, encode_answer, receive_request

_log = logging.getLogger(__name__)

#: Requests served at the same time. Attaches wait for one kernel lock; more threads would only queue there.
WORKERS = 16
#: Seconds that a caller may take to send its request.
RECEIVE_TIMEOUT = 10.0
#: Callers that may wait for a worker.
BACKLOG = 512

_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7), SO_PEERCRED)


class LauncherServer:
    """Every worker waits in ``accept`` itself, so no request is handed from thread to thread."""

    def __init__(
        self, path: Path, handle: Callable[[Request], tuple[int, bytes]], delete: Callable[[Request, float], None]
    ) -> None:
        """``delete`` does a DEL that was asked for at a time, in seconds since the epoch."""
        self._path = path
        self._handle = handle
        self._delete = delete
        self._listener: socket.socket | None = None
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Bind the socket, in place of one that a dead agent left, and serve. Raises OSError."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        listener.bind(str(temporary))
        temporary.chmod(0o600)
        listener.listen(BACKLOG)
        # Bound under another name first: nobody ever meets a socket that does not listen yet.
        temporary.rename(self._path)
        self._listener = listener
        self._threads = [
            threading.Thread(target=self._work, args=(listener,), name=f"launcher-{number}", daemon=True)
            for number in range(WORKERS)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self, timeout: float) -> None:
        """Accept nothing more, and wait at most ``timeout`` seconds a thread for requests under way."""
        if self._listener is None:
            return
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(timeout)
        self._listener.close()

    def _work(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return  # shut down
            with connection:
                try:
                    self._serve(connection)
                except (OSError, WireError) as error:
                    _log.warning("a caller went away or sent no request: %s", error)
                except Exception:
                    _log.exception("request failed")

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(RECEIVE_TIMEOUT)
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        if _CREDENTIALS.unpack(credentials)[1] != 0:
            raise WireError("the caller is not root")
        request = receive_request(connection)
        adding = request.environment.get("CNI_COMMAND") == "ADD"
        try:
            if adding and _has_gone(connection):
                # Its runtime was told "try again later", and may have sent a DEL since.
                raise WireError("an ADD that nobody waits for any more is not begun")
            status, output = self._handle(request)
            done = time.time()
        finally:
            if request.namespace is not None:
                os.close(request.namespace)
        try:
            if adding and _has_gone(connection):
                raise WireError("an ADD that nobody waits for any more is undone")
            connection.sendall(encode_answer(status, output))
        except (OSError, WireError):
            if adding and status == 0:
                environment = {**request.environment, "CNI_COMMAND": "DEL"}
                self._delete(replace(request, environment=environment, namespace=None), done)
            raise


def _has_gone(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    return bool(poll.poll(0))
