"""Labs whose pods are containerd's sandboxes, and what there is of each: in containerd, journal and kernel."""

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.lab.test_lab import Lab, own_network
from weft.agent.status import fetch
from weft.lab import nodes, pods
from weft.lab.runtimes.containerd import pod_config
from weft.lab.runtimes.containerd.cri import Cri, CriError
from weft.lab.runtimes.containerd.daemon import PODS, socket_of
from weft.lab.state import LabState, read

MISSING = [name for name in ("containerd", "ctr", "runc", "busybox") if shutil.which(name) is None]
RUNTIME = ("--runtime", "containerd")


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    if MISSING:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(f"not installed: {', '.join(MISSING)} (scripts/setup dev)"))


@contextlib.contextmanager
def running(*options: str) -> Iterator[Lab]:
    """A lab with containerd; afterwards nothing of it is left, whatever was done to it."""
    before, made = own_network(), Lab()
    try:
        made.weft("up", *RUNTIME, *options)
        yield made
    finally:
        made.weft("down")
        assert made.left() == []
        assert inside_of(made) == []
        assert made.cgroups() == []
        assert own_network() == before


def inside_of(lab: Lab) -> list[str]:
    """What still has a node's mounts, whoever started it: shims, containers, containerd."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"/weft-lab/{lab.name}/" in (entry / "mountinfo").read_text():
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def state_of(lab: Lab) -> LabState:
    found = read(lab.name)
    assert found is not None
    return found


def until(check: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Node:
    """A node of such a lab, as its kubelet and its administrator have it."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.lab = lab
        self.state = state_of(lab)
        self.name = name
        self.folder = self.state.node_folder(name)

    def cri(self) -> Cri:
        return Cri(socket_of(self.folder))

    def execute(self, *command: str, check: bool = True) -> str:
        done = subprocess.run(
            [*nodes.enter(state_of(self.lab), self.name), *command],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0 or not check, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def processes(self, command: str) -> list[int]:
        """PIDs, as the machine sees them, of what runs on the node with this in its command line."""
        own = Path(f"/run/netns/{self.lab.name}-{self.name}").stat().st_ino
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if command in words and (entry / "ns/net").stat().st_ino == own:
                    found.append(int(entry.name))
        return found

    def agent(self) -> int:
        (found,) = self.processes(f"weft agent --node-name {self.name}")
        return found

    @contextlib.contextmanager
    def agent_away(self) -> Iterator[None]:
        """No agent, and nobody who starts it again."""
        keeper = next(pid for pid in self.processes("weft.lab.node") if pid != self.first_process())
        os.kill(keeper, signal.SIGSTOP)
        try:
            os.kill(self.agent(), signal.SIGKILL)
            yield
        finally:
            os.kill(keeper, signal.SIGCONT)

    def first_process(self) -> int:
        process = state_of(self.lab).node(self.name).process
        assert process is not None
        return process.pid

    def sandbox(self, name: str, attempt: int = 0) -> dict[str, Any]:
        """The configuration of a sandbox that only the test knows."""
        cgroup = f"/weft-lab.{self.lab.name}.{self.name}"
        return pod_config.sandbox(pods.new_pod(name, self.name, {}), attempt, PODS, cgroup)

    def journal(self) -> dict[str, str]:
        """What is attached: addresses by container ID."""
        with contextlib.closing(sqlite3.connect(self.folder / "var-lib/weft/journal.db")) as file:
            rows = file.execute("SELECT container_id, address FROM attachments").fetchall()
        return dict(rows)

    def in_containerd(self) -> dict[str, str]:
        """Addresses by sandbox, of those that are ready."""
        with self.cri() as cri:
            return {item.id: cri.sandbox_status(item.id).addresses[0] for item in cri.sandboxes() if item.ready}

    def in_kernel(self) -> dict[str, str]:
        """The address that eth0 has in each sandbox's own namespace."""
        found = {}
        with self.cri() as cri:
            names = {
                item.id: Path(cri.sandbox_status(item.id).netns).name for item in cri.sandboxes() if item.ready
            }
        for sandbox, netns in names.items():
            listed = json.loads(self.execute("ip", "-n", netns, "-j", "-4", "address", "show", "eth0"))
            found[sandbox] = listed[0]["addr_info"][0]["local"]
        return found

    def pairs(self) -> int:
        """How many host ends there are, and as many namespaces."""
        return self.execute("ip", "-o", "link").count(": vethwepl")

    def assert_all_agree(self) -> dict[str, str]:
        """containerd, the journal and the kernel have the same sandboxes with the same addresses, each its own."""
        expected = self.in_containerd()
        until(lambda: self.journal() == expected)
        assert self.in_kernel() == expected
        assert len(set(expected.values())) == len(expected)
        assert self.pairs() == len(expected)
        assert len(self.execute("ls", "/run/netns").split()) == len(expected)
        until(lambda: not self.deferred())
        until(lambda: self.reported() == len(expected))
        return expected

    def deferred(self) -> list[Path]:
        """The DELs that no agent has done yet."""
        return list((self.folder / "var-lib/weft/deletions").glob("*"))

    def reported(self) -> int:
        """How many attachments the agent says that it has; -1 where it says nothing."""
        try:
            status, body = fetch(self.state.status_socket(self.name), "/report")
        except OSError:
            return -1
        return int(json.loads(body)["ipam"]["attachments"]) if status == 200 else -1


def end_sandbox(cri: Cri, sandbox: str) -> None:
    """As a kubelet does, which tries again where containerd was too busy to speak with a shim."""
    for action in (cri.stop_sandbox, cri.remove_sandbox):
        for _ in range(10):
            try:
                action(sandbox)
                break
            except CriError as error:
                if "ttrpc: closed" not in str(error):
                    raise
                time.sleep(0.2)
        else:
            raise AssertionError(f"containerd cannot end sandbox {sandbox}")
