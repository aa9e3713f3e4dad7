"""A node's addresses over a real store: blocks claimed, a spare ahead, the surplus given back."""

import threading
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from weft.agent import addresses as module
from weft.agent.addresses import Addresses, AddressesExhausted
from weft.agent.cluster import Cluster, ClusterError, NodeRecord
from weft.agent.journal import Journal, State
from weft.store import open_store

UNIVERSE = IPv4Network("10.244.0.0/16")
SMALL = IPv4Network("10.244.0.0/28")


class Site:
    """A store and the nodes that share it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def cluster(self) -> Cluster:
        return Cluster(open_store(f"sqlite://{self.folder}/store.db"))

    def journal(self, name: str) -> Journal:
        return Journal(self.folder / name / "journal.db")

    def node(self, name: str, universe: IPv4Network = UNIVERSE) -> Addresses:
        return Addresses(self.cluster(), self.journal(name), universe, name, None)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def care_once(node: Addresses) -> None:
    node._keep_one_spare()


def test_two_nodes_get_the_gateways_that_weave_gave(site: Site) -> None:
    assert str(site.node("controlplane").start()) == "10.244.0.1/16"
    assert str(site.node("node01").start()) == "10.244.192.0/16"


def test_a_restarted_node_keeps_its_gateway_blocks_and_holders(site: Site) -> None:
    node = site.node("a")
    gateway = node.start()
    care_once(node)
    journal = site.journal("a")
    taken = node.take()
    journal.set_state(journal.reserve("c1", "eth0", "weave", "v1", taken), State.ATTACHED)
    again = site.node("a")
    assert again.start() == gateway
    assert again.blocks() == node.blocks()
    assert again.take() not in (taken, gateway.ip)


def test_a_node_that_lost_its_state_takes_its_blocks_up_again(site: Site) -> None:
    node = site.node("a")
    gateway = node.start()
    record = NodeRecord(IPv4Address("172.25.1.2"), "02:00:00:00:00:01", gateway.ip, "old")
    site.cluster().register("a", record)
    (site.folder / "a" / "journal.db").unlink()
    again = site.node("a")
    assert again.start() == gateway
    assert again.blocks() == node.blocks()


def test_one_spare_block_is_kept_and_the_surplus_goes_back(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    node = site.node("a")
    node.start()
    care_once(node)
    assert [str(block) for block in node.blocks()] == ["10.244.0.0/24", "10.244.1.0/24"]
    held = [node.take() for _ in range(255)]
    care_once(node)
    assert len(node.blocks()) == 3
    for address in held:
        node.release(address)
    monkeypatch.setattr(module, "SURPLUS_SECONDS", -1.0)
    care_once(node)
    care_once(node)
    assert len(node.blocks()) == 2
    assert len(site.cluster().view().owners) == 2


def test_an_exhausted_range_is_an_error_that_names_it(site: Site) -> None:
    node = site.node("a", SMALL)
    node.start()
    for _ in range(13):  # 16 less network, broadcast and the bridge's
        node.take()
    with pytest.raises(AddressesExhausted, match=str(SMALL)):
        node.take()


def test_many_threads_never_take_the_same_address(site: Site) -> None:
    node = site.node("a")
    node.start()
    stopping = threading.Event()
    carer = threading.Thread(target=node.care, args=(stopping,))
    carer.start()
    with ThreadPoolExecutor(8) as threads:
        taken = list(threads.map(lambda _: node.take(), range(600)))
    stopping.set()
    node.wake()
    carer.join()
    assert len(set(taken)) == 600


def test_a_range_that_differs_from_the_clusters_is_refused_naming_both(site: Site) -> None:
    site.cluster().agree_on_range(UNIVERSE)
    site.cluster().agree_on_range(UNIVERSE)
    with pytest.raises(ClusterError, match=r"10\.32\.0\.0/12.*10\.244\.0\.0/16"):
        site.cluster().agree_on_range(IPv4Network("10.32.0.0/12"))


def test_a_name_that_another_node_has_is_refused_and_its_record_kept(site: Site) -> None:
    first = NodeRecord(IPv4Address("172.25.1.2"), "02:00:00:00:00:01", IPv4Address("10.244.0.1"), "one")
    other = NodeRecord(IPv4Address("172.25.1.3"), "02:00:00:00:00:02", IPv4Address("10.244.0.9"), "two")
    site.cluster().register("a", first)
    with pytest.raises(ClusterError, match=r"172\.25\.1\.2.*--node-name"):
        site.cluster().register("a", other)
    assert site.cluster().view().nodes == {"a": first}


def test_foreign_values_under_our_keys_are_named(site: Site) -> None:
    site.cluster().store.create("nodes/x", b"not json")
    with pytest.raises(ClusterError, match="nodes/x"):
        site.cluster().view()
