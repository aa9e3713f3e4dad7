"""Nodes that are removed, come back, or go on while the store is away."""

import logging
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Event, Thread

import pytest

from tests.members import Member
from tests.store.engines import kubernetes
from weft.agent import addresses, reclaim
from weft.agent.addresses import AddressesExhausted
from weft.agent.cluster import Cluster
from weft.agent.reclaim import NoSuchPeer, remove_peer
from weft.ipam.ranges import PodRange, parse_ranges
from weft.lab.api.kinds import find
from weft.store import Event as StoreEvent
from weft.store import Store, StoreError, StoreUnavailable, open_store
from weft.troubles import Troubles

UNIVERSE = PodRange.of("10.244.0.0/16")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(f"sqlite://{tmp_path}/store.db")
    yield opened
    opened.close()


@pytest.fixture
def cluster(store: Store) -> Cluster:
    return Cluster(store)


def node(tmp_path: Path, store: Store, name: str) -> Member:
    return Member(tmp_path, store, name, UNIVERSE)


def entered(tmp_path: Path, store: Store, name: str) -> Member:
    member = node(tmp_path, store, name)
    assert member.enter()
    return member


def test_rmpeer_gives_back_all_of_a_node_and_says_so_in_weaves_words(
    tmp_path: Path, store: Store, cluster: Cluster
) -> None:
    entered(tmp_path, store, "a")
    entered(tmp_path, store, "b").care()
    assert remove_peer(cluster, "b", "a") == "128 IPs taken over from b"
    view = cluster.view()
    assert set(view.nodes) == {"a"}
    assert set(view.owners.values()) == {"a"}
    with pytest.raises(NoSuchPeer, match="no peer 'b'; there are: none"):
        remove_peer(cluster, "b", "a")
    with pytest.raises(NoSuchPeer, match="this node itself"):
        remove_peer(cluster, "a", "a")


def test_a_node_that_comes_back_keeps_what_nobody_took(tmp_path: Path, store: Store, cluster: Cluster) -> None:
    member = entered(tmp_path, store, "b")
    kept = member.add("c")
    member.stop()
    cluster.remove_node("b")
    again = entered(tmp_path, store, "b")
    assert again.addresses.gateway == member.addresses.gateway
    assert again.journal.attachments() == again.journal.attachments()
    assert again.journal.find("c", "eth0").addresses == kept.addresses  # type: ignore[union-attr]
    assert kept.addresses[0] not in again.addresses.take()


