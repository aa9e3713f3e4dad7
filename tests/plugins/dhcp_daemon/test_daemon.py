"""The daemon against a real server: what it gets, how it keeps it, what it survives."""

import json
import signal
import socket
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.namespaces import ip, path
from tests.plugins.dhcp_daemon.segment import SERVER, Segment, eventually, needs_server
from weft.kernel.namespace import NetworkNamespace
from weft.plugins import calls, registry
from weft.plugins.dhcp_daemon import rpc

pytestmark = needs_server

CLIENT = "c1/net/eth0"
#: The server lets clients renew every three seconds; it takes no less.
BRISK = ("--dhcp-option-force=58,3s", "--dhcp-option-force=59,100s")


def renewals(segment: Segment) -> int:
    return segment.server_said().count("DHCPACK(")


def journaled(segment: Segment) -> list[tuple[str, int]]:
    (file,) = (segment.folder / "state").glob("*.db")
    connection = sqlite3.connect(file)
    try:
        return connection.execute("SELECT container_id, granted FROM leases ORDER BY 1").fetchall()
    finally:
        connection.close()


def test_a_lease_from_add_to_del(segment: Segment) -> None:
    segment.serve(
        "--dhcp-option=6,10.77.0.2,10.77.0.3", "--domain=pods.example", "--dhcp-option=119,a.example,b.c"
    )
    network = segment.configuration(segment.daemon(), priority=7)
    result = segment.add(network)
    (address,) = segment.leases()
    assert segment.leases() == {address: CLIENT}
    assert result == {
        "cniVersion": "1.1.0",
        "ips": [{"address": f"{address}/24", "gateway": SERVER}],
        "routes": [{"dst": "0.0.0.0/0", "gw": SERVER, "priority": 7}],
        "dns": {
            "nameservers": ["10.77.0.2", "10.77.0.3"],
            "domain": "pods.example",
            "search": ["a.example", "b.c"],
        },
    }
    assert segment.is_up("pod")
    assert segment.call("STATUS", network).status == 0
    assert segment.call("CHECK", network).status == 0
    assert segment.call("ADD", network).body == result  # the same lease, as with the reference
    assert renewals(segment) == 1
    assert segment.call("DEL", network).status == 0
    eventually(lambda: segment.leases() == {}, "the server hears of the release")
    assert segment.call("DEL", network).status == 0
    assert journaled(segment) == []


def test_classless_routes_are_all_there_are(segment: Segment) -> None:
    segment.serve("--dhcp-option=121,0.0.0.0/0,10.77.0.9,192.168.7.0/25,10.77.0.8,10.9.0.0/16,0.0.0.0")
    daemon = segment.daemon()
    result = segment.add(segment.configuration(daemon, request=[{"option": "121"}]))
    assert result["ips"][0]["gateway"] == SERVER
    assert result["routes"] == [
        {"dst": "0.0.0.0/0", "gw": "10.77.0.9"},
        {"dst": "192.168.7.0/25", "gw": "10.77.0.8"},
        {"dst": "10.9.0.0/16", "gw": "0.0.0.0", "scope": 253},
    ]
    # Who does not ask for them does not get them.
    assert segment.call("ADD", segment.configuration(daemon), container="c2").body["routes"] == [
        {"dst": "0.0.0.0/0", "gw": SERVER}
    ]


def test_options_reach_the_server(segment: Segment) -> None:
    segment.serve()
    provide = [
        {"option": "host-name", "value": "nobody", "fromArg": "K8S_POD_NAME"},
        {"option": "vendor-class-identifier", "value": "weft"},
        {"option": "60", "fromArg": "ABSENT"},
    ]
    network = segment.configuration(segment.daemon(), provide=provide)
    segment.add(network, args="IgnoreUnknown=1;K8S_POD_NAME=web-1")
    assert "vendor class: weft" in segment.server_said()
    assert segment.leases_file.read_text().split()[3] == "web-1"


