"""Nodes for tests: a namespace with an underlay, a real agent in it, and the launcher as a runtime calls it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.namespaces import ip, network_namespace, path

LAUNCHER = Path(sys.executable).parent / "weft-launcher"
CONFIGURATION = {"cniVersion": "1.0.0", "name": "weave", "type": "weave-net", "hairpinMode": True}


@dataclass
class Node:
    """One node; ``agent`` is its process while it runs, ``wire`` the namespace that it is plugged into."""

    name: str
    namespace: str
    wire: str
    folder: Path
    store: Path
    options: tuple[str, ...] = ()
    #: What executes the agent, such as unshare(1) and its options.
    entering: tuple[str, ...] = ()
    agent: subprocess.Popen[bytes] | None = None
    spawned: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def socket(self) -> Path:
        return self.folder / "run" / "cni.sock"

    @property
    def log(self) -> Path:
        return self.folder / "agent.log"

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start an agent and do not wait for it."""
        command = [
            "nsenter", f"--net={path(self.namespace)}", "--", *self.entering,
            sys.executable, "-m", "weft", "agent",
            "--node-name", self.name, "--store", f"sqlite://{self.store}", "--http-address", "off",
            "--state-dir", str(self.folder / "state"), "--run-dir", str(self.folder / "run"),
            "--cni-conf-dir", str(self.folder / "net.d"), *self.options,
        ]  # fmt: skip
        with self.log.open("ab") as log:
            self.agent = subprocess.Popen(command, stdout=log, stderr=log)
        self.spawned.append(self.agent)
        return self.agent

    def start(self) -> None:
        """Start an agent and wait until it is ready."""
        agent = self.spawn()
        deadline = time.monotonic() + 30
        while self.status() != 200:
            assert agent.poll() is None, f"agent ended with {agent.returncode}: {self.log.read_text()[-2000:]}"
            assert time.monotonic() < deadline, self.log.read_text()[-2000:]
            time.sleep(0.02)

    def status(self) -> int:
        from weft.agent.status import fetch

        try:
            return fetch(self.folder / "run" / "status.sock", "/status")[0]
        except OSError:
            return 0

    def report(self) -> Any:
        from weft.agent.status import fetch

        return json.loads(fetch(self.folder / "run" / "status.sock", "/report")[1])

    def kill(self, number: int = signal.SIGKILL) -> int:
        """End the agent with a signal; its exit status."""
        assert self.agent is not None
        self.agent.send_signal(number)
        return self.agent.wait(timeout=20)

    def call(
        self,
        command: str,
        container: str,
        netns: str,
        configuration: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        ifname: str = "eth0",
    ) -> tuple[int, Any]:
        """Call the plugin through the launcher: exit status and what it printed."""
        done = subprocess.run(
            ["weave-net"],
            executable=LAUNCHER,
            input=json.dumps(configuration or CONFIGURATION).encode(),
            capture_output=True,
            timeout=60,
            check=False,
            env={
                "CNI_COMMAND": command,
                "CNI_CONTAINERID": container,
                "CNI_NETNS": netns,
                "CNI_IFNAME": ifname,
                "CNI_PATH": "/opt/cni/bin",
                "WEFT_SOCKET": str(self.socket),
                "WEFT_DELETIONS": str(self.folder / "state" / "deletions"),
                "PATH": os.environ["PATH"],
                **(environment or {}),
            },
        )
        return done.returncode, json.loads(done.stdout) if done.stdout else None

    def add(self, container: str, netns: str, **more: Any) -> Any:
        """ADD that must succeed; the result."""
        status, result = self.call("ADD", container, netns, **more)
        assert status == 0, result
        return result

    def delete(self, container: str, netns: str = "", **more: Any) -> None:
        """DEL that must succeed."""
        status, result = self.call("DEL", container, netns, **more)
        assert status == 0, result


@contextmanager
def cluster(folder: Path, names: tuple[str, ...], *options: str) -> Iterator[list[Node]]:
    """Nodes on one wire, their agents not started; everything is ended and removed with the block."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        wire = stack.enter_context(network_namespace())
        ip("link", "add", "wire", "type", "bridge", namespace=wire)
        ip("link", "set", "wire", "up", namespace=wire)
        ip("address", "add", "172.25.1.1/24", "dev", "wire", namespace=wire)
        nodes = []
        for number, name in enumerate(names):
            namespace = stack.enter_context(network_namespace())
            ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", namespace, namespace=wire)
            ip("link", "set", name, "master", "wire", "up", namespace=wire)
            for command in (
                "link set lo up",
                "link set eth0 up",
                f"address add 172.25.1.{number + 2}/24 dev eth0",
                "route add default via 172.25.1.1",
            ):
                ip(*command.split(), namespace=namespace)
            home = folder / name
            home.mkdir()
            node = Node(name, namespace, wire, home, folder / "store.db", options)
            stack.callback(_end, node)
            nodes.append(node)
        yield nodes


def _end(node: Node) -> None:
    for agent in node.spawned:
        if agent.poll() is None:
            agent.kill()
        agent.wait(timeout=20)


@contextmanager
def beginner(node: Node, name: str, *options: str) -> Iterator[Node]:
    """An agent in a node's namespace that has not run there before."""
    folder = node.folder / name
    folder.mkdir()
    made = Node(node.name, node.namespace, node.wire, folder, node.store, options)
    agent = made.spawn()
    try:
        yield made
    finally:
        agent.kill()
        agent.wait(20)


@contextmanager
def pod() -> Iterator[str]:
    """An empty sandbox; its namespace's name."""
    with network_namespace() as name:
        ip("link", "set", "lo", "up", namespace=name)
        yield name
