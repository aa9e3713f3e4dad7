"""``dhcp``, the plugin: with the reference's daemon and ours, in chains, and what it refuses."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.namespaces import inside, ip, network_namespace, path
from tests.plugins.dhcp_daemon import segment as module
from tests.plugins.dhcp_daemon.segment import GO_PLUGIN, SERVER, Segment, eventually, needs_reference, needs_server
from weft.kernel.namespace import NetworkNamespace
from weft.plugins import calls, registry

pytestmark = needs_server

ROUTES = ("--dhcp-option=33,172.16.0.0,10.77.0.7,192.168.3.0,10.77.0.8",)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Segment]:
    """One segment for tests that leave nothing behind, its server running."""
    with module.made(tmp_path_factory.mktemp("segment")) as found:
        found.serve(*ROUTES)
        yield found


@needs_reference
@pytest.mark.parametrize("go_daemon", [True, False], ids=["go-daemon", "weft-daemon"])
@pytest.mark.parametrize("go_plugin", [True, False], ids=["go-plugin", "weft-plugin"])
def test_plugins_and_daemons_mix(shared: Segment, go_daemon: bool, go_plugin: bool) -> None:
    """Ours with the reference's, the reference's with ours: the same result, the same lease at the server."""
    daemon = shared.daemon(go=go_daemon, name=f"{'go' if go_daemon else 'weft'}-{go_plugin}")
    network = {**shared.configuration(daemon, request=[{"option": "33"}]), "cniVersion": "1.0.0"}
    answer = shared.call("ADD", network, go=go_plugin)
    assert answer.status == 0, answer.body
    ((address, client),) = shared.leases().items()
    assert client == "c1/net/eth0"
    assert answer.body == {
        "cniVersion": "1.0.0",
        "ips": [{"address": f"{address}/24", "gateway": SERVER}],
        "routes": [
            {"dst": "172.16.0.0/16", "gw": "10.77.0.7"},
            {"dst": "192.168.3.0/24", "gw": "10.77.0.8"},
            {"dst": "0.0.0.0/0", "gw": SERVER},
        ],
        "dns": {},
    }
    # Debian's daemon acquires anew on CHECK; the address is the same.
    assert shared.call("CHECK", {**network, "prevResult": answer.body}, go=go_plugin).status == 0
    assert shared.call("GC", {**network, "cniVersion": "1.1.0"}).status == 0
    if go_daemon:
        assert set(shared.leases()) == {address}
    assert shared.call("DEL", network, go=go_plugin).status == 0
    eventually(lambda: shared.leases() == {}, "the server hears of the release")
    daemon.end()


@needs_reference
def test_options_like_the_reference(shared: Segment) -> None:
    """What a configuration provides and requests is in both clients' messages."""
    provide = [{"option": "host-name", "fromArg": "NAME"}, {"option": "60", "value": "class"}]
    request = [{"skipDefault": True, "option": "1"}, {"option": "28"}]
    seen = []
    for go in (True, False):
        daemon = shared.daemon(go=go, name=f"options-{go}")
        network = shared.configuration(daemon, provide=provide, request=request)
        before = len(shared.server_said())
        answer = shared.call("ADD", network, go=go, args="IgnoreUnknown=1;NAME=web")
        assert answer.status == 0, answer.body
        said = [line.split(" ", 2)[2] for line in shared.server_said()[before:].splitlines()]
        kept = [line for line in said if line.startswith(("requested", "vendor class", "client prov"))]
        # Debian's asks in the order of a Go map, that is, in none.
        seen.append({tuple(sorted(line.replace(",", " ").split())) for line in kept})
        assert "routes" not in answer.body
        assert shared.call("DEL", network, go=go).status == 0
        daemon.end()
    eventually(lambda: shared.leases() == {}, "both are released")
    assert seen[0] == seen[1]
    assert len(seen[0]) == 3


@pytest.mark.parametrize("command", ["ADD", "CHECK", "DEL", "STATUS"])
def test_no_daemon(shared: Segment, command: str) -> None:
    network = shared.configuration(None, daemonSocketPath=f"{shared.folder}/nobody.sock")
    answer = shared.call(command, network)
    assert answer.status == 1
    assert answer.body["code"] == (50 if command == "STATUS" else 999)
    assert f"{shared.folder}/nobody.sock: No such file or directory" in answer.body["msg"]
    if GO_PLUGIN.exists() and command in ("ADD", "DEL"):
        assert shared.call(command, network, go=True).body["code"] == 999


REFUSED: dict[str, Any] = {
    "an unknown option": {"request": [{"option": "nonsense"}]},
    "a number too large": {"provide": [{"option": "300", "value": "x"}]},
    "a value too long": {"provide": [{"option": "12", "value": "x" * 256}]},
    "an option as a number": {"provide": [{"option": 12, "value": "x"}]},
    "a priority in words": {"priority": "high"},
    "a list that is none": {"request": {"option": "3"}},
    "a path that is none": {"daemonSocketPath": 7},
}


