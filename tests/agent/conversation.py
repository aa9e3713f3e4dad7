"""A TCP connection that talks all the time: how long it was silent at most, and whether it broke."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PORT = 7000

_SERVER = """
import socket, threading
def echo(connection):
    while data := connection.recv(4096):
        connection.sendall(data)
listener = socket.create_server(("0.0.0.0", 7000))
print("ready", flush=True)
while True:
    threading.Thread(target=echo, args=(listener.accept()[0],), daemon=True).start()
"""

# Whatever comes on standard input asks for the numbers so far; its end ends the connection.
_CLIENT = """
import json, select, socket, sys, time
connection = socket.create_connection((sys.argv[1], 7000), 10)
connection.settimeout(60)
said, longest, broken, ending = 0, 0.0, "", False
while not ending:
    began = time.monotonic()
    try:
        if broken:
            raise ConnectionError(broken)
        connection.sendall(b"%015d\\n" % said)
        heard = b""
        while len(heard) < 16:
            part = connection.recv(16 - len(heard))
            if not part:
                raise ConnectionError("closed by the other side")
            heard += part
        if int(heard) != said:
            raise ConnectionError("%r in the place of %d" % (heard, said))
    except OSError as error:
        broken = str(error)
    said += 1
    longest = max(longest, time.monotonic() - began)
    wait = 0.005 if not broken else None
    if select.select([sys.stdin], [], [], wait)[0]:
        ending = not sys.stdin.readline()
        print(json.dumps({"said": said, "longest": longest, "broken": broken}), flush=True)
        longest = 0.0
"""


class Conversation:
    """The client's end of a connection between two pods."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def look(self) -> dict[str, Any]:
        """How often there was an answer (``said``), the longest wait for one in seconds since the last look, and
        what broke the connection, empty where nothing did."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("?\n")
        self._process.stdin.flush()
        return dict(json.loads(self._process.stdout.readline()))

    def goes_on(self, seconds: float = 20) -> dict[str, Any]:
        """Wait until there were further answers; the last look. Fails where the connection broke."""
        before, longest, deadline = self.look(), 0.0, time.monotonic() + seconds
        longest = before["longest"]
        while True:
            now = self.look()
            assert not now["broken"], now
            longest = max(longest, now["longest"])
            if now["said"] > before["said"] + 5:
                return {**now, "longest": longest}
            assert time.monotonic() < deadline, now
            time.sleep(0.1)


def _spawn(namespace: str, source: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        ["ip", "netns", "exec", namespace, sys.executable, "-c", source, *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


@contextmanager
def listening(namespace: str) -> Iterator[None]:
    """A server in a pod that answers what it hears."""
    process = _spawn(namespace, _SERVER)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield
    finally:
        process.kill()
        process.wait(timeout=20)


@contextmanager
def conversation(namespace: str, address: str) -> Iterator[Conversation]:
    """A connection from a pod to the server at an address."""
    process = _spawn(namespace, _CLIENT, address)
    try:
        yield Conversation(process)
    finally:
        process.kill()
        process.wait(timeout=20)
