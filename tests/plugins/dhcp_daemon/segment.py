"""A network segment with a DHCP server (dnsmasq) and pods, and the daemons that get leases there.

The host is a namespace with a bridge, on which the server listens; each pod is a namespace with an ``eth0`` on the
bridge, without an address.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.namespaces import inside, ip, network_namespace, path
from weft.kernel.namespace import NetworkNamespace
from weft.plugins import calls, registry

GO_PLUGIN = Path("/usr/lib/cni/dhcp")
SERVER = "10.77.0.1"
_PATIENCE = 20.0
_LOOK = 0.02

needs_server = pytest.mark.skipif(not shutil.which("dnsmasq"), reason="dnsmasq is not installed (dnsmasq-base)")
needs_reference = pytest.mark.skipif(
    not GO_PLUGIN.exists(), reason="the reference plugins are not installed (Debian: containernetworking-plugins)"
)


def eventually(look: Callable[[], bool], what: str) -> None:
    """Look again and again until it is so."""
    end = time.monotonic() + _PATIENCE
    while not look():
        assert time.monotonic() < end, f"not within {_PATIENCE:g} s: {what}"
        time.sleep(_LOOK)


@dataclass
class Daemon:
    """A running daemon, ours or the reference's."""

    socket: Path
    log: Path
    process: subprocess.Popen[bytes]

    def said(self) -> str:
        """What it logged."""
        return self.log.read_text()

    def end(self, kill: bool = False) -> None:
        """Stop it, or kill it."""
        if self.process.poll() is None:
            self.process.kill() if kill else self.process.terminate()
        self.process.wait(30)


@dataclass
class Answer:
    """What a plugin printed, and its exit status."""

    status: int
    body: Any


