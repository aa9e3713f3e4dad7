"""Packets through what plugins made: servers that tell whom they saw, clients that tell what they heard."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.namespaces import inside

_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
#: Seconds for an answer; where none is due, this is waited.
_PATIENCE = 1.0


@contextmanager
def server(namespace: str, protocol: str, port: int, name: str = "") -> Iterator[None]:
    """Answers in a namespace, on every address, with ``NAME SENDER'S-ADDRESS``, until the block ends."""
    listening = opened(namespace, protocol, socket.AF_INET6)
    listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # of the one before, connections linger
    listening.bind(("::", port))
    if protocol == "tcp":
        listening.listen()
    thread = threading.Thread(target=_serve, args=(listening, protocol, name))
    thread.start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # a UDP socket is not connected, yet its reader wakes
            listening.shutdown(socket.SHUT_RDWR)
        thread.join()
        listening.close()


def _serve(listening: socket.socket, protocol: str, name: str) -> None:
    while True:
        try:
            if protocol == "tcp":
                connection, sender = listening.accept()
                with connection:
                    connection.sendall(_told(name, sender[0]))
            else:
                question, sender = listening.recvfrom(100)
                if not question:
                    return
                listening.sendto(_told(name, sender[0]), sender)
        except OSError:
            return


def _told(name: str, address: str) -> bytes:
    return f"{name} {address.removeprefix('::ffff:')}".strip().encode()


def opened(namespace: str, protocol: str, family: int = socket.AF_INET) -> socket.socket:
    """A socket of a namespace."""
    return inside(namespace, lambda: socket.socket(family, _KINDS[protocol]))


def ask(namespace: str, protocol: str, address: str, port: int) -> str | None:
    """What a server answers to a client in a namespace; None where there is no answer."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with opened(namespace, protocol, family) as client:
        return asked(client, address, port)


def asked(client: socket.socket, address: str, port: int) -> str | None:
    """``ask`` from a socket that is there."""
    client.settimeout(_PATIENCE)
    try:
        if client.type == socket.SOCK_STREAM:
            client.connect((address, port))
        else:
            client.sendto(b"?", (address, port))
        return client.recv(100).decode() or None
    except OSError:
        return None
