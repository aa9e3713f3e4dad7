"""Answers of etcd that are lost on their way."""

import base64
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO

from tests.store.etcd import PORT


class Thief(threading.Thread):
    """Stands before etcd and swallows some answers: the request is carried out, the connection breaks."""

    def __init__(self, host: str = "127.0.0.1", key: str = "") -> None:
        """``host`` is where etcd is, and where this is. Stolen are changes of keys that begin with ``key``."""
        super().__init__(daemon=True)
        self._host = host
        # JSON has keys in base64, of which three bytes at a time can be told.
        self._key = base64.b64encode(key.encode()[: len(key) // 3 * 3])
        self._listener = socket.create_server((host, 0))
        self.port = self._listener.getsockname()[1]
        self.steals = 0
        #: What happens between a theft and the next attempt.
        self.meanwhile: Callable[[], object] = lambda: None

    def run(self) -> None:
        while True:
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        stolen = threading.Event()
        with client, socket.create_connection((self._host, PORT)) as server, client.makefile("rb") as requests:
            answering = threading.Thread(target=self._answer, args=(server, client, stolen), daemon=True)
            answering.start()
            with suppress(OSError):
                while request := read_request(requests):
                    if self.steals and self._is_wanted(request):
                        self.steals -= 1
                        stolen.set()
                    server.sendall(request)
                server.shutdown(socket.SHUT_RDWR)
            answering.join()

    def _answer(self, server: socket.socket, client: socket.socket, stolen: threading.Event) -> None:
        with suppress(OSError):
            while answer := server.recv(1 << 16):
                if stolen.is_set():
                    self.meanwhile()
                    break
                client.sendall(answer)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)

    def _is_wanted(self, request: bytes) -> bool:
        return self._key in request and (b"request_put" in request or b"request_delete" in request)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def read_request(stream: BinaryIO) -> bytes:
    """One HTTP request, whole."""
    head = b""
    length = 0
    while (line := stream.readline()).strip():
        head += line
        name, _, value = line.partition(b":")
        length = int(value) if name.lower() == b"content-length" else length
    return head + line + stream.read(length)
