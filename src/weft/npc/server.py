"""The controller's socket, for root: a question and an answer, each a line of JSON."""

import logging
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

_log = logging.getLogger(__name__)

_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7), SO_PEERCRED)
_LONGEST_QUESTION = 1 << 20

Question = Mapping[str, Any]


class PolicyServer:
    """Serves questions by their ``verb``. A verb raises ValueError for a question that has no answer."""

    def __init__(self, path: Path, verbs: Mapping[str, Callable[[Question], object]]) -> None:
        path.unlink(missing_ok=True)  # a process that is gone has left it
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = path
        self._server = _Server(str(path), _handler(verbs))
        path.chmod(0o600)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 1.0}, name="policy", daemon=True
        )

    def start(self) -> None:
        """Serve in threads of its own."""
        self._thread.start()

    def close(self) -> None:
        """End; questions under way are not waited for."""
        self._path.unlink(missing_ok=True)
        self._server.shutdown()
        self._server.server_close()


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128


def _handler(verbs: Mapping[str, Callable[[Question], object]]) -> type[socketserver.StreamRequestHandler]:
    class Handler(socketserver.StreamRequestHandler):
        timeout = 30

        def handle(self) -> None:
            credentials = self.connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            if _CREDENTIALS.unpack(credentials)[1] != 0:
                return
            answer = _answered(verbs, self.rfile.readline(_LONGEST_QUESTION))
            try:
                self.wfile.write(msgspec.json.encode(answer) + b"\n")
            except OSError as error:
                _log.debug("a caller went away: %s", error)

    return Handler


def _answered(verbs: Mapping[str, Callable[[Question], object]], line: bytes) -> dict[str, object]:
    try:
        question = msgspec.json.decode(line, type=dict[str, Any])
        verb = verbs.get(str(question.get("verb")))
        if verb is None:
            raise ValueError(f"no verb {question.get('verb')!r}; there are: {', '.join(verbs)}")
        return {"answer": verb(question)}
    except (ValueError, msgspec.MsgspecError, KeyError) as error:
        return {"error": str(error)}
    except Exception as error:  # a question must not end the process, and its caller must hear of it
        _log.exception("a question failed")
        return {"error": f"{type(error).__name__}: {error}"}