def test_renewed_by_a_message_to_the_server_alone(segment: Segment) -> None:
    segment.serve(*BRISK)
    watching = subprocess.Popen(
        ["nsenter", f"--net={path(segment.host)}", "tcpdump", "-nli", "cni0", "-c", "1",
         f"udp dst port 67 and dst host {SERVER}"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        result = segment.add(segment.configuration(segment.daemon()))
        eventually(lambda: renewals(segment) >= 2, "a renewal")
        said, _ = watching.communicate(timeout=30)
    finally:
        watching.kill()
        watching.wait()
    address = result["ips"][0]["address"].split("/")[0]
    assert f"{address}.68 > {SERVER}.67" in said


def test_an_interface_without_its_address_renews_too(segment: Segment) -> None:
    """A plugin may have put the address elsewhere, into a bridge of a virtual machine for one."""
    segment.serve(*BRISK)
    answer = segment.call("ADD", segment.configuration(segment.daemon()))
    assert answer.status == 0
    eventually(lambda: renewals(segment) >= 2, "a renewal")


@pytest.mark.parametrize("kill", [True, False])
def test_goes_on_after_a_restart(segment: Segment, kill: bool) -> None:
    segment.serve(*BRISK)
    daemon = segment.daemon()
    network = segment.configuration(daemon)
    result = segment.add(network)
    daemon.end(kill)
    assert journaled(segment) == [("c1", 1)]
    before = renewals(segment)
    daemon = segment.daemon()
    eventually(lambda: renewals(segment) > before, "renewed by the daemon that was started anew")
    assert segment.call("ADD", network).body == result
    assert segment.server_said().count("DHCPDISCOVER(") == 1
    assert segment.call("DEL", network).status == 0
    eventually(lambda: segment.leases() == {}, "released by the daemon that was started anew")


def test_goes_on_where_the_path_is_not_seen(segment: Segment) -> None:
    """As in an agent's container: the pod came as a descriptor, and the path is the host's alone."""
    segment.serve()
    daemon = segment.daemon()
    data = json.dumps(segment.configuration(daemon)).encode()
    environment = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/nowhere/pod",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/nowhere",
    }
    with NetworkNamespace.open(path(segment.pods["pod"])) as namespace:
        if not namespace.handle:
            pytest.skip("this kernel has no handles of namespaces (Linux 6.18)")
        status, _ = calls.answer("dhcp", environment, data, namespace, registry.find)
        assert status == 0
    daemon.end()
    daemon = segment.daemon()
    assert "1 leases kept" in daemon.said()
    environment = {**environment, "CNI_COMMAND": "DEL", "CNI_NETNS": ""}
    assert calls.answer("dhcp", environment, data, None, registry.find) == (0, b"")
    eventually(lambda: segment.leases() == {}, "released")


def test_a_restart_drops_the_leases_of_dead_pods(segment: Segment) -> None:
    segment.serve()
    daemon = segment.daemon()
    network = segment.configuration(daemon)
    segment.add_pod("other")
    segment.add_pod("third")
    for pod in segment.pods:
        segment.add(network, pod, container=pod)
    daemon.end()
    ip("netns", "delete", segment.pods["other"])
    ip("netns", "add", segment.pods["other"])
    ip("link", "delete", "v-third", namespace=segment.host)
    daemon = segment.daemon()
    eventually(lambda: journaled(segment) == [("pod", 1)], "the living pod's lease only")
    assert "another namespace" in daemon.said() or "namespace is gone" in daemon.said()
    assert "there is no such interface" in daemon.said()


def test_a_pod_that_died_without_del(segment: Segment) -> None:
    segment.serve(*BRISK)
    daemon = segment.daemon()
    segment.add_pod("other")
    segment.add(segment.configuration(daemon), "other")
    ip("netns", "delete", segment.pods["other"])
    ip("netns", "add", segment.pods["other"])  # it is another one
    eventually(lambda: segment.leases() == {}, "the lease of a dead pod is given back")
    assert journaled(segment) == []


def test_an_interface_that_is_gone(segment: Segment) -> None:
    segment.serve(*BRISK)
    daemon = segment.daemon()
    network = segment.configuration(daemon)
    segment.add(network)
    ip("link", "delete", "v-pod", namespace=segment.host)
    eventually(lambda: journaled(segment) == [], "the lease is dropped")
    answer = segment.call("CHECK", network)
    assert answer.status == 1
    assert "eth0" in answer.body["msg"]


def test_the_server_goes_and_comes_back(segment: Segment) -> None:
    segment.serve(*BRISK)
    network = segment.configuration(segment.daemon("-timeout", "1s", "-resendtimeout", "2s"))
    segment.add(network)
    segment.stop_serving()
    answer = segment.call("ADD", network, container="c2")
    assert answer.status == 1
    assert "no DHCP server gave a lease within 2 s" in answer.body["msg"]
    assert journaled(segment) == [("c1", 1)]
    before = renewals(segment)
    segment.serve(*BRISK)
    eventually(lambda: renewals(segment) > before, "renewed by the server that came back")
    assert segment.is_up("pod")
    assert segment.call("ADD", network, container="c2").status == 0


def test_a_refused_address_is_not_used_any_more(segment: Segment) -> None:
    """The server has another range now: it says no, and offers what the running pod cannot take."""
    segment.serve(*BRISK)
    daemon = segment.daemon("-timeout", "1s")
    segment.add(segment.configuration(daemon))
    segment.stop_serving()
    segment.serve(first=100, reset=True)
    eventually(lambda: not segment.is_up("pod"), "the interface is set down")
    assert "DHCPNAK(" in segment.server_said()
    assert "does not give" in daemon.said()
    assert journaled(segment) == []


def test_who_goes_away_gets_no_lease(segment: Segment) -> None:
    daemon = segment.daemon()
    with pytest.raises(TimeoutError):
        rpc.call(
            str(daemon.socket),
            rpc.ALLOCATE,
            rpc.Arguments("c1", str(path(segment.pods["pod"])), "eth0", "", b'{"name": "net", "ipam": {}}'),
            0.5,
        )
    eventually(lambda: "nobody waits" in daemon.said(), "the acquisition is given up")
    segment.serve()
    assert segment.leases() == {}


def test_many_leases_on_two_threads(segment: Segment) -> None:
    segment.serve(*BRISK)
    daemon = segment.daemon()
    network = segment.configuration(daemon)
    names = [f"c{number}" for number in range(20)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda name: segment.call("ADD", network, container=name), names))
    assert [answer.status for answer in answers] == [0] * 20
    addresses = {answer.body["ips"][0]["address"].split("/")[0] for answer in answers}
    assert len(addresses) == 20
    # The server writes its file anew at each lease: it may just be empty.
    eventually(lambda: set(segment.leases()) == addresses, "the server knows of all leases")
    assert len(list(Path(f"/proc/{daemon.process.pid}/task").iterdir())) <= 2
    # GC keeps what is valid, of its own network only.
    valid = [{"containerID": name, "ifname": "eth0"} for name in names[:2]]
    assert segment.call("GC", {**network, "name": "other", "cni.dev/valid-attachments": []}).status == 0
    assert segment.call("GC", {**network, "cni.dev/valid-attachments": valid}).status == 0
    eventually(lambda: len(segment.leases()) == 2, "what belongs to nobody is given back")
    for name in names:
        assert segment.call("DEL", network, container=name, pod=None).status == 0
    eventually(lambda: segment.leases() == {}, "all are given back")