@dataclass
class Segment:
    """The host's namespace, its folder, and what runs there."""

    host: str
    folder: Path
    stack: ExitStack
    pods: dict[str, str] = field(default_factory=dict)
    server: subprocess.Popen[bytes] | None = None

    # ---- The server

    def serve(self, *options: str, first: int = 10, reset: bool = False) -> None:
        """Start the server, with addresses from 10.77.0.``first``; ``reset`` makes it forget its leases."""
        if reset:
            self.leases_file.unlink(missing_ok=True)
        command = [
            "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--interface=cni0",
            "--except-interface=lo", "--bind-interfaces", "--no-ping", "--user=root", "--pid-file=", "--log-dhcp",
            "--log-facility=-", "--dhcp-authoritative", f"--dhcp-leasefile={self.leases_file}",
            f"--dhcp-range=10.77.0.{first},10.77.0.{first + 50},255.255.255.0,120", *options,
        ]  # fmt: skip
        with (self.folder / "dnsmasq.log").open("ab") as log:
            self.server = subprocess.Popen(
                ["nsenter", f"--net={path(self.host)}", *command], stdout=log, stderr=subprocess.STDOUT
            )
        self.stack.callback(self.stop_serving, self.server)
        count = self.server_said().count("started, version")
        eventually(lambda: self.server_said().count("sockets bound exclusively") > 0 or count > 0, "dnsmasq")
        eventually(lambda: ":67 " in self.look("ss", "-lun"), "dnsmasq listens")

    def stop_serving(self, server: subprocess.Popen[bytes] | None = None) -> None:
        """Stop the server."""
        running = server or self.server
        if running is not None and running.poll() is None:
            running.terminate()
            running.wait(30)

    @property
    def leases_file(self) -> Path:
        return self.folder / "dnsmasq.leases"

    def leases(self) -> dict[str, str]:
        """What the server thinks is leased: the client's identifier, as text, by address."""
        with contextlib.suppress(FileNotFoundError):
            lines = [line.split() for line in self.leases_file.read_text().splitlines()]
            return {
                item[2]: bytes.fromhex(item[4].replace(":", "")).lstrip(b"\0").decode(errors="replace")
                for item in lines
                if len(item) == 5 and item[4] != "*"
            }
        return {}

    def server_said(self) -> str:
        """What the server logged."""
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / "dnsmasq.log").read_text()
        return ""

    # ---- Pods

    def add_pod(self, name: str) -> str:
        """A pod with a cable to the bridge."""
        namespace = self.pods[name] = self.stack.enter_context(network_namespace())
        ip(
            "link",
            "add",
            f"v-{name}",
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            namespace,
            namespace=self.host,
        )
        ip("link", "set", f"v-{name}", "master", "cni0", "up", namespace=self.host)
        return namespace

    def give(self, pod: str, body: Any) -> None:
        """Give a pod's interface the address of a result, as the plugin that made it would."""
        ip("address", "add", body["ips"][0]["address"], "dev", "eth0", namespace=self.pods[pod])

    def is_up(self, pod: str) -> bool:
        """Whether a pod's interface is up."""
        (link,) = json.loads(ip("-j", "link", "show", "eth0", namespace=self.pods[pod]))
        return "UP" in link["flags"]

    def look(self, *command: str) -> str:
        """What a command prints on the host."""
        return subprocess.run(
            ["nsenter", f"--net={path(self.host)}", *command],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        ).stdout

    # ---- Daemons and plugins

    def daemon(self, *options: str, name: str = "dhcp", go: bool = False, prefix: Path | None = None) -> Daemon:
        """Start a daemon of ours, or the reference's; with a ``prefix`` all its paths are below that."""
        base = prefix or self.folder
        inner = Path("/") if prefix else self.folder
        socket, log = base / f"{name}.sock", self.folder / f"{name}.log"
        command = [str(GO_PLUGIN), "daemon"]
        if not go:
            command = [sys.executable, "-m", "weft.plugins", "dhcp", "daemon", "-statedir", str(inner / "state")]
        command += ["-socketpath", str(inner / f"{name}.sock"), *options]
        command += ["-hostprefix", str(prefix)] if prefix else []
        # A daemon that was killed leaves its socket.
        before = log.read_text().count("serving at") if log.exists() else 0
        with log.open("ab") as file:
            process = subprocess.Popen(
                ["nsenter", f"--net={path(self.host)}", *command], stdout=file, stderr=subprocess.STDOUT
            )
        daemon = Daemon(socket, log, process)
        self.stack.callback(daemon.end)

        def listens() -> bool:
            ready = socket.exists() if go else daemon.said().count("serving at") > before
            return ready or process.poll() is not None

        eventually(listens, "the daemon listens")
        assert process.poll() is None, daemon.said()
        return daemon

    def configuration(self, daemon: Daemon | None = None, **ipam: Any) -> dict[str, Any]:
        """A network whose addresses come from the server."""
        where = {} if daemon is None else {"daemonSocketPath": str(daemon.socket)}
        return {
            "cniVersion": "1.1.0",
            "name": "net",
            "type": "dhcp",
            "ipam": {"type": "dhcp", **where, **ipam},
        }

    def call(
        self,
        command: str,
        configuration: dict[str, Any],
        pod: str | None = "pod",
        container: str = "c1",
        go: bool = False,
        args: str = "",
    ) -> Answer:
        """Call the plugin, ours or the reference's, from the host."""
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": str(path(self.pods[pod])) if pod else "",
            "CNI_IFNAME": "eth0",
            "CNI_ARGS": args,
            "CNI_PATH": str(GO_PLUGIN.parent),
        }
        if go:
            configuration = {**configuration, "cniVersion": "1.0.0"}  # the newest that Debian's knows
        data = json.dumps(configuration).encode()
        if go:
            done = subprocess.run(
                ["nsenter", f"--net={path(self.host)}", GO_PLUGIN],
                input=data,
                capture_output=True,
                timeout=60,
                check=False,
                env={**environment, "PATH": os.environ["PATH"]},
            )
            status, output = done.returncode, done.stdout
        else:

            def work() -> tuple[int, bytes]:
                namespace = NetworkNamespace.open(environment["CNI_NETNS"]) if pod else None
                return calls.answer("dhcp", environment, data, namespace, registry.find)

            status, output = inside(self.host, work)
        return Answer(status, json.loads(output) if output.strip() else None)

    def add(self, configuration: dict[str, Any], pod: str = "pod", **more: Any) -> Any:
        """ADD, which must succeed; the result, which the interface is given."""
        answer = self.call("ADD", configuration, pod, **more)
        assert answer.status == 0, answer.body
        self.give(pod, answer.body)
        return answer.body


@contextmanager
def made(folder: Path, pods: Sequence[str] = ("pod",)) -> Iterator[Segment]:
    """A segment with pods, removed with the block; the server is not started yet."""
    with ExitStack() as stack:
        segment = Segment(stack.enter_context(network_namespace()), folder, stack)
        for command in (
            "link set lo up",
            "link add cni0 type bridge forward_delay 0",
            f"address add {SERVER}/24 dev cni0",
            "link set cni0 up",
        ):
            ip(*command.split(), namespace=segment.host)
        for name in pods:
            segment.add_pod(name)
        yield segment
