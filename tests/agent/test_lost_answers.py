"""Claims that are made although nobody heard so: a real agent finds them to be its own."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from tests.agent.storm.network import sandboxes
from tests.agent.test_agent import eventually
from tests.agent.test_in_a_cluster import kind, new_node, serve_with_rights
from tests.namespaces import ip, path
from tests.nodes import Node, cluster
from tests.store.etcd import PORT, Etcd, in_memory
from tests.store.thief import Thief
from weft.agent.cluster import Cluster
from weft.cni import ErrorCode
from weft.kernel.namespace import NetworkNamespace
from weft.store import open_store

HOST = "172.25.1.1"
#: Of blocks of eight addresses: a few pods need another one.
RANGE = ("--range", "10.244.0.0/25")


def own(node: Node) -> set[str]:
    return set(node.report()["ipam"]["blocks"])


def run_out_while_answers_are_lost(
    node: Node, lose: Callable[[bool], None], owned: Callable[[], set[str]]
) -> None:
    """More pods, in the end, than the node's blocks have addresses for."""
    assert eventually(lambda: len(own(node)) == 2)
    with sandboxes(20) as names:
        lose(True)
        for number in range(node.report()["ipam"]["free"]):
            node.add(f"c{number}", str(path(names[number])))
        status, answer = node.call("ADD", "late", str(path(names[-1])))
        # The watch may have told it meanwhile.
        assert status == 0 or answer["code"] == ErrorCode.TRY_AGAIN_LATER
        assert len(owned()) > 2
        lose(False)
        assert status == 0 or eventually(lambda: node.call("ADD", "late", str(path(names[-1])))[0] == 0, 20)
        assert eventually(lambda: own(node) == owned(), 20), (own(node), owned())
        assert node.report()["ipam"]["inUse"] == node.report()["ipam"]["attachments"] + 1


def test_etcd(tmp_path: Path) -> None:
    with (
        cluster(tmp_path, ("node01",), *RANGE) as (node,),
        in_memory() as folder,
        NetworkNamespace.open(path(node.wire)) as wire,
        wire.entered(),
        closing(Thief(HOST, "/weft/blocks/")) as thief,
    ):
        ip("link", "set", "lo", "up", namespace=node.wire)
        server = Etcd(node.wire, folder, HOST)
        server.start()
        try:
            thief.start()
            node.options += ("--store", f"etcd://{HOST}:{thief.port}?timeout=0.5")

            def owned() -> set[str]:
                with closing(open_store(f"etcd://{HOST}:{PORT}")) as store:
                    return set(map(str, Cluster(store).view().blocks_of(node.name)))

            def lose(lost: bool) -> None:
                thief.steals = 1000 if lost else 0

            lose(True)
            node.spawn()
            assert eventually(lambda: "the store is away (etcd at 172.25.1.1" in node.log.read_text(), 30)
            assert eventually(lambda: len(owned()) == 1, 30)
            # However often it asks.
            first = owned()
            assert not eventually(lambda: owned() != first, 5)
            assert node.status() == 503
            lose(False)
            assert eventually(lambda: node.status() == 200, 30), node.log.read_text()
            assert first < own(node)
            run_out_while_answers_are_lost(node, lose, owned)
        finally:
            server.end()


def test_kubernetes(tmp_path: Path) -> None:
    with serve_with_rights(tmp_path, ("controlplane", "node01"), *RANGE) as made:
        node = made.nodes[1]

        def owned() -> set[str]:
            return {
                name.removeprefix("weft-blocks-").replace("-", "/")
                for name, owner in made.owners().items()
                if owner == node.name
            }

        def lose(lost: bool) -> None:
            made.server.faults.lost = lambda method, url: lost and method == "POST" and url.endswith("/leases")

        run_out_while_answers_are_lost(node, lose, owned)
        # A node that is new: it asks again, and finds the block that it has.
        node.kill()
        for file in (node.folder / "state").glob("*"):
            if file.is_file():
                file.unlink()
        made.storage.delete(kind("Node"), "", node.name)
        assert eventually(lambda: not owned(), 20)
        new_node(made.storage, node.name)
        lose(True)
        log = len(node.log.read_text())
        node.start()
        assert "the store is away (API server http://172.25.1.1:6443" in node.log.read_text()[log:]
        assert own(node) <= owned()
        lose(False)
        assert eventually(lambda: own(node) == owned(), 20), (own(node), owned())
