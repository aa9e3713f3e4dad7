"""The controller over a real table: batches, attachments, starts anew, and what others do to the table."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.namespaces import inside, network_namespace, run
from tests.policy.clusters import policy
from weft.kernel.nftables import NftablesError, NftContext
from weft.npc.admissions import Admission, Admissions
from weft.npc.controller import Choices, Controller, NotReady
from weft.npc.source import Batch
from weft.npc.table import Table
from weft.policy import rendering
from weft.policy.parsing import parse_namespace, parse_pod, parse_policy
from weft.policy.reading import read

DENY = policy("x", "deny", podSelector={}, policyTypes=["Ingress", "Egress"])


def pod(name: str, address: str = "", node: str = "one", **labels: str) -> Any:
    return parse_pod(
        {
            "metadata": {"name": name, "namespace": "x", "uid": f"uid-{name}", "labels": labels},
            "spec": {"nodeName": node},
            "status": {"podIP": address} if address else {},
        }
    )


def batch(*pods: Any, policies: tuple[Any, ...] = (DENY,), revision: str = "1") -> Batch:
    namespaces = (parse_namespace({"metadata": {"name": "x"}}),)
    return Batch(pods, namespaces, tuple(map(parse_policy, policies)), whole=True, revision=revision)


def admission(name: str, address: str, container: str = "", created: float = 0.0) -> Admission:
    return Admission(container or f"id-{name}", "eth0", "x", name, "", (address,), created or time.time())


class Node:
    """A controller, and the table that the kernel has."""

    def __init__(self, folder: Path, **choices: Any) -> None:
        self.folder = folder
        self.choices = Choices(**{"wait": 0.05, **choices})
        self.start()

    def start(self) -> None:
        self.table = Table()
        self.controller = Controller("one", self.table, Admissions(self.folder / "admissions.json"), self.choices)

    def ingress(self) -> dict[str, str]:
        with NftContext() as nftables:
            model = self.controller.inspect(lambda compiler, table: compiler.model())
            found = read(nftables.list(f"table {rendering.TABLE}"), model)
            assert found == model
        return dict(found.maps["ingress4"].elements)


@contextmanager
def node(folder: Path, work: Callable[[Node], None], **choices: Any) -> Iterator[str]:
    """Do the work with a controller in a namespace of its own; its name."""
    with network_namespace() as namespace:
        inside(namespace, lambda: work(Node(folder, **choices)))
        yield namespace


def test_batches_and_attachments(tmp_path: Path) -> None:
    def work(one: Node) -> None:
        control = one.controller
        control.apply(batch(pod("a", "10.32.0.1"), pod("far", "10.44.0.1", node="two")))
        assert list(one.ingress()) == ["10.32.0.1"]
        # Kubernetes tells the address of a pod later than its labels, and both after its ADD or before it.
        control.apply(batch(pod("a", "10.32.0.1"), pod("b"), revision="2"))
        assert control.revision == "2"
        assert control.admit(admission("b", "10.32.0.2")) is True
        assert sorted(one.ingress()) == ["10.32.0.1", "10.32.0.2"]
        control.dismiss("id-b", "eth0")
        assert list(one.ingress()) == ["10.32.0.1"]
        control.apply(batch(pod("a", "10.32.0.1"), policies=()))
        assert one.ingress() == {}

    with node(tmp_path, work):
        pass


@pytest.mark.parametrize("choice", [False, True])
def test_an_unknown_pod_is_closed_unless_told_otherwise(tmp_path: Path, choice: bool) -> None:
    allow = policy("x", "allow", podSelector={"matchLabels": {"app": "web"}}, ingress=[{}])
    deny = policy("x", "deny", podSelector={"matchLabels": {"app": "db"}})

    def work(one: Node) -> None:
        one.controller.apply(batch(policies=(allow, deny)))
        assert one.controller.admit(admission("late", "10.32.0.9")) is False
        assert one.ingress() == ({} if choice else {"10.32.0.9": "deny/in/unknown"})
        one.controller.apply(batch(pod("late", app="web"), policies=(allow, deny)))
        assert "unknown" not in one.ingress()["10.32.0.9"]

    with node(tmp_path, work, open_unknown=choice):
        pass


def test_an_attach_waits_for_the_labels(tmp_path: Path) -> None:
    def work(one: Node) -> None:
        one.controller.apply(batch())
        late = threading.Timer(0.2, lambda: one.controller.apply(batch(pod("late", app="web"))))
        late.start()
        assert one.controller.admit(admission("late", "10.32.0.9")) is True
        late.join()

    with node(tmp_path, work, wait=20.0):
        pass


def test_nothing_is_attached_before_anything_is_known(tmp_path: Path) -> None:
    def work(one: Node) -> None:
        with pytest.raises(NotReady):
            one.controller.admit(admission("a", "10.32.0.1"))

    with node(tmp_path, work) as namespace:
        assert "weft-policy" not in run("nft", "list", "ruleset", namespace=namespace)


def test_an_address_that_is_used_again_inherits_nothing(tmp_path: Path) -> None:
    """The new pod's ADD comes before anybody tells that the old one is gone, and the other way round."""
    only_old = policy("x", "old", podSelector={"matchLabels": {"app": "old"}})

    def work(one: Node) -> None:
        control = one.controller
        control.apply(batch(pod("old", app="old"), pod("new", app="new"), policies=(only_old,)))
        control.admit(admission("old", "10.32.0.1", created=1.0))
        assert list(one.ingress()) == ["10.32.0.1"]
        control.admit(admission("new", "10.32.0.1", created=2.0))
        assert one.ingress() == {}
        control.dismiss("id-old", "eth0")
        assert one.ingress() == {}
        control.dismiss("id-new", "eth0")
        control.admit(admission("old", "10.32.0.1", container="again", created=3.0))
        assert list(one.ingress()) == ["10.32.0.1"]

    with node(tmp_path, work):
        pass


