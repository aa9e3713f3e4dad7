"""Real agents on a wire: attach, reach, restart, refuse."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import pytest

from tests.namespaces import ip, path, run
from tests.nodes import CONFIGURATION, Node, cluster, pod
from weft.store import open_store


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[Node]]:
    with cluster(tmp_path, ("controlplane", "node01"), "--range", "10.244.0.0/16") as made:
        for node in made:
            node.start()
        for node in made:
            assert eventually(
                lambda node=node: [peer["blocks"] for peer in node.report()["peers"] if peer["blocks"]]
            )
        yield made


def address_of(result: Any) -> str:
    return str(ip_interface(result["ips"][0]["address"]).ip)


def reaches(source: str, address: str) -> bool:
    command = ["ip", "netns", "exec", source, "ping", "-q", "-c", "1", "-W", "2", address]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def links(namespace: str) -> dict[str, Any]:
    return {link["ifname"]: link for link in json.loads(ip("-j", "-d", "link", namespace=namespace))}


def eventually(condition: Any, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def refusal_of(node: Node, status: int | None, said: str) -> str:
    """The line in which an agent said so that ended with this status; without one, that waits and is not ready."""
    assert node.agent is not None
    begun = "weft agent: "
    if status is None:
        begun = "the store is away ("
        assert eventually(lambda: said in node.log.read_text(), 60), node.log.read_text()
        assert (node.agent.poll(), node.status()) == (None, 503)
    else:
        assert node.agent.wait(60) == status, node.log.read_text()
    (line,) = [line for line in node.log.read_text().splitlines() if begun in line and said in line]
    return line


def test_pods_on_two_nodes_reach_each_other_without_nat(nodes: list[Node]) -> None:
    first, second = nodes
    with pod() as a, pod() as b, pod() as c:
        container = "d859de8" + "0" * 57
        result = first.add(container, str(path(a)))
        near, far = first.add("b", str(path(b))), second.add("c", str(path(c)))
        assert [interface["name"] for interface in result["interfaces"]] == ["weave", "vethwepld859de8", "eth0"]
        assert result["interfaces"][2]["sandbox"] == str(path(a))
        assert (result["ips"][0]["address"], result["ips"][0]["gateway"]) == ("10.244.0.2/16", "10.244.0.1")
        assert result["routes"] == [{"dst": "0.0.0.0/0"}]
        assert links(first.namespace)["vethwepld859de8"]["master"] == "weave"
        assert address_of(far) == "10.244.192.1"
        assert "default via 10.244.192.0 dev eth0" in ip("route", namespace=c)
        assert links(a)["eth0"]["address"] == result["interfaces"][2]["mac"]
        assert reaches(a, address_of(near))
        assert reaches(a, address_of(far))
        assert reaches(c, address_of(result))
        # The node itself reaches pods everywhere, and pods reach nodes.
        assert reaches(first.namespace, address_of(far))
        assert reaches(c, "10.244.0.1")
        assert "10.244.0.0/16 dev weave proto kernel scope link src 10.244.192.0" in ip(
            "route", namespace=second.namespace
        )


def test_the_receiver_sees_the_senders_own_address(nodes: list[Node]) -> None:
    first, second = nodes
    with pod() as a, pod() as b:
        sender, receiver = first.add("a", str(path(a))), second.add("b", str(path(b)))
        program = (
            "import socket; s = socket.create_server(('', 80)); print('up', flush=True); print(s.accept()[1][0])"
        )
        server = subprocess.Popen(
            ["ip", "netns", "exec", b, "python3", "-c", program], stdout=subprocess.PIPE, text=True
        )
        assert server.stdout is not None
        assert server.stdout.readline() == "up\n"
        run("bash", "-c", f"exec 3<>/dev/tcp/{address_of(receiver)}/80", namespace=a)
        assert server.communicate(timeout=10)[0].strip() == address_of(sender)


def test_peers_come_and_go_while_traffic_flows(tmp_path: Path) -> None:
    with cluster(tmp_path, ("controlplane", "node01", "node02", "node03"), "--range", "10.244.0.0/16") as nodes:
        for node in nodes[:2]:
            node.start()
        with pod() as a, pod() as b, pod() as c:
            nodes[0].add("a", str(path(a)))
            target = address_of(nodes[1].add("b", str(path(b))))
            # Each learns of the other's block a moment after the other is ready.
            assert eventually(lambda: reaches(a, target))
            ping = subprocess.Popen(
                ["ip", "netns", "exec", a, "ping", "-q", "-i", "0.01", "-c", "400", target],
                stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            for node in nodes[2:]:
                node.start()
            newcomer = address_of(nodes[2].add("c", str(path(c))))
            assert eventually(lambda: reaches(a, newcomer))
            for node in nodes[2:]:
                node.kill()
            store = open_store(f"sqlite://{nodes[0].store}")
            for entry in store.entries("").entries:
                if b"node02" in entry.value or entry.key == "nodes/node02":
                    store.delete(entry.key, entry.revision)
            store.close()
            assert eventually(lambda: len(nodes[0].report()["peers"]) == 2)

            def ways_to(prefix: str) -> bool:
                shown = run("ip", "-j", "route", "show", "dev", "vxlan-6784", namespace=nodes[0].namespace)
                return any(route["dst"].startswith(prefix) for route in json.loads(shown))

            assert eventually(lambda: not ways_to("10.244.64."))
            assert ways_to("10.244.160.")
            said = ping.communicate(timeout=60)[0]
            assert " 0% packet loss" in said, said


def test_what_leaves_the_range_has_the_nodes_address(nodes: list[Node]) -> None:
    with pod() as a:
        nodes[0].add("a", str(path(a)))
        assert reaches(a, "172.25.1.1")


def test_a_killed_agent_leaves_pods_connected_and_its_successor_knows_them(nodes: list[Node]) -> None:
    first, second = nodes
    with pod() as a, pod() as b:
        one, two = first.add("a", str(path(a))), second.add("b", str(path(b)))
        first.kill()
        second.kill()
        assert reaches(a, address_of(two))
        first.start()
        second.start()
        assert reaches(a, address_of(two))
        with pod() as c:
            assert address_of(first.add("c", str(path(c)))) not in (address_of(one), address_of(two))
        assert first.report()["ipam"]["attachments"] == 2


def test_sigterm_ends_with_zero_and_pods_stay_connected(nodes: list[Node]) -> None:
    first, second = nodes
    with pod() as a, pod() as b:
        first.add("a", str(path(a)))
        two = second.add("b", str(path(b)))
        assert first.kill(signal.SIGTERM) == 0
        assert not first.socket.exists()
        assert reaches(a, address_of(two))


def test_del_frees_everything_and_repeats(nodes: list[Node]) -> None:
    first, _ = nodes
    with pod() as a:
        result = first.add("a", str(path(a)))
        host_interface = result["interfaces"][1]["name"]
        first.delete("a", str(path(a)))
        first.delete("a", str(path(a)))
        first.delete("never-added", "")
        assert eventually(lambda: host_interface not in links(first.namespace))
        assert "eth0" not in links(a)
        # The address rests: the next one is another.
        assert address_of(first.add("a", str(path(a)))) != address_of(result)
        first.delete("a", "/run/netns/gone-by-now")
        assert eventually(lambda: first.report()["ipam"]["inUse"] == 1)


def test_del_then_add_of_the_same_container_at_once(nodes: list[Node]) -> None:
    first, _ = nodes
    with pod() as a:
        for _ in range(5):
            first.add("f" * 64, str(path(a)))
            first.delete("f" * 64, str(path(a)))


def test_a_second_add_is_an_error_and_changes_nothing(nodes: list[Node]) -> None:
    first, _ = nodes
    with pod() as a:
        result = first.add("a", str(path(a)))
        status, error = first.call("ADD", "a", str(path(a)))
        assert (status, error["code"]) == (1, 4)
        assert "CNI_CONTAINERID a" in error["msg"]
        # Another container may not take an interface name that is taken.
        status, error = first.call("ADD", "other", str(path(a)))
        assert status == 1
        assert "eth0" in error["msg"]
        assert eventually(lambda: first.report()["ipam"]["inUse"] == 2)
        assert first.call("CHECK", "a", str(path(a)), {**CONFIGURATION, "prevResult": result}) == (0, None)


def test_check_names_what_is_wrong(nodes: list[Node]) -> None:
    first, _ = nodes
    with pod() as a:
        result = first.add("a", str(path(a)))
        checked = {**CONFIGURATION, "prevResult": result}
        ip("address", "flush", "dev", "eth0", namespace=a)
        status, error = first.call("CHECK", "a", str(path(a)), checked)
        assert status == 1
        assert address_of(result) in error["msg"]
        assert first.call("CHECK", "unknown", str(path(a)), checked)[1]["code"] == 3


def test_interfaces_that_fell_off_the_bridge_are_put_back_at_start(nodes: list[Node]) -> None:
    first, _ = nodes
    with pod() as a:
        result = first.add("a", str(path(a)))
        first.kill()
        ip("link", "delete", "weave", namespace=first.namespace)
        first.start()
        assert reaches(a, "10.244.0.1")
        assert links(first.namespace)[result["interfaces"][1]["name"]]["master"] == "weave"


def test_a_pod_that_vanished_while_no_agent_ran_gives_its_address_back(nodes: list[Node]) -> None:
    first, _ = nodes
    with pod() as a:
        first.add("a", str(path(a)))
        first.kill()
    assert eventually(lambda: not [name for name in links(first.namespace) if name.startswith("vethwepl")])
    first.start()
    counted = first.report()["ipam"]
    assert (counted["range"], counted["inUse"], counted["attachments"]) == ("10.244.0.0/16", 1, 0)


def test_a_lost_journal_costs_nobody_an_address(nodes: list[Node]) -> None:
    first, second = nodes
    with pod() as a, pod() as b, pod() as c:
        one, far = first.add("a" * 64, str(path(a))), second.add("c", str(path(c)))
        first.kill()
        for file in (first.folder / "state").glob("journal.db*"):
            file.unlink()
        first.start()
        assert reaches(a, address_of(far))
        assert first.report()["ipam"]["attachments"] == 1
        two = first.add("b", str(path(b)))
        assert address_of(two) != address_of(one)
        assert first.call("ADD", "a" * 64, str(path(a)))[1]["code"] == 4
        valid = [{"containerID": "a" * 64, "ifname": "eth0"}, {"containerID": "b", "ifname": "eth0"}]
        configuration = {**CONFIGURATION, "cniVersion": "1.1.0", "cni.dev/valid-attachments": valid}
        assert first.call("GC", "", "", configuration) == (0, None)
        assert reaches(a, address_of(two))
        first.delete("a" * 64, str(path(a)))
        assert eventually(lambda: "eth0" not in links(a))
        assert eventually(lambda: first.report()["ipam"]["inUse"] == 2)


def test_a_del_without_an_agent_is_done_by_the_next(nodes: list[Node]) -> None:
    first, _ = nodes
    with pod() as a:
        first.add("a", str(path(a)))
        first.kill()
        first.delete("a", str(path(a)))
        status, error = first.call("ADD", "b", str(path(a)), environment={"WEFT_DEADLINE": "1"})
        assert (status, error["code"]) == (1, 11)
        assert str(first.socket) in error["msg"]
        first.start()
        assert first.report()["ipam"]["attachments"] == 0
        assert eventually(lambda: "eth0" not in links(a))
        assert not list((first.folder / "state" / "deletions").iterdir())


def test_a_clock_that_is_set_hinders_no_deferred_del_and_harms_nobody(nodes: list[Node]) -> None:
    """A DEL that lies there was after what is attached, whatever the times of the two are."""
    first, _ = nodes
    deletions = first.folder / "state" / "deletions"
    with pod() as a:
        first.add("a", str(path(a)))
        first.kill()
        first.delete("a", str(path(a)))
        (deferred,) = deletions.iterdir()
        os.utime(deferred, (1, 1))
        first.start()
        assert first.report()["ipam"]["attachments"] == 0
        # One that an agent did not hear of although it runs, of a container that is started again.
        first.add("a", str(path(a)))
        assert first.agent is not None
        first.agent.send_signal(signal.SIGSTOP)
        first.delete("a", str(path(a)), environment={"WEFT_DEADLINE": "1"})
        first.agent.send_signal(signal.SIGCONT)
        (deferred,) = deletions.iterdir()
        os.utime(deferred, (1 << 32, 1 << 32))
        again = first.add("a", str(path(a)))
        assert not list(deletions.iterdir())
        assert not eventually(lambda: not reaches(first.namespace, address_of(again)), 6)


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({"mtu": 9000}, 7, "mtu 9000"),
        ({"mtu": "big"}, 7, "mtu 'big'"),
        ({"bridge": "cni0"}, 7, "'weave'"),
        ({"isGateway": True}, 7, "isGateway"),
        ({"hairpinMode": "yes"}, 7, "hairpinMode"),
        ({"ipam": {"subnet": "10.1.0.0/24"}}, 7, "ipam.subnet"),
        ({"ipam": {"gateway": "192.168.1.1"}}, 7, "ipam.gateway"),
        ({"ipam": {"routes": [{"dst": "everywhere"}]}}, 7, "ipam"),
        ({"ipam": {"type": "no-such-ipam"}}, 5, "no-such-ipam"),
        ({"ipam": []}, 7, "ipam"),
        ({"ipam": "host-local"}, 7, "ipam"),
        ({"cniVersion": "9.9.9"}, 1, "9.9.9"),
    ],
)
def test_configurations_that_cannot_be_honoured(
    nodes: list[Node], change: dict[str, Any], code: int, said: str
) -> None:
    with pod() as a:
        status, error = nodes[0].call("ADD", "a", str(path(a)), {**CONFIGURATION, **change})
        assert (status, error["code"]) == (1, code), error
        assert said in error["msg"]
        assert set(links(a)) == {"lo"}
        assert eventually(lambda: nodes[0].report()["ipam"]["inUse"] == 1)


def test_ipam_by_delegation(nodes: list[Node], tmp_path: Path) -> None:
    ipam = {
        "type": "host-local",
        "ranges": [[{"subnet": "10.244.240.0/24", "gateway": "10.244.0.1"}]],
        "dataDir": str(tmp_path / "host-local"),
    }
    configuration = {**CONFIGURATION, "ipam": ipam}
    reserved = tmp_path / "host-local" / "weave"
    with pod() as a:
        result = nodes[0].add(
            "a", str(path(a)), configuration=configuration, environment={"CNI_PATH": "/usr/lib/cni"}
        )
        assert result["ips"][0]["address"] == "10.244.240.1/24"
        assert (reserved / "10.244.240.1").exists()
        assert nodes[0].report()["ipam"]["inUse"] == 1
        nodes[0].delete("a", str(path(a)), configuration=configuration, environment={"CNI_PATH": "/usr/lib/cni"})
        assert not (reserved / "10.244.240.1").exists()


def test_gc_retires_what_no_valid_attachment_names(nodes: list[Node]) -> None:
    first, _ = nodes
    with pod() as a, pod() as b:
        first.add("a", str(path(a)))
        first.add("b", str(path(b)))
        valid = [{"containerID": "a", "ifname": "eth0"}]
        configuration = {**CONFIGURATION, "cniVersion": "1.1.0", "cni.dev/valid-attachments": valid}
        assert first.call("GC", "", "", configuration) == (0, None)
        assert eventually(lambda: "eth0" not in links(b))
        assert "eth0" in links(a)
        assert first.call("STATUS", "", "", {**CONFIGURATION, "cniVersion": "1.1.0"}) == (0, None)


def test_the_nodes_own_namespace_is_refused(nodes: list[Node]) -> None:
    status, error = nodes[0].call("ADD", "a", str(path(nodes[0].namespace)))
    assert (status, error["code"]) == (1, 8)
    assert str(path(nodes[0].namespace)) in error["msg"]


def refusal(node: Node, *options: str) -> tuple[int, str]:
    node.options = options
    before = len(node.log.read_bytes()) if node.log.exists() else 0
    status = node.spawn().wait(timeout=30)
    return status, node.log.read_bytes()[before:].decode()


def test_a_range_that_overlaps_the_underlay_is_refused_naming_both(tmp_path: Path) -> None:
    with cluster(tmp_path, ("worker",)) as (node,):
        status, said = refusal(node, "--range", "172.16.0.0/12")
        assert status == 2
        assert "172.16.0.0/12" in said
        assert "172.25.1.0/24" in said
        assert "Traceback" not in said
        assert "weave" not in links(node.namespace)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--range", "10.0.0.0"), "CIDR"),
        (("--mtu", "9000"), "MTU 9000"),
        (("--mtu", "x"), "--mtu 'x'"),
        (("--node-address", "1.2.3.4"), "1.2.3.4"),
        (("--node-name", "Node_1"), "Node_1"),
        (("--ipalloc-init", "consensus=none"), "consensus=none"),
        (("--store", "redis://x"), "not known"),
        (("--http-address", "6784"), "--http-address"),
        (("--request-api", "on"), "--request-api 'on': write kubernetes://"),
        (("--request-api", "kubernetes:///no/such/file"), "--request-api kubernetes:///no/such/file"),
    ],
)
def test_bad_settings_are_one_line_and_status_2(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    with cluster(tmp_path, ("worker",)) as (node,):
        status, printed = refusal(node, *options)
        assert status == 2, printed
        assert said in printed
        assert printed.count("\n") == 1, printed


def test_a_range_that_differs_from_the_clusters_is_refused(nodes: list[Node]) -> None:
    first, _ = nodes
    first.kill()
    status, said = refusal(first, "--range", "10.32.0.0/12")
    assert status == 2
    assert "10.244.0.0/16" in said


def test_a_second_agent_on_the_same_state_is_refused(nodes: list[Node]) -> None:
    status, said = refusal(nodes[0], "--range", "10.244.0.0/16")
    assert status == 2
    assert "another agent" in said
