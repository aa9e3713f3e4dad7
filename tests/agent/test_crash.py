"""Agents killed at random points of a storm: nobody loses an address, nobody holds one twice, nothing stays."""

import json
import random
import signal
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import pytest

from tests.namespaces import ip, path
from tests.nodes import Node, cluster, pod
from weft.agent.journal import Journal, State


def eventually(condition: Any, seconds: float = 15) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def pairs(node: Node) -> set[str]:
    links = json.loads(ip("-j", "link", namespace=node.namespace))
    return {link["ifname"] for link in links if link["ifname"].startswith("vethwepl")}


def addresses(sandbox: str) -> list[str]:
    shown = json.loads(ip("-j", "-4", "address", "show", "dev", "eth0", namespace=sandbox))
    return [item["local"] for link in shown for item in link.get("addr_info", ())]


def has_eth0(sandbox: str) -> bool:
    return any(link["ifname"] == "eth0" for link in json.loads(ip("-j", "link", namespace=sandbox)))


def journal_rows(node: Node) -> list[tuple[str, str | None, str]]:
    with sqlite3.connect(node.folder / "state" / "journal.db") as connection:
        return connection.execute("SELECT container_id, address, state FROM attachments").fetchall()


class Client(threading.Thread):
    """Adds and deletes its own pod over and over, as a runtime does: what fails is deleted and tried again."""

    def __init__(self, node: Node, sandbox: str, seed: int, stopping: threading.Event) -> None:
        super().__init__()
        self.node, self.sandbox, self.stopping = node, sandbox, stopping
        self.random = random.Random(seed)  # noqa: S311
        self.attached: tuple[str, str] | None = None
        self.outcomes: Counter[str] = Counter()

    def run(self) -> None:
        while not self.stopping.is_set():
            container = f"{self.random.getrandbits(256):064x}"
            status, answer = self.node.call("ADD", container, str(path(self.sandbox)))
            self.outcomes["added" if status == 0 else f"code {answer['code']}"] += 1
            if status == 0:
                self.attached = container, str(ip_interface(answer["ips"][0]["address"]).ip)
                if self.stopping.is_set():
                    return
            self.node.delete(container, str(path(self.sandbox)))
            self.attached = None


@pytest.mark.parametrize("seed", [1, 2])
def test_kills_at_random_points_of_a_storm(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311
    with ExitStack() as stack:
        (node,) = stack.enter_context(cluster(tmp_path, ("worker",), "--range", "10.244.0.0/24"))
        sandboxes = [stack.enter_context(pod()) for _ in range(6)]
        node.start()
        stopping = threading.Event()
        clients = [
            Client(node, sandbox, seed * 100 + number, stopping) for number, sandbox in enumerate(sandboxes)
        ]
        stack.callback(stopping.set)
        for client in clients:
            client.start()
        for _ in range(8):
            time.sleep(chance.uniform(0.05, 0.5))
            node.kill(signal.SIGKILL)
            time.sleep(chance.uniform(0, 0.05))
            node.start()
        time.sleep(0.3)
        stopping.set()
        for client in clients:
            client.join(timeout=60)
        assert sum(client.outcomes["added"] for client in clients) > 20
        node.kill(signal.SIGKILL)
        node.start()

        held = {client.attached[1]: client for client in clients if client.attached}
        attached = [client for client in clients if client.attached]
        assert len(held) == len(attached), "an address is held twice"
        for client in attached:
            assert client.attached is not None
            assert addresses(client.sandbox) == [client.attached[1]]
        assert eventually(lambda: len(journal_rows(node)) == len(attached))
        assert eventually(lambda: node.report()["ipam"]["inUse"] == 1 + len(attached)), "an address leaked"
        assert eventually(lambda: len(pairs(node)) == len(attached)), "an interface leaked"

        for client in attached:
            assert client.attached is not None
            node.delete(client.attached[0], str(path(client.sandbox)))
        assert eventually(lambda: not pairs(node))
        assert eventually(lambda: node.report()["ipam"]["inUse"] == 1)
        assert journal_rows(node) == []


def test_a_crash_between_answer_and_deletion_leaves_nothing(tmp_path: Path) -> None:
    with cluster(tmp_path, ("worker",)) as (node,), pod() as sandbox:
        node.start()
        node.add("a", str(path(sandbox)))
        node.kill()
        # What a DEL has written when it answers, and nothing of what follows.
        journal = Journal(node.folder / "state" / "journal.db")
        (attachment,) = journal.attachments()
        journal.set_state(attachment, State.RETIRING)
        journal.close()
        node.start()
        assert eventually(lambda: not pairs(node) and not has_eth0(sandbox))
        assert journal_rows(node) == []


def test_a_crash_before_the_answer_of_an_add_leaves_nothing(tmp_path: Path) -> None:
    with cluster(tmp_path, ("worker",)) as (node,), pod() as sandbox:
        node.start()
        node.add("a", str(path(sandbox)))
        node.kill()
        journal = Journal(node.folder / "state" / "journal.db")
        (attachment,) = journal.attachments()
        journal.set_state(attachment, State.RESERVED)
        journal.close()
        node.start()
        assert eventually(lambda: not pairs(node) and not has_eth0(sandbox))
        # The runtime, which saw its ADD fail, deletes and tries again.
        node.delete("a", str(path(sandbox)))
        node.add("a", str(path(sandbox)))


def test_an_address_is_not_given_out_before_its_interface_is_gone(tmp_path: Path) -> None:
    with ExitStack() as stack:
        # Eight usable addresses less those of range and bridge: churn must come round to the same ones.
        (node,) = stack.enter_context(cluster(tmp_path, ("worker",), "--range", "10.9.0.0/28"))
        sandboxes = [stack.enter_context(pod()) for _ in range(8)]
        node.start()
        for round_ in range(6):
            with ThreadPoolExecutor(8) as threads:
                results = list(
                    threads.map(lambda name, run=round_: node.add(f"{name}-{run}", str(path(name))), sandboxes)
                )
            given = [str(ip_interface(result["ips"][0]["address"]).ip) for result in results]
            assert len(set(given)) == len(given)
            with ThreadPoolExecutor(8) as threads:
                list(
                    threads.map(lambda name, run=round_: node.delete(f"{name}-{run}", str(path(name))), sandboxes)
                )


def test_two_hundred_pods_eight_at_a_time_over_two_nodes(tmp_path: Path) -> None:
    with ExitStack() as stack:
        nodes = stack.enter_context(cluster(tmp_path, ("controlplane", "node01")))
        for node in nodes:
            node.start()
        sandboxes = [stack.enter_context(pod()) for _ in range(200)]

        def attach(number: int) -> str:
            result = nodes[number % 2].add(f"pod-{number}", str(path(sandboxes[number])))
            return str(ip_interface(result["ips"][0]["address"]).ip)

        with ThreadPoolExecutor(8) as threads:
            given = list(threads.map(attach, range(200)))
        assert len(set(given)) == 200
        sample = random.Random(0).sample(range(200), 12)  # noqa: S311
        for source in sample:
            for target in sample:
                if source != target:
                    command = ["ip", "netns", "exec", sandboxes[source], "ping", "-q", "-c1", "-W2", given[target]]
                    assert subprocess.run(command, capture_output=True, check=False).returncode == 0, (
                        source,
                        target,
                    )
