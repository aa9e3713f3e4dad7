"""A real caller: ``ctr run --cni`` of containerd brings up containers over Weft's plugins, on a host of the test.

containerd's library is libcni, so what is proven here is what CRI and nerdctl do, too: it calls the executables,
keeps its cache, and deletes what it made; ``weft cni`` reads the same cache.
"""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.namespaces import inside, ip, network_namespace, path
from tests.nodes import cluster
from weft.cli.install import install

MISSING = [name for name in ("containerd", "ctr", "runc", "busybox", "iperf3") if shutil.which(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (scripts/setup dev)")

#: Bits per second that the container may receive and send.
LIMIT = 40_000_000
NETWORK: dict[str, Any] = {
    "cniVersion": "1.0.0",
    "name": "web",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isDefaultGateway": True,
            "ipMasq": True,
            "hairpinMode": True,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.22.0.0/24"}]]},
        },
        {
            "type": "portmap",
            "capabilities": {"portMappings": True},
            # ctr passes no capability arguments; what stands here reaches the plugin.
            "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]},
        },
        {"type": "firewall"},
        {
            "type": "bandwidth",
            "ingressRate": LIMIT,
            "ingressBurst": LIMIT // 100,
            "egressRate": LIMIT,
            "egressBurst": LIMIT // 100,
        },
    ],
}
_CONFIGURATION = """\
version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
  address = "{folder}/containerd.sock"
"""
#: Lays the test's folders over those that ctr and containerd have built in.
_ENTER = """\
mount --make-rprivate /
mkdir -p /etc/cni /opt/cni /var/lib/cni /run/containerd
for each in etc/cni opt/cni var/lib/cni run/containerd; do mount --bind {folder}/$each /$each; done
exec "$@"
"""


@dataclass
class Containers:
    """A host with a containerd. Its folders for CNI are the test's."""

    namespace: str
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    #: containerd's namespace: cgroups are named after it and the container, and are the whole machine's.
    space: str = field(default_factory=lambda: f"weft-test-{uuid4().hex[:10]}")

    def enter(self, *command: str, check: bool = True, **environment: str) -> str:
        """Run a command on the host, as an administrator would; what it printed."""
        done = subprocess.run(
            ["nsenter", f"--net={path(self.namespace)}", *_folders_of(self.folder), *command],
            capture_output=True, text=True, check=False, timeout=60,
            env={**os.environ, **self.environment, **environment},
        )  # fmt: skip
        assert done.returncode == 0 or not check, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def ctr(self, *words: str, check: bool = True) -> str:
        return self.enter("ctr", "-a", f"{self.folder}/containerd.sock", "-n", self.space, *words, check=check)

    def weft(self, *words: str) -> str:
        return self.enter(sys.executable, "-m", "weft", "cni", *words)

    def run(self, name: str, *command: str, detached: bool = False) -> str:
        """``ctr run --cni``; what the container printed."""
        how = ("--detach",) if detached else ("--rm",)
        rootfs = self.folder / "rootfs"
        return self.ctr("run", *how, "--cni", "--rootfs", str(rootfs), name, "/bin/busybox", *command)

    def pid(self, name: str) -> str:
        """The container's first process."""
        rows = [line.split() for line in self.ctr("task", "ls").splitlines()]
        return next(row[1] for row in rows if row[0] == name)

    def address(self, name: str) -> str:
        """The container's address, as containerd's library keeps it."""
        kept = self.folder / "var/lib/cni/results" / f"web-{self.space}-{name}-eth0"
        address: str = json.loads(kept.read_bytes())["result"]["ips"][0]["address"]
        return address.partition("/")[0]

    def end(self, name: str) -> None:
        self.ctr("task", "kill", "--signal", "SIGKILL", name, check=False)
        self.ctr("task", "rm", "--force", name, check=False)
        self.ctr("container", "rm", name, check=False)


@pytest.fixture(scope="module", params=["through the agent", "without an agent"])
def containers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    """A host, a containerd, and a container that serves HTTP on its port 80."""
    folder = tmp_path_factory.mktemp("containerd")
    without = request.param == "without an agent"
    _prepare(folder, without_agent=without)
    with ExitStack() as stack:
        environment: dict[str, str] = {}
        if without:
            namespace = stack.enter_context(network_namespace())
            ip("link", "set", "lo", "up", namespace=namespace)
        else:
            (node,) = stack.enter_context(cluster(folder, ("node",)))
            node.entering = _folders_of(folder)
            node.start()
            namespace = node.namespace
            environment = {"WEFT_SOCKET": str(node.socket), "WEFT_DELETIONS": str(node.folder / "deletions")}
        host = Containers(namespace, folder, environment)
        with (folder / "containerd.log").open("ab") as log:
            daemon = subprocess.Popen(
                ["nsenter", f"--net={path(namespace)}", *_folders_of(folder),
                 "containerd", "-c", str(folder / "containerd.toml")],
                stdout=log, stderr=log,
            )  # fmt: skip
        stack.callback(daemon.wait, 20)
        stack.callback(daemon.terminate)
        deadline = time.monotonic() + 20
        while not (folder / "containerd.sock").exists() or "Server" not in host.ctr("version", check=False):
            assert daemon.poll() is None and time.monotonic() < deadline, (folder / "containerd.log").read_text()
            time.sleep(0.05)
        stack.callback(host.end, "web-1")
        host.run("web-1", "httpd", "-f", "-p", "80", "-h", "/www", detached=True)
        yield host


