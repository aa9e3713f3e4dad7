"""Differences of models, applied to the kernel and read back from it."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.namespaces import inside, network_namespace
from tests.policy import clusters
from tests.policy.test_compiler import apply, histories
from weft.kernel.nftables import NftContext
from weft.policy import rendering
from weft.policy.compiler import Compiler
from weft.policy.parsing import parse_pod, parse_policy
from weft.policy.reading import read

LIST = f"table {rendering.TABLE}"


@settings(max_examples=12, deadline=None)
@given(st.lists(histories(), min_size=2, max_size=4))
def test_the_kernel_has_what_the_model_says(batches: list[list[tuple[str, Any]]]) -> None:
    """After each batch of events, and after a start that finds the table of an earlier run."""

    def work() -> None:
        compiler = Compiler("one", log=True)
        model = compiler.model()
        with NftContext() as nftables:
            for ruleset in rendering.whole(model):
                nftables.apply(ruleset)
            for batch in batches:
                for kind, value in batch:
                    apply(compiler, kind, value)
                wanted = compiler.model()
                for ruleset in rendering.difference(model, wanted):
                    nftables.apply(ruleset)
                found = read(nftables.list(LIST), wanted)
                assert found == wanted
                assert rendering.difference(found, wanted) == []
                # An agent that starts anew with other objects in mind comes from what it finds.
                model = found
            nftables.apply(rendering.replacement(model))
            assert read(nftables.list(LIST), model) == model

    with network_namespace() as namespace:
        inside(namespace, work)


def test_a_difference_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is new comes first, then one transaction switches, then the rest goes."""
    monkeypatch.setattr(rendering, "_LINES_AT_ONCE", 5)
    old, new = Compiler("one"), Compiler("one")
    for number in range(20):
        for compiler in (old, new):
            compiler.put_pod(parse_pod(_pod(number)))
        selector = {"matchLabels": {"n": str(number)}}
        old.put_policy(parse_policy(clusters.policy("default", f"old-{number}", podSelector=selector)))
        block = {"from": [{"ipBlock": {"cidr": f"10.{number}.0.0/16"}}]}
        new.put_policy(
            parse_policy(clusters.policy("default", f"new-{number}", podSelector=selector, ingress=[block]))
        )
    pieces = rendering.difference(old.model(), new.model())
    switches = [number for number, piece in enumerate(pieces) if "element inet weft-policy ingress4" in piece]
    assert len(pieces) > 5
    assert len(switches) == 1

    def work() -> None:
        with NftContext() as nftables:
            for ruleset in rendering.whole(old.model()):
                nftables.apply(ruleset)
            for number, piece in enumerate(pieces):
                nftables.apply(piece)
                maps = read(nftables.list(LIST), new.model()).maps
                assert maps == (old if number < switches[0] else new).model().maps
            assert read(nftables.list(LIST), new.model()) == new.model()

    with network_namespace() as namespace:
        inside(namespace, work)


def test_what_somebody_changed_is_written_anew() -> None:
    compiler = Compiler("one")
    compiler.put_pod(parse_pod(_pod(1)))
    block = {"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}
    compiler.put_policy(parse_policy(clusters.policy("default", "p", podSelector={}, ingress=[block])))
    model = compiler.model()

    def work() -> None:
        with NftContext() as nftables:
            for ruleset in rendering.whole(model):
                nftables.apply(ruleset)
            nftables.apply(f"insert rule {rendering.TABLE} in/default/p accept\n")
            nftables.apply(f"flush map {rendering.TABLE} ingress4\n")
            found = read(nftables.list(LIST), model)
            assert found != model
            for ruleset in rendering.difference(found, model):
                nftables.apply(ruleset)
            assert read(nftables.list(LIST), model) == model

    with network_namespace() as namespace:
        inside(namespace, work)


def _pod(number: int) -> dict[str, Any]:
    return {
        "metadata": {"name": f"pod-{number}", "labels": {"n": str(number)}},
        "spec": {"nodeName": "one"},
        "status": {"podIP": f"10.32.0.{number + 1}"},
    }
