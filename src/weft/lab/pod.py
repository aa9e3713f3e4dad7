"""The one process of a lab's pod. Standard library only: it runs as ``python -I -S pod.py CONTROL-SOCKET``.

TCP port 80     GET /            the address that this pod saw you come from
                GET /icmp/TOKEN  the address that an echo request with this token came from
control socket  {"targets": [address, …], "timeout": seconds} → a line of JSON per target
                {"serve": [[protocol, port], …]} → a line when it answers there (tcp, udp, sctp)
                {"reach": [[protocol, address, port], …], "timeout": seconds} → one list, true where it answered

SCTP is spoken on raw sockets, INIT and INIT ACK only (RFC 9260): kernels without it pass its packets all the same.

IPv4 and IPv6 alike, where the pod has both; ``reach`` speaks IPv4.
"""

import contextlib
import json
import os
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TextIO

PORT = 80
#: Echo requests that a pod remembers.
REMEMBERED = 65536
#: Probes of one pod at the same time.
AT_ONCE = 4

#: Seconds that a question for a token waits for it: the kernel answers an echo before we hear of it.
PATIENCE = 1.0

_seen: dict[str, str] = {}
_seen_more = threading.Condition()


def serve_tcp(listener: socket.socket) -> None:
    """Answer every caller with the address that it has from here."""
    while True:
        connection, sender = listener.accept()
        # A socket for both families shows IPv4 addresses as ::ffff:10.32.0.2.
        address = sender[0].removeprefix("::ffff:")
        threading.Thread(target=answer, args=(connection, address), daemon=True).start()


def answer(connection: socket.socket, address: str) -> None:
    """One HTTP request, the little of it that is needed."""
    with connection, contextlib.suppress(OSError):
        connection.settimeout(5)
        asked = connection.recv(4096).split(b" ")
        path = asked[1].decode(errors="replace") if len(asked) > 1 else "/"
        found = sender_of(path.removeprefix("/icmp/")) if path.startswith("/icmp/") else address
        status, body = ("200 OK", found) if found else ("404 Not Found", "not seen")
        head = f"HTTP/1.0 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(body) + 1}\r\n\r\n"
        connection.sendall(f"{head}{body}\n".encode())


def watch_icmp(raw: socket.socket) -> None:
    """Remember from whom echo requests came, by the token that they carry."""
    request = kinds(raw.family)[0]
    while True:
        packet, sender = raw.recvfrom(2048)
        message = message_in(raw.family, packet)
        if len(message) >= 24 and message[0] == request:
            with _seen_more:
                _seen[message[8:24].hex()] = sender[0]
                if len(_seen) > REMEMBERED:
                    _seen.pop(next(iter(_seen)))
                _seen_more.notify_all()


def sender_of(token: str) -> str | None:
    """From whom an echo request with this token came; None where none did."""
    with _seen_more:
        _seen_more.wait_for(lambda: token in _seen, PATIENCE)
        return _seen.get(token)


def ask(address: str, path: str, timeout: float) -> str:
    """GET a path of another pod. Raises OSError."""
    with socket.create_connection((address, PORT), timeout) as connection:
        connection.settimeout(timeout)
        connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        answered = b""
        while part := connection.recv(4096):
            answered += part
    return answered.rpartition(b"\r\n")[2].decode(errors="replace").strip()


def ping(address: str, timeout: float) -> str:
    """Send an echo request and wait for its reply; the token that it carried. Raises OSError."""
    token = os.urandom(16)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    request, answer_kind = kinds(family)
    header = struct.pack("!BBHHH", request, 0, 0, os.getpid() & 0xFFFF, 1)
    # The kernel fills in ICMPv6's checksum itself.
    message = header[:2] + struct.pack("!H", checksum(header + token)) + header[4:] + token
    with raw_socket(family) as raw:
        deadline = time.monotonic() + timeout
        raw.sendto(message, (address, 0))
        while (left := deadline - time.monotonic()) > 0:
            raw.settimeout(left)
            packet, sender = raw.recvfrom(2048)
            reply = message_in(family, packet)
            if sender[0] == address and reply[:1] == bytes([answer_kind]) and reply[8:24] == token:
                return token.hex()
    raise TimeoutError("timed out")


