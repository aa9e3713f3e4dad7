"""The whole controller as a process beside an agent: attaches, what people ask, counters, drops, another start."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from tests.namespaces import inside, path, run
from tests.nodes import Node, cluster, pod
from tests.policy.clusters import policy
from weft.cli.npc import command as npc_command
from weft.cli.policy import command as policy_command
from weft.npc.client import Refused, ask

ARGS = "IgnoreUnknown=1;K8S_POD_NAMESPACE=x;K8S_POD_NAME="


class Controller:
    """``weft npc`` on a node of the tests."""

    def __init__(self, node: Node, folder: Path) -> None:
        self.node, self.folder = node, folder
        self.log = folder / "npc.log"
        self.policies = folder / "policies"
        self.policies.mkdir()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        return self.node.folder / "run" / "policy.sock"

    def start(self) -> None:
        command = [
            "nsenter", f"--net={path(self.node.namespace)}", "--", sys.executable, "-m", "weft", "npc",
            "--node-name", self.node.name, "--policy-dir", str(self.policies), "--policy-log", "true",
            "--policy-metrics", "127.0.0.1:6781", "--policy-wait", "0.2",
            "--state-dir", str(self.node.folder / "state"), "--run-dir", str(self.node.folder / "run"),
        ]  # fmt: skip
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        self.until(lambda: ask(self.socket, "status")["node"] == self.node.name)

    def until(self, look: Any) -> None:
        deadline = time.monotonic() + 15
        while True:
            try:
                if look():
                    return
            except (OSError, Refused):
                pass
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def put(self, name: str, *objects: Any) -> None:
        """Write manifests and wait until they are in force."""
        (self.policies / f"{name}.yaml").write_text(yaml.safe_dump_all(objects))
        revision = str(time.monotonic_ns())
        (self.policies / ".revision").write_text(revision)
        self.until(lambda: ask(self.socket, "status")["revision"] == revision)

    def kill(self, number: int = signal.SIGKILL) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout=20)

    def weft(self, *words: str, status: int = 0) -> str:
        done = CliRunner().invoke(policy_command, [*words, "--run-dir", str(self.socket.parent)])
        assert done.exit_code == status, done.output
        return done.output


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Controller]:
    with cluster(tmp_path, ("one",), "--expect-npc", "true") as (node,):
        made = Controller(node, tmp_path)
        try:
            yield made
        finally:
            if made.process is not None and made.process.poll() is None:
                made.kill()


def manifest(name: str, **labels: str) -> dict[str, Any]:
    return {"kind": "Pod", "metadata": {"name": name, "namespace": "x", "uid": name, "labels": labels}}


def reached(source: str, address: str) -> bool:
    try:
        inside(source, lambda: socket.create_connection((address, 80), 0.7).close())
    except TimeoutError:
        return False
    except ConnectionRefusedError:
        return True  # nobody listens, but the packet came through
    return True


def test_the_second_process(controller: Controller) -> None:
    node = controller.node
    node.start()
    allow = policy("x", "allow", podSelector={"matchLabels": {"app": "web"}}, ingress=[
        {"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}
    ])  # fmt: skip
    with pod() as web, pod() as client, pod() as other:
        # Nobody is attached before policies are in force; nothing of the attempt is left.
        status, error = node.call("ADD", "web", str(path(web)), environment={"CNI_ARGS": ARGS + "web"})
        assert (status, error["code"]) == (1, 11), error
        assert "pod x/web: no policy is in force: the policy controller at" in error["msg"]
        assert node.report()["ipam"]["attachments"] == 0
        controller.start()
        controller.put("pods", manifest("web", app="web"), manifest("client", app="client"))
        controller.put("policy", allow)
        addresses = {}
        for name, sandbox in (("web", web), ("client", client), ("other", other)):
            result = node.add(name, str(path(sandbox)), environment={"CNI_ARGS": ARGS + name})
            addresses[name] = result["ips"][0]["address"].partition("/")[0]
        assert reached(client, addresses["web"])
        assert not reached(other, addresses["web"])
        # A pod that nobody told of: its namespace has policies, so nobody reaches it.
        assert not reached(client, addresses["other"])
        _questions(controller, addresses)
        # What is dropped is said, with both ends and the policy.
        controller.until(lambda: "is isolated by x/allow" in controller.log.read_text())
        assert (
            f"dropped tcp/80 from x/other ({addresses['other']}) to x/web ({addresses['web']}): "
            "ingress of x/web is isolated by x/allow" in controller.log.read_text()
        )
        # Killed or ended, policies stay in force; its successor goes on with what is there.
        controller.kill()
        assert not reached(other, addresses["web"])
        controller.start()
        assert controller.kill(signal.SIGTERM) == 0
        assert not reached(other, addresses["web"])
        assert reached(client, addresses["web"])
        # A DEL is done although nobody answers at the gate.
        node.delete("other", str(path(other)), environment={"CNI_ARGS": ARGS + "other"})


def _questions(controller: Controller, addresses: dict[str, str]) -> None:
    listed = json.loads(controller.weft("list", "-o", "json"))
    assert [(item["name"], item["isolates"], item["pods"], item["here"]) for item in listed] == [
        ("allow", ["Ingress"], 1, 1)
    ]
    assert "x           allow   Ingress" in controller.weft("list")
    assert "ingress: x/allow" in controller.weft("show", "x/web")
    assert "its labels are not known" in controller.weft("show", "other")
    said = controller.weft("why", "client", "x/web", "--live")
    assert said.startswith(f"allowed: client ({addresses['client']}) to x/web ({addresses['web']}), tcp/80")
    assert "ingress of x/web: allowed by x/allow (ingress[0])" in said
    assert "x/allow allowed " in said
    said = controller.weft("why", addresses["other"], "web", "--port", "udp/53", status=1)
    assert "ingress of x/web: isolated by x/allow; no rule of these allows it" in said
    assert "a pod always reaches itself" in controller.weft("why", "web", "web")
    assert "no pod 'nobody'" in controller.weft("why", "nobody", "web", status=1)
    assert "write it as tcp/80" in controller.weft("why", "web", "web", "--port", "80", status=1)
    page = run("curl", "-s", "http://127.0.0.1:6781/metrics", namespace=controller.node.namespace)
    assert 'weft_policy_allowed_connections_total{direction="ingress",namespace="x",policy="allow"} ' in page
    assert 'weft_policy_dropped_packets_total{direction="ingress",policies="x/allow"} ' in page


def test_what_cannot_be_used_is_refused(tmp_path: Path) -> None:
    def npc(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(npc_command, words)
        return done.exit_code, done.output.strip()

    one = ("--node-name", "one", "--policy-dir", str(tmp_path))
    assert npc("--node-name", "one")[0] == 2
    assert npc(*one, "--policy-wait", "long")[1] == "weft npc: --policy-wait 'long': give 0 to 20 seconds"
    assert npc(*one, "--policy-unknown", "half")[1].endswith("'half': use closed or open")
    assert npc(*one, "--policy-metrics", "6781")[1].endswith("'6781': write it as 127.0.0.1:6781, or off")
    assert npc(*one, "--policy-cut", "perhaps")[0] == 2
