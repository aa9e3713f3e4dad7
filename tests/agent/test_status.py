"""The status API: Weave's words, the right codes, root's socket."""

import http.client
import json
import os
import socket
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Network
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.agent.test_agent import eventually
from tests.namespaces import inside
from tests.nodes import cluster
from weft.agent.addresses import Count
from weft.agent.report import PeerReport, Report, connections, ipam, ipam_status, peers, summary
from weft.agent.status import StatusServer, fetch
from weft.fabric.plan import Peer
from weft.ipam.ranges import PodRange

PEER = Peer(
    "node01",
    IPv4Address("172.25.1.3"),
    "02:00:00:00:00:01",
    IPv4Address("10.244.192.0"),
    (IPv4Network("10.244.192.0/18"),),
)
LATE = Peer("node02", IPv4Address("172.25.1.4"), "02:00:00:00:00:02", IPv4Address("10.244.64.0"), ())
PODS = PodRange(IPv4Network("10.244.0.0/16"), 18)
PODS6 = PodRange(IPv6Network("fd00::/64"), 120)
OWN = [IPv4Network("10.244.0.0/18"), IPv4Network("10.244.64.0/18")]
REPORT = Report(
    serving=True,
    name="controlplane",
    address="172.25.1.2",
    gateway="10.244.0.1",
    mtu=1450,
    ranges=[Count(PODS, tuple(OWN), 3, 32764, 1)],
    attachments=2,
    owners={**dict.fromkeys(OWN, "controlplane"), PEER.blocks[0]: "node01"},
    peers=[PeerReport(PEER, "established"), PeerReport(LATE, "pending")],
)


class Served:
    def __init__(self, folder: Path) -> None:
        self.report = REPORT
        self.removed: list[str] = []
        self.path = folder / "status.sock"
        self.path.write_text("left by an agent that is gone")
        self.server = StatusServer(self.path, ("127.0.0.1", 0), lambda: self.report, self.remove)
        self.port = int(str(self.server._servers[1].server_address[1]))
        self.server.start()

    def remove(self, name: str) -> str:
        self.removed.append(name)
        if name == "nobody":
            raise ValueError("no peer 'nobody'")
        return f"64 IPs taken over from {name}"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    yield made
    made.server.close()


def test_the_columns_of_weave_status_ipam() -> None:
    assert ipam(REPORT) == (
        "controlplane                             32768 IPs (50.0% of total) (3 active)\n"
        "node01                                   16384 IPs (25.0% of total)\n"
        "controlplane has 32764 free and 1 spare block: 10.244.0.0/18 10.244.64.0/18\n"
        "nobody                                   16384 IPs (25.0% of total)\n"
    )


def test_owners_that_are_gone_are_marked_as_weave_marked_them() -> None:
    report = replace(
        REPORT,
        owners={**REPORT.owners, IPv4Network("10.244.128.0/18"): "old"},
        unreachable=frozenset({"old"}),
    )
    assert "old                                      16384 IPs (25.0% of total) - unreachable!" in ipam(report)
    assert "Unreachable: old" in summary(report)
    assert ipam_status(report) == "ready"
    # Nothing is free here, and every block has an owner.
    full = replace(report, ranges=[replace(REPORT.ranges[0], free=0)])
    assert ipam_status(full) == "all IP ranges owned by unreachable peers - use 'rmpeer' if they are dead"
    waiting = replace(REPORT, ranges=[replace(REPORT.ranges[0], free=0)])
    assert ipam_status(waiting) == "waiting for IP(s) to become available"
    listed = json.loads(report.to_json())["ipam"]
    assert listed["unreachable"] == ["old"]
    assert [(item["name"], item["ips"], item["unreachable"]) for item in listed["ranges"][0]["owners"]] == [
        ("controlplane", 32768, False),
        ("node01", 16384, False),
        ("old", 16384, True),
    ]


def test_each_range_is_told_of_where_there_are_two() -> None:
    six = IPv6Network("fd00::/120")
    report = replace(
        REPORT,
        ranges=[*REPORT.ranges, Count(PODS6, (six,), 3, 252, 0)],
        owners={**REPORT.owners, six: "controlplane"},
        gateway6="fd00::1",
    )
    first, second = ipam(report).split("\n\n")
    assert first.splitlines()[0] == "10.244.0.0/16"
    assert second.splitlines()[0] == "fd00::/64"
    assert "controlplane has 252 free and 0 spare blocks: fd00::/120" in second
    body = json.loads(report.to_json())
    assert [item["range"] for item in body["ipam"]["ranges"]] == ["10.244.0.0/16", "fd00::/64"]
    assert body["node"]["gateway6"] == "fd00::1"