def test_a_node_that_comes_back_drops_what_others_have_and_cuts_its_pods_off(
    tmp_path: Path, store: Store, cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    member = entered(tmp_path, store, "b")
    kept = member.add("c")
    member.stop()
    cluster.remove_node("b")
    (block,) = member.addresses.blocks()
    cluster.claim(block, "other")
    again = node(tmp_path, store, "b")
    with caplog.at_level(logging.WARNING):
        assert again.enter()
    assert f"block {block} belongs to other now" in caplog.text
    assert again.addresses.displaced(kept) == f"{kept.address} is in a block of other now"
    assert again.journal.attachments() == []
    assert block not in again.addresses.blocks()
    assert again.addresses.gateway != member.addresses.gateway
    assert cluster.view().owners[block] == "other"


def test_a_node_whose_kept_blocks_are_full_of_pods_finds_its_bridge_another_address(
    tmp_path: Path, store: Store, cluster: Cluster
) -> None:
    member = Member(tmp_path, store, "b", PodRange(UNIVERSE.network, 29))
    assert member.enter()
    pods = [member.add(f"c{number}") for number in range(14)]
    first, second = list(member.addresses.blocks())[:2]
    full = [pod for pod in pods if pod.address in second]
    assert len(full) == 8
    member.stop()
    cluster.remove_node("b")
    cluster.claim(first, "other")
    again = Member(tmp_path, store, "b", PodRange(UNIVERSE.network, 29))
    assert again.enter()
    assert {pod.container_id for pod in again.journal.attachments()} == {pod.container_id for pod in full}
    assert again.addresses.gateway.ip not in {pod.address for pod in full}


def test_a_node_that_is_removed_while_it_runs_signs_in_again(
    tmp_path: Path, store: Store, cluster: Cluster
) -> None:
    member = entered(tmp_path, store, "b")
    member.hear()
    member.care()
    owned = member.addresses.blocks()
    assert cluster.remove_node("b") == 128
    member.hear()
    assert not member.enrolment.outdated
    assert set(cluster.view().blocks_of("b")) == set(owned)
    assert set(cluster.view().nodes) == {"b"}
    member.addresses.take()


def test_a_node_object_that_is_deleted_and_made_anew_is_signed_in_soon(tmp_path: Path) -> None:
    """The kubelet makes it anew without our annotation, so no watch tells of it."""
    with kubernetes(tmp_path) as engine, closing(open_store(engine.url)) as store:
        member = entered(tmp_path, store, "b")
        member.hear()
        owned = set(member.addresses.blocks())
        nodes = find("", "v1", "nodes")
        assert nodes is not None
        engine.server.storage.delete(nodes, "", "b")
        remove_peer(member.cluster, "b")
        member.live.replace(member.cluster.view())
        stopping, refused, signed_in = Event(), Event(), Event()

        def check() -> None:
            try:
                member.enrolment.check()
            except StoreError:
                refused.set()
                raise
            if refused.is_set():
                signed_in.set()

        concern = Troubles().about("this node's blocks", "")
        caring = Thread(target=member.addresses.care, args=(stopping, check, concern))
        caring.start()
        try:
            assert refused.wait(30)
            with pytest.raises(AddressesExhausted, match="cannot sign in again: there is no Node object 'b'"):
                member.addresses.take()
            assert "cannot sign in again" in str(concern.trouble)
            engine.server.storage.create(nodes, "", {"metadata": {"name": "b"}})
            assert signed_in.wait(addresses.CARE_INTERVAL / 2)
        finally:
            stopping.set()
            member.addresses.wake()
            caring.join()
        assert set(member.cluster.view().blocks_of("b")) >= owned
        member.addresses.take()


def test_a_node_that_runs_and_lost_a_block_gives_out_nothing_and_starts_anew(
    tmp_path: Path, store: Store, cluster: Cluster
) -> None:
    member = entered(tmp_path, store, "b")
    member.hear()
    cluster.remove_node("b")
    (block,) = member.addresses.blocks()
    cluster.claim(block, "other")
    member.hear()
    assert member.enrolment.outdated == f"block {block} belongs to other now"
    with pytest.raises(AddressesExhausted, match="removed from the cluster"):
        member.addresses.take()


def test_blocks_of_a_node_without_a_record_are_reclaimed_by_one_node_after_a_while(
    tmp_path: Path, store: Store, cluster: Cluster
) -> None:
    first, second = entered(tmp_path, store, "a"), entered(tmp_path, store, "b")
    entered(tmp_path, store, "gone")
    entry = store.get("nodes/gone")
    assert entry is not None
    store.delete(entry.key, entry.revision)
    for member in (first, second):
        member.hear()
        member.reclaimer.look(100.0)
        member.reclaimer.look(100.0 + reclaim.GRACE - 0.1)
    assert "gone" in cluster.view().owners.values()
    turns = []
    for member in (first, second):
        before = len(cluster.view().owners)
        member.reclaimer.look(100.0 + reclaim.GRACE)
        turns.append(before - len(cluster.view().owners))
    assert sorted(turns) == [0, 1]
    assert set(cluster.view().owners.values()) == {"a", "b"}


def test_a_node_that_is_there_is_never_reclaimed_from_an_old_view(
    tmp_path: Path, store: Store, cluster: Cluster
) -> None:
    watcher, member = entered(tmp_path, store, "a"), entered(tmp_path, store, "b")
    entry = store.get("nodes/b")
    assert entry is not None
    store.delete(entry.key, entry.revision)
    watcher.hear()
    watcher.reclaimer.look(0.0)
    member.stop()
    again = entered(tmp_path, store, "b")
    watcher.reclaimer.look(1000.0)
    assert set(cluster.view().blocks_of("b")) == set(again.addresses.blocks())


def test_a_claim_that_was_seen_without_its_record_cannot_be_deleted_once_the_node_is_back(
    tmp_path: Path, store: Store, cluster: Cluster
) -> None:
    member = entered(tmp_path, store, "b")
    member.stop()
    entry = store.get("nodes/b")
    assert entry is not None
    store.delete(entry.key, entry.revision)
    seen = cluster.view()  # by somebody who is about to reclaim
    again = entered(tmp_path, store, "b")
    assert not any(
        cluster._delete(f"blocks/{block.network_address}-{block.prefixlen}", seen.held["b"][block])
        for block in seen.blocks_of("b")
    )
    assert set(cluster.view().blocks_of("b")) == set(again.addresses.blocks())


def test_a_start_while_the_store_is_away_goes_on_with_what_is_known(tmp_path: Path, store: Store) -> None:
    entered(tmp_path, store, "peer")
    member = entered(tmp_path, store, "b")
    member.care()
    kept = member.add("c")
    member.stop()
    again = node(tmp_path, store, "b")
    again.wire.calls_left = 0
    assert not again.enter()
    assert again.addresses.gateway == member.addresses.gateway
    assert list(again.addresses.blocks()) == list(member.addresses.blocks())
    assert [peer.name for peer in again.live.peers("b")] == ["peer"]
    taken = {again.addresses.take()[0] for _ in range(100)}
    assert kept.addresses[0] not in taken
    with pytest.raises(StoreUnavailable):
        again.care()  # the agent's thread says so and tries again
    # The store is back.
    again.wire.calls_left = None
    again.hear()
    assert not again.enrolment.outdated
    again.care()
    assert set(store.get("nodes/b").value.split(b'"')) >= {b"gateway"}  # type: ignore[union-attr]


def test_a_first_start_while_the_store_is_away_is_an_error(tmp_path: Path, store: Store) -> None:
    member = node(tmp_path, store, "b")
    member.wire.calls_left = 0
    with pytest.raises(StoreUnavailable, match="the wire is cut"):
        member.enter()


def test_a_node_that_was_removed_while_the_store_was_away_learns_it_when_it_is_back(
    tmp_path: Path, store: Store, cluster: Cluster
) -> None:
    member = entered(tmp_path, store, "b")
    member.stop()
    again = node(tmp_path, store, "b")
    again.wire.calls_left = 0
    assert not again.enter()
    cluster.remove_node("b")
    (block,) = member.addresses.blocks()
    cluster.claim(block, "other")
    again.wire.calls_left = None
    again.hear()
    assert "belongs to other" in again.enrolment.outdated


def test_a_store_that_was_emptied_gets_back_what_the_nodes_know(
    tmp_path: Path, store: Store, cluster: Cluster
) -> None:
    member = entered(tmp_path, store, "b")
    member.care()
    for entry in store.entries("").entries:
        store.delete(entry.key, entry.revision)
    assert member.enrolment.is_outdated()
    member.hear()
    assert set(cluster.view().blocks_of("b")) == set(member.addresses.blocks())
    assert cluster.view().nodes["b"].gateway == member.addresses.gateway.ip


def test_a_record_that_cannot_be_read_is_written_anew_by_its_node_and_hinders_no_peer(
    tmp_path: Path, store: Store, cluster: Cluster
) -> None:
    peer, member = entered(tmp_path, store, "a"), entered(tmp_path, store, "b")
    for node_ in (peer, member):
        node_.hear()
    entry = store.get("nodes/b")
    assert entry is not None
    garbled = store.replace(entry.key, b"{half", entry.revision)
    for node_ in (peer, member):
        node_.live.apply(StoreEvent(garbled.key, garbled, garbled.revision))
    assert [other.name for other in peer.live.peers("a")] == ["b"]
    assert "key 'nodes/b' in the store is not ours" in peer.live.problems["nodes/b"]
    member.enrolment.check()
    assert store.get("nodes/b").value == entry.value  # type: ignore[union-attr]
    # A start finds it so, too.
    member.stop()
    now = store.get("nodes/b")
    assert now is not None
    store.replace(now.key, b"", now.revision)
    again = entered(tmp_path, store, "b")
    assert store.get("nodes/b").value == entry.value  # type: ignore[union-attr]
    assert again.addresses.blocks().keys() == member.addresses.blocks().keys()


@pytest.mark.parametrize("lose_answer", [False, True])
def test_a_claim_whose_answer_is_lost_costs_no_block(
    tmp_path: Path, store: Store, cluster: Cluster, lose_answer: bool
) -> None:
    member = entered(tmp_path, store, "b")
    member.hear()
    member.wire.calls_left, member.wire.lose_answer = int(lose_answer), lose_answer
    with pytest.raises(StoreUnavailable):
        member.care()
    member.wire.calls_left = None
    member.hear()
    member.care()
    assert set(cluster.view().blocks_of("b")) == set(member.addresses.blocks())
    assert len(member.addresses.blocks()) == 2


def test_a_kept_view_that_cannot_be_read_is_no_obstacle(tmp_path: Path, store: Store) -> None:
    member = entered(tmp_path, store, "b")
    member.stop()
    (tmp_path / "b" / "view.json").write_text("{half")
    again = node(tmp_path, store, "b")
    again.wire.calls_left = 0
    assert not again.enter()
    assert again.live.peers("b") == []


@pytest.mark.parametrize("calls", range(4, 8))
def test_a_node_that_has_learned_of_its_removal_does_not_go_on_without_the_store(
    tmp_path: Path, store: Store, cluster: Cluster, calls: int
) -> None:
    """Its blocks may be others' by now; however often it begins, until it has taken up what is left of them."""
    entered(tmp_path, store, "a").care()
    member = entered(tmp_path, store, "b")
    member.stop()
    remove_peer(cluster, "b", "a")
    again = node(tmp_path, store, "b")
    again.wire.calls_left = calls
    for attempt in range(2):
        if attempt:
            again.stop()
            again = node(tmp_path, store, "b")
            again.wire.calls_left = 0
        with pytest.raises(StoreUnavailable):
            again.enter()
    again.stop()
    last = entered(tmp_path, store, "b")
    assert set(last.addresses.blocks()) == set(cluster.view().blocks_of("b"))


def test_a_pod_that_is_displaced_in_one_family_costs_no_address_of_the_other(
    tmp_path: Path, store: Store, cluster: Cluster
) -> None:
    ranges = parse_ranges("10.244.0.0/24,fd00::/120")
    member = Member(tmp_path, store, "b", *ranges)
    member.enter()
    kept = member.add("c")
    member.stop()
    remove_peer(cluster, "b", "a")
    (_, six) = member.addresses.blocks()
    cluster.claim(six, "other")
    again = Member(tmp_path, store, "b", *ranges)
    again.enter()
    assert again.journal.attachments() == []
    assert [count.in_use for count in again.addresses.counts()] == [1, 1]
    assert kept.addresses[0] in again.addresses.counts()[0].blocks[0]
