"""Nodes with Weave Net's layout are taken over while their pods talk."""

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.agent import weave_net
from tests.agent.conversation import Conversation, conversation, listening
from tests.agent.test_agent import address_of, eventually, reaches
from tests.agent.weave_net import WeavePod
from tests.namespaces import inside, ip, path, run
from tests.nodes import Node, cluster, pod
from weft.kernel.ipsets import IpsetSocket, names

GATEWAYS = ("10.32.0.1", "10.44.0.0")
SET = "weave-iuZcey(5DeXbzgRFs8Szo]+@p"


@dataclass
class Site:
    """Two nodes of Weave's with two pods each."""

    nodes: list[Node]
    pods: list[WeavePod]


@contextmanager
def site(folder: Path, gateways: tuple[str, ...] = GATEWAYS, *options: str) -> Iterator[Site]:
    with ExitStack() as stack:
        nodes = stack.enter_context(cluster(folder, ("controlplane", "node01")[: len(gateways)], *options))
        pods = []
        for number, (node, gateway) in enumerate(zip(nodes, gateways, strict=True)):
            others = [f"172.25.1.{other + 2}" for other in range(len(nodes)) if other != number]
            weave_net.build(node, gateway, others)
            inside(node.namespace, lambda: weave_net.create_set(SET))
            prefix, last = gateway.rsplit(".", 1)
            for place in (1, 2):
                made = weave_net.attach(
                    node,
                    stack.enter_context(pod()),
                    0xA0 + 0x10 * number + place,
                    f"{prefix}.{int(last) + place}",
                    gateway,
                )
                pods.append(made)
        yield Site(nodes, pods)


def kernel_state(node: Node) -> tuple[Any, ...]:
    """What must not change where nothing is touched."""
    shown = json.loads(ip("-j", "address", namespace=node.namespace))
    links = [
        (item["ifname"], item["ifindex"], item["address"], item["mtu"], item.get("master"), "UP" in item["flags"],
         [(held["local"], held["prefixlen"]) for held in item["addr_info"] if held["family"] == "inet"])
        for item in shown
    ]  # fmt: skip
    rules = [line for line in run("iptables-save", namespace=node.namespace).splitlines() if line[0] not in ":#"]
    return links, rules, inside(node.namespace, _sets), ip("route", namespace=node.namespace)


def _sets() -> list[str]:
    with IpsetSocket() as sets:
        return names(sets)