def test_what_is_excluded_is_told_and_a_range_that_is_full_is_none_where_another_has_room() -> None:
    second = PodRange(IPv4Network("10.245.0.0/16"), 18, (IPv4Network("10.245.0.0/24"),))
    closed = PodRange(IPv4Network("10.246.0.0/16"), 18, (IPv4Network("10.246.0.0/16"),))
    full, open_, shut = replace(REPORT.ranges[0], free=0), Count(second, (), 0, 9, 0), Count(closed, (), 0, 0, 0)
    gateways = tuple(map(IPv4Interface, ("10.244.0.1/16", "10.245.0.1/16")))
    report = replace(REPORT, ranges=[full, open_, shut], gateways=gateways)
    assert ipam_status(report) == "ready"
    assert ipam_status(replace(report, ranges=[full, shut])) == "waiting for IP(s) to become available"
    assert [part.splitlines()[1] for part in ipam(report).split("\n\n")][1:] == [
        "excluded: 10.245.0.0/24", "excluded: all of it",
    ]  # fmt: skip
    assert "Gateway: 10.244.0.1 10.245.0.1" in summary(report)
    body = json.loads(report.to_json())
    assert body["node"]["gateways"] == ["10.244.0.1/16", "10.245.0.1/16"]
    assert [item["excluded"] for item in body["ipam"]["ranges"]] == [[], ["10.245.0.0/24"], ["10.246.0.0/16"]]
    assert "gateways" not in json.loads(REPORT.to_json())["node"]


def test_the_form_of_weave_status_peers() -> None:
    assert peers(REPORT) == (
        "controlplane(172.25.1.2)\n"
        "   -> 172.25.1.3:6784       node01(10.244.192.0)                  established\n"
        "   -> 172.25.1.4:6784       node02(10.244.64.0)                   pending\n"
    )


def test_the_columns_of_weave_status_connections() -> None:
    assert connections(REPORT) == (
        "-> 172.25.1.3:6784       established unencrypted vxlan node01 mtu=1450\n"
        "-> 172.25.1.4:6784       pending     unencrypted vxlan node02 mtu=1450\n"
    )


def test_the_labels_of_weave_status() -> None:
    text = summary(REPORT)
    for line in ("        Service: router", "          Range: 10.244.0.0/16", "         Status: ready"):
        assert line in text.splitlines()
    assert "Problem" not in text
    told = replace(REPORT, problems={"nodes/node09": "key 'nodes/node09' in the store is not ours"})
    assert "        Problem: key 'nodes/node09' in the store is not ours" in summary(told).splitlines()


def test_ready_is_200_and_not_ready_503(served: Served) -> None:
    assert fetch(served.path, "/status") == (200, summary(REPORT).encode())
    served.report = replace(REPORT, serving=False)
    assert fetch(served.path, "/status")[0] == 503
    assert json.loads(fetch(served.path, "/report")[1])["ready"] is False


def test_the_same_on_tcp_as_weave_had_it(served: Served) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=5)
    connection.request("GET", "/status/peers")
    answer = connection.getresponse()
    assert (answer.status, b"node01" in answer.read()) == (200, True)
    connection.request("GET", "/secrets")
    answer = connection.getresponse()
    assert answer.status == 404
    assert b"/status/ipam" in answer.read()
    connection.close()


def test_a_peer_is_removed_on_the_unix_socket_only(served: Served) -> None:
    assert fetch(served.path, "/peer/node01", method="DELETE") == (200, b"64 IPs taken over from node01\n")
    assert fetch(served.path, "/peer/nobody", method="DELETE") == (400, b"no peer 'nobody'\n")
    assert fetch(served.path, "/status", method="DELETE")[0] == 404
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=5)
    connection.request("DELETE", "/peer/node01")
    assert connection.getresponse().status == 403
    connection.close()
    assert served.removed == ["node01", "nobody"]


def test_the_socket_is_roots_alone(served: Served) -> None:
    assert stat.S_IMODE(served.path.stat().st_mode) == 0o600


def test_health_is_not_readiness(served: Served) -> None:
    served.report = replace(served.report, serving=False)
    assert fetch(served.path, "/healthz") == (200, b"ok\n")
    assert fetch(served.path, "/status")[0] == 503


def test_metrics_have_weaves_names(served: Served) -> None:
    status, text = fetch(served.path, "/metrics")
    assert status == 200
    found = {
        sample.name: sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
        if "state" not in sample.labels
    }
    states = {
        (sample.name, sample.labels["state"]): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
        if "state" in sample.labels
    }
    report = served.report
    assert found["weave_max_ips"] == sum(count.pods.network.num_addresses for count in report.ranges)
    assert found["weft_attachments"] == report.attachments
    assert found["process_resident_memory_bytes"] > 0
    assert states["weave_ips", "local-used"] == sum(count.in_use for count in report.ranges)
    assert sum(value for (name, _), value in states.items() if name == "weave_connections") == len(report.peers)


