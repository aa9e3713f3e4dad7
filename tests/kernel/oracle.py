"""What an independent netlink library (pyroute2) makes of our messages, and what it finds in the kernel."""

import struct
from collections.abc import Callable
from typing import Any

from tests.namespaces import inside
from weft.kernel.netlink import Message


def ask(namespace: str, question: Callable[[Any], Any]) -> Any:
    """The answer to a question put to pyroute2 in a namespace."""
    from pyroute2 import IPRoute

    def visit() -> Any:
        with IPRoute() as route:
            return question(route)

    return inside(namespace, visit)


def link(namespace: str, name: str) -> Any:
    """A device as pyroute2 finds it."""
    return ask(namespace, lambda route: route.get_links(ifname=name)[0])


def decoded(message: Message, shape: Any) -> Any:
    """A message of ours as pyroute2's message class reads it."""
    data = struct.pack("=IHHII", 16 + len(message.payload), message.kind, message.flags, 1, 0) + message.payload
    found = shape(data)
    found.decode()
    return found
