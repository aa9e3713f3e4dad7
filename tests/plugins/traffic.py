"""Packets through what plugins made: servers that tell whom they saw, clients that tell what they heard."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.namespaces import inside, ip
from tests.plugins.twins import shell

_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
#: Seconds for an answer that must come, and for one that must not.
PATIENCE = 10.0
SHORT = 0.7


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


def uplink(host: str, client: str) -> None:
    """A link from a host, 192.0.2.1 and 2001:db8::1, to a client, .2 and ::2, which sends all else to the host.

    It is in use when this returns; the kernel needs up to a second until a new device has IPv6.
    """
    ip("link", "add", "uplink", "type", "veth", "peer", "name", "eth0", "netns", client, namespace=host)
    for end, device, where in ((1, "uplink", host), (2, "eth0", client)):
        ip("address", "add", f"192.0.2.{end}/24", "dev", device, namespace=where)
        ip("address", "add", f"2001:db8::{end}/64", "dev", device, "nodad", namespace=where)
        ip("link", "set", device, "up", namespace=where)
    for gateway in ("192.0.2.1", "2001:db8::1"):
        ip("route", "add", "default", "via", gateway, namespace=client)
    deadline = time.monotonic() + 10
    while "1 received" not in shell(host, "ping -n -c 1 -W 0.2 2001:db8::2"):
        assert time.monotonic() < deadline, "the link to the client does not come up"


def ask(namespace: str, protocol: str, address: str, port: int, patience: float = PATIENCE) -> str | None:
    """What a server answers to a client in a namespace; None where there is no answer."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with opened(namespace, protocol, family) as client:
        return asked(client, address, port, patience)


def asked(client: socket.socket, address: str, port: int, patience: float = PATIENCE) -> str | None:
    """``ask`` from a socket that is there."""
    client.settimeout(patience)
    try:
        if client.type == socket.SOCK_STREAM:
            client.connect((address, port))
        else:
            client.sendto(b"?", (address, port))
        return client.recv(100).decode() or None
    except OSError:
        return None