def test_the_metrics_own_address_serves_nothing_else(tmp_path: Path) -> None:
    server = StatusServer(tmp_path / "status.sock", None, lambda: REPORT, str, ("127.0.0.1", 0))
    server.start()
    try:
        host, port = server._servers[1].server_address[:2]
        for page, status in (("/metrics", 200), ("/status", 404), ("/report", 404)):
            connection = http.client.HTTPConnection(str(host), int(port), timeout=10)
            connection.request("GET", page)
            assert connection.getresponse().status == status
            connection.close()
    finally:
        server.close()


def test_a_client_that_does_not_wait_is_nothing_to_tell_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    asked, gone = threading.Event(), threading.Event()

    def slow() -> Report:
        asked.set()
        assert gone.wait(30)
        return REPORT

    server = StatusServer(tmp_path / "status.sock", ("127.0.0.1", 0), slow, str)
    server.start()
    try:
        host, port = server._servers[1].server_address[:2]
        with socket.create_connection((str(host), int(port)), timeout=10) as connection:
            connection.sendall(b"GET /status HTTP/1.0\r\n\r\n")
            assert asked.wait(30)
            # Closed with a reset, as what is written to it fails at once.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with caplog.at_level("DEBUG", "weft.agent.status"):
            gone.set()
            assert eventually(lambda: any("no answer to a client" in line for line in caplog.messages))
    finally:
        server.close()
    assert not [record for record in caplog.records if record.levelname != "DEBUG"]
    assert capfd.readouterr().err == ""


def test_a_start_asks_for_no_names(tmp_path: Path) -> None:
    """A cluster's DNS is a pod that waits for this very agent."""
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.53\n")
    (tmp_path / "hosts").write_text("127.0.0.1 localhost\n")
    script = 'mount --bind resolv.conf /etc/resolv.conf && mount --bind hosts /etc/hosts && exec "$@"'
    with cluster(tmp_path, ("controlplane",), "--metrics-address", "0.0.0.0:6782") as (node,):

        def name_server() -> socket.socket:
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            made.bind(("127.0.0.53", 53))
            made.setblocking(False)
            return made

        node.entering = ("unshare", "--mount", "--", "sh", "-c", f"cd {tmp_path} && {script}", "sh")
        with inside(node.namespace, name_server) as asked:
            node.start()
            with pytest.raises(BlockingIOError):
                asked.recv(512)


def test_no_thread_outlives_the_server(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    made = Served(tmp_path)
    assert len(set(threading.enumerate()) - before) == 2
    made.server.close()
    assert not [thread for thread in set(threading.enumerate()) - before if thread.is_alive()]


def weft_status(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "weft", "status", "--run-dir", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


def test_weft_status(served: Served, tmp_path: Path) -> None:
    assert "Service: router" in weft_status(tmp_path).stdout
    assert "50.0%" in weft_status(tmp_path, "ipam").stdout
    assert json.loads(weft_status(tmp_path, "ipam", "-o", "json").stdout)["ranges"][0]["spareBlocks"] == 1
    assert json.loads(weft_status(tmp_path, "peers", "-o", "json").stdout)[1]["state"] == "pending"
    report = json.loads(weft_status(tmp_path, "-o", "json").stdout)
    assert report["peers"][0]["blocks"] == ["10.244.192.0/18"]
    assert weft_status(tmp_path, "weather").returncode == 2
    served.report = replace(REPORT, serving=False)
    done = weft_status(tmp_path)
    assert (done.returncode, "not ready" in done.stderr) == (1, True)


def test_what_weaves_users_type(served: Served, tmp_path: Path) -> None:
    def weave(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "weft", "weave", "--local", *words]
        environment = {**os.environ, "WEFT_RUN_DIR": str(tmp_path)}
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30, env=environment)

    assert weave("status").stdout == summary(REPORT)
    assert weave("status", "connections").stdout == connections(REPORT)
    assert json.loads(weave("report").stdout)["node"]["name"] == "controlplane"
    assert weave("rmpeer", "node01").stdout == "64 IPs taken over from node01\n"
    assert served.removed == ["node01"]
    refused = weave("dns-lookup", "web")
    assert (refused.returncode, "there is no 'dns-lookup': Weft has no DNS" in refused.stderr) == (2, True)


def test_weft_status_without_an_agent(tmp_path: Path) -> None:
    done = weft_status(tmp_path)
    assert done.returncode == 1
    assert str(tmp_path / "status.sock") in done.stderr
    assert "Traceback" not in done.stderr
