"""The DHCP daemon in the agent: leases through the launcher, kept over a restart of the agent."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

from tests.namespaces import network_namespace, path
from tests.nodes import LAUNCHER, Node, cluster
from tests.plugins.dhcp_daemon import segment as module
from tests.plugins.dhcp_daemon.segment import eventually, needs_server

NETWORK = {"cniVersion": "1.1.0", "name": "lan", "type": "dhcp", "ipam": {"type": "dhcp"}}


def call(node: Node, command: str, netns: str) -> Any:
    """Call the plugin through the launcher; what it printed."""
    done = subprocess.run(
        ["dhcp"],
        executable=LAUNCHER,
        input=json.dumps(NETWORK).encode(),
        capture_output=True,
        timeout=60,
        check=False,
        env={
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": "c1",
            "CNI_NETNS": netns,
            "CNI_IFNAME": "eth0",
            "CNI_PATH": "/opt/cni/bin",
            "WEFT_SOCKET": str(node.socket),
            "WEFT_DELETIONS": str(node.folder / "state" / "deletions"),
            "PATH": os.environ["PATH"],
        },
    )
    assert done.returncode == 0, (done.stdout, node.log.read_text()[-2000:])
    return json.loads(done.stdout) if done.stdout else None


@needs_server
def test_leases_outlive_the_agent(tmp_path: Path) -> None:
    with cluster(tmp_path, ("node",)) as (node,), module.made(tmp_path) as segment:
        segment.serve("--dhcp-option-force=58,3s")
        node.start()
        pod = str(path(segment.pods["pod"]))
        result = call(node, "ADD", pod)
        segment.give("pod", result)
        assert (node.folder / "run" / "dhcp.sock").stat().st_mode & 0o777 == 0o600
        node.kill(signal.SIGKILL)
        acknowledged = segment.server_said().count("DHCPACK(")
        node.start()
        eventually(lambda: segment.server_said().count("DHCPACK(") > acknowledged, "renewed by the new agent")
        assert call(node, "ADD", pod) == result
        call(node, "DEL", pod)
        eventually(lambda: segment.leases() == {}, "released by the new agent")
        assert node.kill(signal.SIGTERM) == 0
        assert not (node.folder / "run" / "dhcp.sock").exists()


@needs_server
def test_an_agent_without_leases(tmp_path: Path) -> None:
    with cluster(tmp_path, ("node",), "--dhcp-socket", "off") as (node,), network_namespace() as pod:
        node.start()
        assert not (node.folder / "run" / "dhcp.sock").exists()
        configuration = {**NETWORK, "ipam": {"type": "dhcp", "daemonSocketPath": str(tmp_path / "none.sock")}}
        status, answer = node.call("ADD", "c1", str(path(pod)), configuration)
        assert status == 1
        assert answer
