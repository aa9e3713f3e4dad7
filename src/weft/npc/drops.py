"""Says in the log what policies drop: from whom, to whom, and which policies isolate whom."""

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from ipaddress import ip_address

from weft.kernel.netlink import NetlinkError
from weft.kernel.nflog import LoggedPacket, LogSocket
from weft.policy.compiler import Compiler
from weft.policy.objects import Direction
from weft.policy.rendering import LOG_GROUP

_log = logging.getLogger(__name__)

#: Lines a second at most; the kernel tells no more of any one set of policies either.
_LINES_A_SECOND = 10
#: IANA's numbers; 58 is ICMPv6.
_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmp", 132: "sctp"}
_WITH_PORTS = ("tcp", "udp", "sctp")

#: Asks the compiler while nothing changes.
Inspect = Callable[[Callable[[Compiler], str]], str]


class DropLog:
    """Hears the kernel's log group and says each packet in a line."""

    def __init__(self, inspect: Inspect) -> None:
        """Raises OSError. Belongs to the calling thread's network namespace."""
        self._inspect = inspect
        self._socket = LogSocket()

    def run(self, stopping: threading.Event) -> None:
        """Say what is dropped until told to stop."""
        try:
            self._socket.bind(LOG_GROUP)
        except NetlinkError as error:
            _log.error("drops cannot be logged: %s", error)
            return
        second, said, unsaid = 0, 0, 0
        while not stopping.is_set():
            for packet in self._socket.packets(0.5):
                if int(time.monotonic()) != second:
                    if unsaid:
                        _log.warning("%d more packets were dropped", unsaid)
                    second, said, unsaid = int(time.monotonic()), 0, 0
                if said < _LINES_A_SECOND:
                    said += 1
                    _log.warning("%s", self._inspect(partial(line, packet=packet)))
                else:
                    unsaid += 1

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def line(compiler: Compiler, packet: LoggedPacket) -> str:
    """What was dropped, and why."""
    source, destination, port = ends(packet.data)
    ingress = packet.prefix.startswith(f"deny/{Direction.INGRESS}/")
    isolated = compiler.owner(destination if ingress else source)
    keys = sorted(compiler.policies_of_class(packet.prefix))
    why = ", ".join(f"{namespace}/{name}" for namespace, name in keys) or "policies, its labels are unknown"
    whose = "/".join(isolated.key) if isolated else "a pod that is gone"
    return (
        f"dropped {port} from {_named(compiler, source)} to {_named(compiler, destination)}: "
        f"{'ingress' if ingress else 'egress'} of {whose} is isolated by {why}"
    )


def ends(data: bytes) -> tuple[str, str, str]:
    """Source, destination, and the port as ``tcp/80``."""
    try:
        if data[0] >> 4 == 4:
            addresses, number, rest = (data[12:16], data[16:20]), data[9], data[(data[0] & 15) * 4 :]
        else:
            addresses, number, rest = (data[8:24], data[24:40]), data[6], data[40:]
        protocol = _PROTOCOLS.get(number, f"protocol {number}")
        port = f"{protocol}/{int.from_bytes(rest[2:4], 'big')}" if protocol in _WITH_PORTS else protocol
        return str(ip_address(addresses[0])), str(ip_address(addresses[1])), port
    except (IndexError, ValueError):
        return "?", "?", "a packet"


def _named(compiler: Compiler, address: str) -> str:
    pod = compiler.owner(address)
    return f"{'/'.join(pod.key)} ({address})" if pod else address