def migrate(node: Node, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["nsenter", f"--net={path(node.namespace)}", "--", sys.executable, "-m", "weft", "migrate",
         "--node-name", node.name, "--store", f"sqlite://{node.store}", "--state-dir", str(node.folder / "state"),
         "--run-dir", str(node.folder / "run"), *node.options, *arguments],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def nothing_of_weaves_is_left(node: Node) -> bool:
    links, rules, sets, _ = kernel_state(node)
    devices = {link[0] for link in links}
    return (
        not devices & {"datapath", "vethwe-bridge", "vethwe-datapath"}
        and not [rule for rule in rules if "WEAVE" in rule]
        and not sets
    )


def still(conversations: dict[str, Conversation], when: str) -> None:
    """All connections go on; tells how long each was silent."""
    for name, each in conversations.items():
        print(f"{when}: {name}: silent for {each.goes_on()['longest']:.2f} s at most")


def test_connections_outlive_the_take_over_of_both_nodes(tmp_path: Path) -> None:
    with ExitStack() as stack:
        made = stack.enter_context(site(tmp_path))
        first, second = made.nodes
        a1, a2, b1, b2 = made.pods
        for each in made.pods:
            stack.enter_context(listening(each.namespace))
        conversations = {
            "within a node": stack.enter_context(conversation(a1.namespace, a2.address)),
            "from the first to the second node": stack.enter_context(conversation(a1.namespace, b1.address)),
            "from the second to the first node": stack.enter_context(conversation(b2.namespace, a2.address)),
        }
        still(conversations, "before")
        links = {each.host_interface: ip("link", "show", each.host_interface, namespace=node.namespace)
                 for node, each in ((first, a1), (second, b1))}  # fmt: skip
        first.start()
        conversations["within a node"].goes_on()
        second.start()
        still(conversations, "after both")

        for node, each in ((first, a1), (second, b1)):
            assert ip("link", "show", each.host_interface, namespace=node.namespace) == links[each.host_interface]
            assert eventually(lambda node=node: nothing_of_weaves_is_left(node))
        assert [node.report()["node"]["gateway"] for node in made.nodes] == list(GATEWAYS)
        _, rules, _, _ = kernel_state(first)
        assert [rule for rule in rules if "-j" in rule] == ["-A FORWARD -s 192.0.2.1/32 -j ACCEPT"]

        fresh = [stack.enter_context(pod()) for _ in made.nodes]
        results = [node.add(f"{number:064x}", str(path(sandbox))) for number, (node, sandbox) in
                   enumerate(zip(made.nodes, fresh, strict=True))]  # fmt: skip
        assert [address_of(result) for result in results] == ["10.32.0.4", "10.44.0.3"]
        assert reaches(fresh[0], b1.address)
        assert reaches(fresh[1], a1.address)
        assert reaches(b1.namespace, address_of(results[1]))

        assert first.report()["ipam"]["inUse"] == 4
        assert second.report()["ipam"]["inUse"] == 4
        second.delete(b2.container, str(path(b2.namespace)))
        assert eventually(lambda: second.report()["ipam"]["inUse"] == 3)
        assert not any(link["ifname"] == "eth0" for link in json.loads(ip("-j", "link", namespace=b2.namespace)))
        del conversations["from the second to the first node"]

        before = kernel_state(first)
        first.kill()
        first.start()
        assert kernel_state(first) == before
        still(conversations, "after a restart")
        assert first.report()["ipam"]["inUse"] == 4


def test_a_dry_run_tells_everything_and_touches_nothing(tmp_path: Path) -> None:
    with site(tmp_path, GATEWAYS[:1]) as made:
        (node,) = made.nodes
        weave_net.restore(node, "*filter\n:MINE - [0:0]\n-A MINE -j WEAVE-NPC-DEFAULT\nCOMMIT\n")
        before = kernel_state(node)
        done = migrate(node, "--dry-run")
        assert done.returncode == 0, done.stderr
        for line in (
            "keeps     bridge weave, gateway 10.32.0.1, MAC ",
            f"keeps     pod at {made.pods[1].host_interface}, 10.32.0.3",
            "claims    block 10.32.0.0/26",
            "removes   chain WEAVE of table nat",
            "removes   rule FORWARD -o weave -j DROP of table filter",
            f"removes   ipset {SET}",
            "removes   device datapath",
            "leaves    chain WEAVE-NPC-DEFAULT: in table filter: a rule of chain MINE leads to it",
        ):
            assert f"\n  {line}" in done.stdout
        told = json.loads(migrate(node, "--dry-run", "-o", "json").stdout)
        assert (told["weaveNet"], told["possible"]) == (True, True)
        assert told["plan"]["blocks"] == ["10.32.0.0/26"]
        assert told["plan"]["devices"] == ["vethwe-bridge", "vethwe-datapath", "vxlan-6784", "datapath"]
        assert kernel_state(node) == before
        assert not node.store.exists()
        assert not (node.folder / "state").exists()


def test_migrate_alone_takes_over_and_the_agent_goes_on(tmp_path: Path) -> None:
    with site(tmp_path, GATEWAYS[:1]) as made:
        (node,) = made.nodes
        done = migrate(node)
        assert done.returncode == 0, done.stderr
        assert nothing_of_weaves_is_left(node)
        again = migrate(node)
        assert (again.returncode, again.stderr) == (
            0,
            "weft migrate: an agent of Weft's has served this node already: nothing is left to take over\n",
        )
        node.start()
        assert node.report()["ipam"]["inUse"] == 3
        assert reaches(made.pods[0].namespace, made.pods[1].address)


def test_a_refusal_names_every_reason_and_touches_nothing(tmp_path: Path) -> None:
    with site(tmp_path, GATEWAYS[:1], "--range", "10.244.0.0/16") as made:
        (node,) = made.nodes
        ip("link", "add", "mine", "type", "veth", namespace=node.namespace)
        ip("link", "set", "mine", "master", "weave", namespace=node.namespace)
        weave_net.restore(node, "*mangle\n:WEAVE-IPSEC-OUT - [0:0]\n-A WEAVE-IPSEC-OUT -j RETURN\nCOMMIT\n")
        before = kernel_state(node)
        for done in (migrate(node, "--dry-run"), migrate(node)):
            assert done.returncode == 1
            for text in (
                "- bridge weave has 10.32.0.1/12, which is not of the range 10.244.0.0/16\n"
                "    mend: give the range that Weave had: IPALLOC_RANGE=10.32.0.0/12",
                "- device mine is a port of bridge weave",
                f"- the pod at {made.pods[0].host_interface} has 10.32.0.2/12",
                "- Weave Net encrypts",
            ):
                assert text in done.stdout
        told = json.loads(migrate(node, "--dry-run", "-o", "json").stdout)
        assert told["possible"] is False
        assert len(told["reasons"]) == 5
        assert node.spawn().wait(timeout=30) == 1
        assert "cannot be taken over from Weave Net; nothing was touched" in node.log.read_text()
        assert kernel_state(node) == before


def test_a_block_that_went_to_another_node_is_not_taken(tmp_path: Path) -> None:
    from weft.agent.cluster import Cluster
    from weft.ipam.ranges import PodRange
    from weft.store import open_store

    with site(tmp_path, GATEWAYS[:1]) as made:
        (node,) = made.nodes
        store = open_store(f"sqlite://{node.store}")
        pods = PodRange.of(weave_net.RANGE)
        Cluster(store).agree_on_ranges([pods])
        Cluster(store).claim(pods.block(0), "elsewhere")
        store.close()
        done = migrate(node, "--dry-run")
        assert done.returncode == 1
        assert "block 10.32.0.0/26 belongs to node elsewhere, and this node uses 10.32.0.1" in done.stdout


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_wherever_it_is_the_next_start_goes_on(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311
    with ExitStack() as stack:
        made = stack.enter_context(site(tmp_path, GATEWAYS[:1]))
        (node,) = made.nodes
        stack.enter_context(listening(made.pods[1].namespace))
        talk = stack.enter_context(conversation(made.pods[0].namespace, made.pods[1].address))
        for _ in range(6):
            agent = node.spawn()
            time.sleep(chance.uniform(0.3, 1.2))
            assert agent.poll() is None, node.log.read_text()[-2000:]
            node.kill()
        node.start()
        talk.goes_on()
        assert eventually(lambda: nothing_of_weaves_is_left(node))
        assert node.report()["node"]["gateway"] == "10.32.0.1"
        assert node.report()["ipam"]["inUse"] == 3
