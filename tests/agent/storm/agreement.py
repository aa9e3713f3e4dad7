"""Whether all that know of pods, addresses and blocks say the same: agents, journals, kernels, store, runtime."""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address, ip_network
from typing import Any

from tests.agent.storm.ledger import Ledger
from tests.agent.storm.network import Network
from tests.namespaces import ip
from tests.nodes import Node
from weft.agent.cluster import Cluster
from weft.agent.view import View
from weft.ipam.ranges import IPNetwork, PodRange
from weft.plugins.main.weave_net import HOST_PREFIX
from weft.store import StoreUnavailable, open_store


def disagreements(network: Network, ledger: Ledger) -> list[str]:
    """What does not fit together now, in words; nothing where all do."""
    try:
        with closing(open_store(network.url)) as store:
            view = Cluster(store).view()
    except StoreUnavailable as error:  # the members may still be electing
        return [f"the store: {error}"]
    found = [*view.problems.values()]
    for node in network.nodes:
        if node.status() != 200:
            found.append(f"{node.name}: not ready")
            continue
        found += (f"{node.name}: {said}" for said in _on_node(network, node, ledger, view))
    everywhere = Counter(
        address for node in network.nodes for _, _, address, _ in _journaled(node) if address is not None
    )
    found += (f"{address} is given {times} times" for address, times in everywhere.items() if times > 1)
    return found


def _on_node(network: Network, node: Node, ledger: Ledger, view: View) -> Iterator[str]:
    report = node.report()
    (counts,) = report["ipam"]["ranges"]
    blocks = set(map(ip_network, counts["blocks"]))
    journaled = _journaled(node)
    if blocks != set(view.blocks_of(node.name)):
        yield f"owns {_listed(blocks)}, the store says {_listed(view.blocks_of(node.name))}"
    if blocks != _journaled_blocks(node):
        yield f"owns {_listed(blocks)}, its journal says {_listed(_journaled_blocks(node))}"
    if unfinished := [container for container, _, _, state in journaled if state != "attached"]:
        yield f"unfinished: {unfinished}"
    alive = {life.container: life for life in ledger.alive() if life.node == node.name}
    if alive.keys() != {container for container, *_ in journaled}:
        yield f"pods {sorted(alive)}, its journal says {sorted(container for container, *_ in journaled)}"
    for container, _, address, _ in journaled:
        if container in alive and alive[container].address != address:
            yield f"{container} was told {alive[container].address}, the journal says {address}"
        if address is None or not any(ip_address(address) in block for block in blocks):
            yield f"{container} has {address}, which is in no block of the node"
    in_kernel = {
        link["ifname"] for link in _json("link", node.namespace) if link["ifname"].startswith(HOST_PREFIX)
    }
    if in_kernel != {interface for _, interface, _, _ in journaled}:
        yield f"the kernel has {sorted(in_kernel)}, the journal {sorted(item[1] for item in journaled)}"
    for life in alive.values():
        if (have := _addresses(life.sandbox)) != [life.address]:
            yield f"{life.container} was told {life.address} and has {have}"
    pods = PodRange(ip_network(counts["range"]), counts["blockSize"])
    in_use, usable = counts["inUse"], sum(pods.usable(address) for block in blocks for address in block)
    if in_use != len(journaled) + 1 or in_use + counts["free"] != usable:
        yield f"{in_use} in use and {counts['free']} free of {usable} with {len(journaled)} pods"
    others = {str(block) for block, owner in view.owners.items() if owner != node.name}
    if network.ways(node) != others:
        yield f"routes to {sorted(network.ways(node))}, others' blocks are {sorted(others)}"


def _journaled(node: Node) -> list[tuple[str, str, str | None, str]]:
    """Container, host interface, address, state."""
    return _read(node, "SELECT container_id, host_interface, address, state FROM attachments")


def _journaled_blocks(node: Node) -> set[IPNetwork]:
    return {ip_network(block) for (block,) in _read(node, "SELECT block FROM blocks")}


def _read(node: Node, query: str) -> list[Any]:
    with closing(sqlite3.connect(f"file:{node.folder}/state/journal.db?mode=ro", uri=True)) as journal:
        return journal.execute(query).fetchall()


def kept_containers(node: Node) -> set[str]:
    """What a node's journal knows as attached."""
    return {container for container, _, _, state in _journaled(node) if state == "attached"}


def _addresses(sandbox: str) -> list[str]:
    return [
        item["local"]
        for link in _json("address", sandbox)
        if link["ifname"] == "eth0"
        for item in link["addr_info"]
        if item["family"] == "inet"
    ]


def _json(what: str, namespace: str) -> Any:
    return json.loads(ip("-j", what, "show", namespace=namespace) or "[]")


def _listed(blocks: Any) -> str:
    return " ".join(sorted(map(str, blocks)))