def test_a_crash_between_request_and_answer(segment: Segment) -> None:
    """What was requested only is given back by the next daemon: nobody was told of it."""
    segment.serve()
    daemon = segment.daemon()
    network = segment.configuration(daemon)
    segment.add(network)
    daemon.end(kill=True)
    (file,) = (segment.folder / "state").glob("*.db")
    connection = sqlite3.connect(file)
    connection.execute("UPDATE leases SET granted = 0")
    connection.commit()
    connection.close()
    segment.daemon()
    eventually(lambda: segment.leases() == {}, "given back")
    assert journaled(segment) == []


def test_sockets_and_files(segment: Segment) -> None:
    daemon = segment.daemon("-pidfile", str(segment.folder / "pid"))
    assert (segment.folder / "pid").read_text() == str(daemon.process.pid)
    assert daemon.socket.stat().st_mode & 0o777 == 0o600
    second = subprocess.run(
        [sys.executable, "-m", "weft", "dhcp", "daemon", "-socketpath", str(daemon.socket), "-statedir",
         str(segment.folder / "elsewhere")],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert second.returncode == 1
    assert f"another DHCP daemon listens at {daemon.socket}" in second.stderr
    daemon.process.send_signal(signal.SIGKILL)
    daemon.process.wait(30)
    assert daemon.socket.exists()
    daemon = segment.daemon("-pidfile", str(segment.folder / "pid"))  # takes the dead one's place
    daemon.end()
    assert daemon.process.returncode == 0
    assert not daemon.socket.exists()
    assert not (segment.folder / "pid").exists()


def test_socket_activation(segment: Segment, tmp_path: Path) -> None:
    segment.serve()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(tmp_path / "passed.sock"))
    listener.listen()
    systemd = (
        "import os, sys; os.dup2(int(sys.argv[1]), 3); "
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1'); os.execv(sys.argv[2], sys.argv[2:])"
    )
    daemon = [sys.executable, "-m", "weft.plugins", "dhcp", "daemon", "-statedir", str(tmp_path / "state")]
    process = subprocess.Popen(
        ["nsenter", f"--net={path(segment.host)}", sys.executable, "-c", systemd, str(listener.fileno()), *daemon],
        pass_fds=(listener.fileno(),),
        stderr=subprocess.DEVNULL,
    )
    listener.close()
    try:
        network = segment.configuration(None, daemonSocketPath=str(tmp_path / "passed.sock"))
        assert segment.call("ADD", network).status == 0
    finally:
        process.terminate()
        process.wait(30)
    assert (tmp_path / "passed.sock").exists()  # it is systemd's