@needs_reference
@pytest.mark.parametrize("name", REFUSED)
def test_refused_like_the_reference(shared: Segment, name: str) -> None:
    daemon = shared.daemon(name="refusing")
    network = shared.configuration(daemon, **REFUSED[name])
    ours = shared.call("ADD", network)
    assert ours.status == 1
    assert ours.body["code"] == 999
    assert "ipam" in ours.body["msg"]
    if name not in ("a priority in words",):  # Debian's does not know that key
        go = shared.call("ADD", network, go=True)
        assert (go.status, go.body["code"]) == (1, 999)
    assert shared.leases() == {}
    daemon.end()


def test_no_ipam_and_no_interface(shared: Segment) -> None:
    daemon = shared.daemon(name="without")
    answer = shared.call("ADD", {"cniVersion": "1.0.0", "name": "net", "type": "dhcp"})
    assert (answer.status, answer.body["msg"]) == (1, "IPAM config missing 'ipam' key")
    with network_namespace() as empty:
        shared.pods["empty"] = empty
        answer = shared.call("ADD", shared.configuration(daemon), "empty")
        assert answer.status == 1
        assert 'error looking up "eth0"' in answer.body["msg"]
        del shared.pods["empty"]
    daemon.end()


def test_a_namespace_whose_path_nobody_sees(shared: Segment) -> None:
    """As in an agent: the pod comes as a descriptor, its path is the host's."""
    daemon = shared.daemon(name="hidden")
    environment = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/nowhere/netns/pod",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/nowhere",
    }
    data = json.dumps(shared.configuration(daemon)).encode()

    def call() -> tuple[int, bytes]:
        with NetworkNamespace.open(path(shared.pods["pod"])) as namespace:
            return calls.answer("dhcp", environment, data, namespace, registry.find)

    status, output = inside(shared.host, call)
    assert status == 0, output
    assert json.loads(output)["ips"][0]["address"].split("/")[0] in shared.leases()
    environment = {**environment, "CNI_COMMAND": "DEL", "CNI_NETNS": ""}
    assert inside(shared.host, lambda: calls.answer("dhcp", environment, data, None, registry.find)) == (0, b"")
    eventually(lambda: shared.leases() == {}, "released, though DEL came without a namespace")
    daemon.end()


def executables(folder: Path, *ours: str) -> Path:
    """A CNI_PATH where some plugins are ours, run without an agent, and the others the reference's."""
    folder.mkdir(exist_ok=True)
    for plugin in GO_PLUGIN.parent.iterdir():
        target = folder / plugin.name
        if plugin.name in ours:
            target.write_text(f'#!/bin/sh\nexec {sys.executable} -m weft.plugins {plugin.name} "$@"\n')
            target.chmod(0o755)
        else:
            target.symlink_to(plugin)
    return folder


CHAINS: dict[str, dict[str, Any]] = {
    "bridge": {"type": "bridge", "bridge": "cni0", "isGateway": False},
    "macvlan": {"type": "macvlan", "master": "uplink"},
}


@needs_reference
@pytest.mark.parametrize("ours", [("dhcp",), ("MAIN",), ("MAIN", "dhcp")], ids=["dhcp", "main", "both"])
@pytest.mark.parametrize("kind", CHAINS)
def test_chains(tmp_path: Path, kind: str, ours: tuple[str, ...]) -> None:
    """A plugin that makes the interface and delegates to dhcp: either of them ours or the reference's."""
    with module.made(tmp_path, ()) as segment:
        segment.serve()
        # A macvlan does not reach its own master: it hangs on a cable to the bridge.
        ip(*["link", "add", "uplink", "type", "veth", "peer", "name", "port"], namespace=segment.host)
        ip(*["link", "set", "port", "master", "cni0", "up"], namespace=segment.host)
        ip(*["link", "set", "uplink", "up"], namespace=segment.host)
        _chain(segment, kind, ours)


def _chain(segment: Segment, kind: str, ours: tuple[str, ...]) -> None:
    mine = tuple(kind if name == "MAIN" else name for name in ours)
    name = f"{kind}-{'-'.join(ours)}"
    daemon = segment.daemon(name=name, go=ours == ("dhcp",))
    folder = executables(segment.folder / name, *mine)
    network = {**segment.configuration(daemon), **CHAINS[kind], "cniVersion": "1.0.0"}
    with network_namespace() as pod:

        def call(command: str, **more: Any) -> Any:
            done = subprocess.run(
                ["nsenter", f"--net={path(segment.host)}", folder / kind],
                input=json.dumps({**network, **more}).encode(),
                capture_output=True,
                timeout=60,
                check=False,
                env={
                    "PATH": os.environ["PATH"],
                    "CNI_COMMAND": command,
                    "CNI_CONTAINERID": "chained",
                    "CNI_NETNS": str(path(pod)),
                    "CNI_IFNAME": "eth0",
                    "CNI_PATH": str(folder),
                },
            )
            assert done.returncode == 0, (done.stdout, done.stderr)
            return json.loads(done.stdout) if done.stdout else None

        result = call("ADD")
        (address,) = segment.leases()
        assert result["ips"][0]["address"] == f"{address}/24"
        assert f"inet {address}/24" in ip("address", "show", "eth0", namespace=pod)
        assert f"default via {SERVER}" in ip("route", namespace=pod)
        call("CHECK", prevResult=result)
        call("DEL", prevResult=result)
        # Debian's bridge deletes the interface before it lets the lease be given back: no server hears of it.
        if kind != "bridge" or "MAIN" in ours:
            eventually(lambda: segment.leases() == {}, "released")
    daemon.end()
