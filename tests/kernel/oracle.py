"""What an independent netlink library (pyroute2) makes of our messages, and what it finds in the kernel."""

import struct
from collections.abc import Callable
from typing import Any

from tests.namespaces import inside
from weft.kernel import attributes
from weft.kernel import link_attributes as ifla
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


def same_link_request(
    message: Message, kind: str, data: dict[str, Any], more: dict[int, bytes] | None = None, **fields: Any
) -> None:
    """Assert that a message is what pyroute2 sends to make such a device, attribute by attribute.

    ``fields`` are attributes of any device by pyroute2's names (``ifname``, ``link``), ``data`` those of the kind;
    ``more`` those of the kind that pyroute2 does not know, as bytes.
    """
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

    shape = ifinfmsg()
    information: list[Any] = [["IFLA_INFO_KIND", kind]]
    if data or more:
        information.append(["IFLA_INFO_DATA", {"attrs": [[f"IFLA_{key.upper()}", data[key]] for key in data]}])
    shape["attrs"] = [(f"IFLA_{key.upper()}", value) for key, value in fields.items()]
    shape["attrs"].append(("IFLA_LINKINFO", {"attrs": information}))
    shape.encode()
    wanted, found = _layers(bytes(shape.data)[16:]), _layers(message.payload)
    wanted[-1].update(more or {})
    assert found == wanted
    # RTM_NEWLINK; NLM_F_REQUEST, NLM_F_EXCL, NLM_F_CREATE.
    assert (message.kind, message.flags) == (16, 0x1 | 0x200 | 0x400)


def _layers(payload: bytes) -> list[Any]:
    """The header of a device's message, its attributes, those of its kind, and the kind's own."""
    header, device = payload[:16], attributes.decode(payload, 16)
    information = attributes.decode(device.pop(ifla.INFORMATION))
    data = attributes.decode(information.pop(ifla.DATA, b""))
    return [header, device, information, data]