def test_a_prefix_of_the_host(segment: Segment) -> None:
    """-hostprefix: a daemon in a container, which sees the host's files below a folder."""
    segment.serve()
    prefix = segment.folder / "host"
    prefix.mkdir()
    (prefix / "run").symlink_to("/run")
    daemon = segment.daemon(prefix=prefix)
    arguments = rpc.Arguments("c1", str(path(segment.pods["pod"])), "eth0", "", b'{"name": "net", "ipam": {}}')
    assert rpc.call(str(daemon.socket), rpc.ALLOCATE, arguments, 20)["IPs"]
    assert (prefix / "state" / "dhcp.sock.db").exists()


def test_strangers_are_cut_off(segment: Segment) -> None:
    """Nobody who speaks something else stops the daemon."""
    segment.serve()
    daemon = segment.daemon()
    for said in (b"GET / HTTP/1.0\r\n\r\n", b"\xff" * 9000, b"CONNECT /_goRPC_ HTTP/1.0\n\n\xf0\1\2", b""):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger:
            stranger.settimeout(10)
            stranger.connect(str(daemon.socket))
            stranger.sendall(said)
            stranger.shutdown(socket.SHUT_WR)
            while stranger.recv(100):
                pass
    bad = rpc.Arguments("../c1", "/run/netns/none", "eth0", "", b'{"name": "net", "ipam": {}}')
    with pytest.raises(rpc.RpcError, match="CNI_CONTAINERID"):
        rpc.call(str(daemon.socket), rpc.ALLOCATE, bad, 10)
    with pytest.raises(rpc.RpcError, match="can't find method"):
        rpc.call(str(daemon.socket), "DHCP.Nothing", bad, 10)
    missing = rpc.Arguments("c1", "/run/netns/none", "eth0", "", b'{"name": "net", "ipam": {}}')
    with pytest.raises(rpc.RpcError, match="/run/netns/none"):
        rpc.call(str(daemon.socket), rpc.ALLOCATE, missing, 10)
    assert segment.call("ADD", segment.configuration(daemon)).status == 0