def _folders_of(folder: Path) -> tuple[str, ...]:
    """What executes a command with the test's folders in place of the machine's."""
    return ("unshare", "--mount", "sh", "-ec", _ENTER.format(folder=folder), "sh")


def _prepare(folder: Path, *, without_agent: bool) -> None:
    for name in (
        "etc/cni/net.d",
        "opt/cni",
        "var/lib/cni",
        "run/containerd",
        "rootfs/bin",
        "rootfs/www",
        "rootfs/proc",
        "rootfs/sys",
    ):
        (folder / name).mkdir(parents=True)
    (folder / "etc/cni/net.d/10-web.conflist").write_text(json.dumps(NETWORK))
    (folder / "containerd.toml").write_text(_CONFIGURATION.format(folder=folder))
    (folder / "rootfs/www/index.html").write_text("hello\n")
    shutil.copy(shutil.which("busybox") or "", folder / "rootfs/bin/busybox")
    install(folder / "opt/cni/bin", without_agent=without_agent)


def test_http_through_the_published_port(containers: Containers) -> None:
    """From the host itself, and from another container, which containerd then takes away without a trace."""

    def fetch(url: str) -> bytes:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310
            body: bytes = answer.read()
            return body

    for url in (f"http://{containers.address('web-1')}/", "http://10.22.0.1:8080/", "http://127.0.0.1:8080/"):
        assert inside(containers.namespace, lambda url=url: fetch(url)) == b"hello\n"  # type: ignore[misc]
    (containers.folder / "etc/cni/net.d/10-web.conflist").write_text(json.dumps(_unpublished()))
    try:
        assert containers.run("client", "wget", "-q", "-O", "-", "http://10.22.0.1:8080/") == "hello\n"
    finally:
        (containers.folder / "etc/cni/net.d/10-web.conflist").write_text(json.dumps(NETWORK))
    assert not list((containers.folder / "var/lib/cni/results").glob("*client*"))
    assert "client" not in containers.enter("iptables-save")
    assert len(list((containers.folder / "var/lib/cni/networks/web").glob("10.*"))) == 1


def _unpublished() -> dict[str, Any]:
    return {**NETWORK, "plugins": [item for item in NETWORK["plugins"] if item["type"] != "portmap"]}


def test_hairpin_to_itself(containers: Containers) -> None:
    fetch = ("/bin/busybox", "wget", "-q", "-O", "-", "http://10.22.0.1:8080/")
    assert containers.ctr("task", "exec", "--exec-id", "fetch", "web-1", *fetch) == "hello\n"


@pytest.mark.parametrize("direction", ["into the container", "out of the container"])
def test_the_limit_is_felt(containers: Containers, direction: str) -> None:
    entering = ["nsenter", f"--net=/proc/{containers.pid('web-1')}/ns/net"]
    server = subprocess.Popen([*entering, "iperf3", "--server", "--one-off"], stdout=subprocess.PIPE, text=True)
    try:
        reverse = ("--reverse",) if direction == "out of the container" else ()
        deadline = time.monotonic() + 10
        while "5201" not in containers.enter(
            "nsenter", f"--net=/proc/{containers.pid('web-1')}/ns/net", "ss", "-ltn"
        ):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        said = containers.enter(
            "iperf3", "--client", containers.address("web-1"), "--time", "1", "--json", *reverse
        )
    finally:
        server.terminate()
        server.communicate(timeout=10)
    measured = json.loads(said)["end"]["sum_received"]["bits_per_second"]
    assert LIMIT / 10 < measured < LIMIT * 1.5


def test_weft_cni_knows_what_containerd_attached(containers: Containers) -> None:
    """CHECK by containerd's cache; a container that only ``weft cni`` deletes; and GC keeps what runs."""
    named = ("web", f"/proc/{containers.pid('web-1')}/ns/net", "--container-id", f"{containers.space}-web-1")
    assert containers.weft("check", *named) == ""
    assert containers.weft("gc", "web") == ""
    assert containers.weft("check", *named) == ""
    listed = json.loads(containers.weft("list", "-o", "json"))
    assert {row["error"] for row in listed["networks"][0]["plugins"]} == {""}
    containers.run("web-2", "sleep", "60", detached=True)
    try:
        assert "web-2" in containers.enter("iptables-save")
        pid = containers.pid("web-2")
        named = ("web", f"/proc/{pid}/ns/net", "--container-id", f"{containers.space}-web-2")
        assert containers.weft("del", *named) == ""
        links = subprocess.run(
            ["nsenter", f"--net=/proc/{pid}/ns/net", "ip", "-o", "link"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert "eth0" not in links
    finally:
        containers.end("web-2")
    assert "web-2" not in containers.enter("iptables-save")
    assert [file.name for file in (containers.folder / "var/lib/cni/results").iterdir()] == [
        f"web-{containers.space}-web-1-eth0"
    ]
