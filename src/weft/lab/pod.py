"""The one process of a lab's pod. Standard library only: it runs as ``python -I -S pod.py CONTROL-SOCKET``.

TCP port 80     GET /            the address that this pod saw you come from
                GET /icmp/TOKEN  the address that an echo request with this token came from
control socket  {"targets": [[name, address], …], "timeout": seconds} → a line of JSON per target
"""

import contextlib
import json
import os
import socket
import struct
import sys
import threading
import time

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
        connection, (address, _) = listener.accept()
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
    while True:
        packet, (address, _) = raw.recvfrom(2048)
        message = packet[(packet[0] & 15) * 4 :]
        if len(message) >= 24 and message[0] == 8:
            with _seen_more:
                _seen[message[8:24].hex()] = address
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
    header = struct.pack("!BBHHH", 8, 0, 0, os.getpid() & 0xFFFF, 1)
    message = header[:2] + struct.pack("!H", checksum(header + token)) + header[4:] + token
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        deadline = time.monotonic() + timeout
        raw.sendto(message, (address, 0))
        while (left := deadline - time.monotonic()) > 0:
            raw.settimeout(left)
            packet, (sender, _) = raw.recvfrom(2048)
            reply = packet[(packet[0] & 15) * 4 :]
            if sender == address and reply[:1] == b"\0" and reply[8:24] == token:
                return token.hex()
    raise TimeoutError("timed out")


def checksum(data: bytes) -> int:
    """RFC 1071, of data of even length."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def probe(name: str, address: str, timeout: float) -> dict[str, str]:
    """What another pod saw of us, by TCP and by ICMP; or why nothing came of it."""
    verdict = {"target": name}
    try:
        verdict["tcp"] = ask(address, "/", timeout)
    except OSError as error:
        verdict["tcp_error"] = error.strerror or str(error)
    try:
        verdict["icmp"] = ask(address, "/icmp/" + ping(address, timeout), timeout)
    except OSError as error:
        verdict["icmp_error"] = error.strerror or str(error)
    return verdict


def take_orders(connection: socket.socket) -> None:
    """Probe what a controller lists, a few at a time, and report each."""
    with connection, connection.makefile("rw") as stream:
        order = json.loads(stream.readline())
        targets = list(order["targets"])
        lock = threading.Lock()

        def work() -> None:
            while True:
                with lock:
                    if not targets:
                        return
                    name, address = targets.pop()
                verdict = probe(name, address, order["timeout"])
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
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    threading.Thread(target=watch_icmp, args=(raw,), daemon=True).start()
    listener = socket.create_server(("", PORT), backlog=256)
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