def kinds(family: int) -> tuple[int, int]:
    """The type of an echo request and of its reply (RFC 792, RFC 4443)."""
    return (128, 129) if family == socket.AF_INET6 else (8, 0)


def message_in(family: int, packet: bytes) -> bytes:
    """What a raw socket's packet carries: IPv4's come with their header, IPv6's without."""
    return packet if family == socket.AF_INET6 else packet[(packet[0] & 15) * 4 :]


def raw_socket(family: int) -> socket.socket:
    """A socket for ICMP of a family. Raises OSError."""
    protocol = socket.IPPROTO_ICMPV6 if family == socket.AF_INET6 else socket.IPPROTO_ICMP
    return socket.socket(family, socket.SOCK_RAW, protocol)


def listen(port: int) -> socket.socket:
    """A TCP listener: for both families where there are two."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, backlog=256, dualstack_ipv6=True)
    return socket.create_server(("", port), backlog=256)


def checksum(data: bytes) -> int:
    """RFC 1071, of data of even length."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def probe(address: str, timeout: float) -> dict[str, str]:
    """What another pod saw of us, by TCP and by ICMP; or why nothing came of it."""
    verdict = {"target": address}
    try:
        verdict["tcp"] = ask(address, "/", timeout)
    except OSError as error:
        verdict["tcp_error"] = error.strerror or str(error)
    try:
        verdict["icmp"] = ask(address, "/icmp/" + ping(address, timeout), timeout)
    except OSError as error:
        verdict["icmp_error"] = error.strerror or str(error)
    return verdict


_served: set[tuple[str, int]] = {("tcp", PORT)}
_serving = threading.Lock()
SCTP = 132


def serve(protocol: str, port: int) -> None:
    """Answer on a port, for good."""
    with _serving:
        if (protocol, port) in _served:
            return
        started: list[tuple[Callable[[socket.socket], None], socket.socket]] = []
        if protocol == "tcp":
            started.append((serve_tcp, listen(port)))
        for family in (socket.AF_INET, socket.AF_INET6):
            if protocol == "udp":
                bound = socket.socket(family, socket.SOCK_DGRAM)
                if family == socket.AF_INET6:
                    bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                bound.bind(("", port))
                started.append((echo, bound))
            elif protocol == "sctp" and not any(kind == "sctp" for kind, _ in _served):
                started.append((answer_sctp, socket.socket(family, socket.SOCK_RAW, SCTP)))
        for work, opened in started:
            threading.Thread(target=work, args=(opened,), daemon=True).start()
        _served.add((protocol, port))


def echo(bound: socket.socket) -> None:
    """Send every datagram back."""
    while True:
        data, sender = bound.recvfrom(2048)
        with contextlib.suppress(OSError):
            bound.sendto(data, sender)


def answer_sctp(raw: socket.socket) -> None:
    """Acknowledge every INIT to a port that is served."""
    while True:
        packet, (sender, *_) = raw.recvfrom(2048)
        message = message_in(raw.family, packet)
        if len(message) < 32 or message[12] != 1:
            continue
        source, destination = struct.unpack("!HH", message[:4])
        if ("sctp", destination) in _served:
            tag = struct.unpack("!I", message[16:20])[0]
            with contextlib.suppress(OSError):
                raw.sendto(sctp(destination, source, tag, 2), (sender, 0))


def sctp(source: int, destination: int, tag: int, kind: int) -> bytes:
    """An INIT (1) or INIT ACK (2) with its checksum."""
    chunk = struct.pack("!BBHIIHHI", kind, 0, 20, 0x57454654, 65536, 1, 1, 1)
    header = struct.pack("!HHI", source, destination, tag)
    return header + struct.pack("<I", crc32c(header + bytes(4) + chunk)) + chunk