def test_a_start_anew_keeps_what_is_in_force(tmp_path: Path) -> None:
    """Nothing changes until the source has spoken, and then only what differs; counters go on."""

    def work(one: Node) -> None:
        one.controller.apply(batch(pod("a", "10.32.0.1"), pod("b")))
        one.controller.admit(admission("b", "10.32.0.2"))
        before = one.ingress()
        one.start()
        with NftContext() as nftables:
            listed = nftables.list(f"table {rendering.TABLE}")
            nftables.apply(f"add counter {rendering.TABLE} deny/in/mine {{ packets 7 bytes 700 }}\n")
        assert "10.32.0.2" in listed
        one.controller.apply(batch(pod("a", "10.32.0.1"), pod("b"), pod("c", "10.32.0.3")))
        assert one.ingress() == {**before, "10.32.0.3": before["10.32.0.1"]}
        # The difference, not the whole table: it names what is new.
        assert one.table.bytes_sent < len(rendering.replacement(one.controller.inspect(lambda c, t: c.model())))

    with node(tmp_path, work):
        pass


def test_a_table_that_cannot_be_read_is_replaced(tmp_path: Path) -> None:
    def work(one: Node) -> None:
        with NftContext() as nftables:
            nftables.apply(
                f"table {rendering.TABLE} {{\n set ingress4 {{ type ipv6_addr; }}\n"
                " chain other { ip6 saddr @ingress4 drop; }\n}\n"
            )
        one.controller.apply(batch(pod("a", "10.32.0.1")))
        assert list(one.ingress()) == ["10.32.0.1"]

    with node(tmp_path, work) as namespace:
        assert "chain other" not in run("nft", "list", "ruleset", namespace=namespace)


def test_what_others_remove_is_made_anew(tmp_path: Path) -> None:
    def work(one: Node) -> None:
        one.controller.apply(batch(pod("a", "10.32.0.1")))
        with NftContext() as nftables:
            nftables.apply("flush ruleset\n")
        assert not one.table.is_there()
        # A change that meets the missing table is retried whole.
        one.controller.apply(batch(pod("a", "10.32.0.1"), pod("b", "10.32.0.2")))
        assert sorted(one.ingress()) == ["10.32.0.1", "10.32.0.2"]
        with NftContext() as nftables:
            nftables.apply(f"delete element {rendering.TABLE} ingress4 {{ 10.32.0.1 }}\n")
        one.controller.apply(batch(pod("b", "10.32.0.2")))
        assert list(one.ingress()) == ["10.32.0.2"]

    with node(tmp_path, work):
        pass


def test_what_the_kernel_refuses_changes_nothing_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(one: Node) -> None:
        one.controller.apply(batch(pod("a", "10.32.0.1")))
        whole = rendering.difference
        with monkeypatch.context() as patch:
            patch.setattr(rendering, "difference", lambda *models: ["add rule inet nowhere chain accept\n"])
            patch.setattr(rendering, "replacement", lambda model: "add rule inet nowhere chain accept\n")
            one.controller.apply(batch(pod("b", "10.32.0.2"), revision="bad"))
            with pytest.raises(NftablesError):
                one.controller.admit(admission("c", "10.32.0.3"))
        assert one.controller.revision == "1"
        assert rendering.difference is whole
        with NftContext() as nftables:
            assert "10.32.0.1 : jump" in nftables.list(f"table {rendering.TABLE}")
        one.controller.apply(batch(pod("b", "10.32.0.2"), revision="good"))
        assert sorted(one.ingress()) == ["10.32.0.2", "10.32.0.3"]

    with node(tmp_path, work):
        pass