def crc32c(data: bytes) -> int:
    """RFC 9260, appendix A."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def reach(targets: list[tuple[str, str, int]], timeout: float) -> list[bool]:
    """Try all targets at once; which of them answered in time."""
    reached = [False] * len(targets)
    waiting: dict[int, tuple[int, socket.socket]] = {}
    poll = select.epoll()
    raws = {family: socket.socket(family, socket.SOCK_RAW, SCTP) for family in (socket.AF_INET, socket.AF_INET6)}
    for raw in raws.values():
        raw.setblocking(False)
        poll.register(raw, select.EPOLLIN)
    # Our port of an SCTP probe names its place.
    base = 20000 + int.from_bytes(os.urandom(2), "big") % 30000
    for place, (protocol, address, port) in enumerate(targets):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        if protocol == "sctp":
            with contextlib.suppress(OSError):
                raws[family].sendto(sctp(base + place, port, 0, 1), (address, 0))
            continue
        one = socket.socket(family, socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM)
        one.setblocking(False)
        with contextlib.suppress(BlockingIOError, ConnectionError, OSError):
            one.connect((address, port))
            if protocol == "udp":
                one.send(b"weft")
        waiting[one.fileno()] = place, one
        poll.register(one, select.EPOLLIN if protocol == "udp" else select.EPOLLOUT)
    left, deadline = len(targets), time.monotonic() + timeout
    while left and (rest := deadline - time.monotonic()) > 0:
        for number, _ in poll.poll(rest):
            if number not in waiting:
                left -= sum(note_sctp(raw, targets, base, reached) for raw in raws.values())
                continue
            place, one = waiting.pop(number)
            left -= 1
            poll.unregister(one)
            reached[place] = one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
            one.close()
    for one in (*raws.values(), *(one for _, one in waiting.values())):
        one.close()
    poll.close()
    return reached


def note_sctp(raw: socket.socket, targets: list[tuple[str, str, int]], base: int, reached: list[bool]) -> int:
    """Note the INIT ACKs that are there; how many probes they answer."""
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            packet, (sender, *_) = raw.recvfrom(2048)
            message = message_in(raw.family, packet)
            source, own = struct.unpack("!HH", message[:4])
            place = own - base
            answers = len(message) > 12 and message[12] == 2 and 0 <= place < len(targets)
            if answers and targets[place] == ("sctp", sender, source) and not reached[place]:
                reached[place] = True
                count += 1
    return count


def take_orders(connection: socket.socket) -> None:
    """Do what a controller asks for: serve, reach, or probe what it lists, a few at a time."""
    with connection, connection.makefile("rw") as stream:
        order = json.loads(stream.readline())
        if "serve" in order or "reach" in order:
            for protocol, port in order.get("serve", ()):
                serve(protocol, port)
            targets = [(protocol, address, port) for protocol, address, port in order.get("reach", ())]
            stream.write(json.dumps(reach(targets, order["timeout"]) if targets else []) + "\n")
            return
        report_all(order, stream)


def report_all(order: dict[str, Any], stream: TextIO) -> None:
    """Probe the targets, a few at a time, and report each."""
    targets = list(order["targets"])
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                if not targets:
                    return
                address = targets.pop()
            verdict = probe(address, order["timeout"])
            with lock, contextlib.suppress(OSError):
                stream.write(json.dumps(verdict) + "\n")
                stream.flush()

    workers = [threading.Thread(target=work, daemon=True) for _ in range(AT_ONCE)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def main(control_path: str) -> None:
    """Be a pod until killed. The control socket appears when everything else is there."""
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):  # a kernel without IPv6
            threading.Thread(target=watch_icmp, args=(raw_socket(family),), daemon=True).start()
    listener = listen(PORT)
    threading.Thread(target=serve_tcp, args=(listener,), daemon=True).start()
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    os.umask(0o177)
    control.bind(control_path)
    control.listen(16)
    while True:
        connection, _ = control.accept()
        threading.Thread(target=take_orders, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main(sys.argv[1])
