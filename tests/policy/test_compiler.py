"""The compiler's tables, through an evaluator, against the oracle; and changes against a fresh start."""

from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.policy import clusters
from weft.policy.compiler import Compiler
from weft.policy.evaluation import Evaluator, Packet
from weft.policy.explanation import explain
from weft.policy.model import Model
from weft.policy.oracle import Cluster, Flow, allows
from weft.policy.parsing import parse_namespace, parse_pod, parse_policy

FLOWS = [
    Flow(source, destination, protocol, port)
    for source in [*clusters.ADDRESSES, *clusters.OTHERS]
    for destination in [*clusters.ADDRESSES, clusters.OTHERS[0], clusters.OTHERS[3]]
    if (":" in source) == (":" in destination)
    for protocol, port in [("TCP", 80), ("TCP", 5003), ("UDP", 81), ("SCTP", 5005), ("ICMP", None)]
]


def passes(evaluators: list[Evaluator], flow: Flow) -> bool:
    """What comes through both nodes: either has only its own pods in its maps."""
    packet = Packet(flow.source, flow.destination, flow.protocol.lower(), flow.port or 0)
    return all(evaluate(packet).passes for evaluate in evaluators)


def compilers() -> list[Compiler]:
    return [Compiler(node) for node in clusters.NODES]


def load(compiler: Compiler, cluster: Cluster) -> Model:
    for namespace in cluster.namespaces:
        compiler.put_namespace(parse_namespace(namespace))
    for pod in cluster.pods:
        compiler.put_pod(parse_pod(pod))
    for policy in cluster.policies:
        parsed = parse_policy(policy)
        assert not parsed.problems, parsed.problems
        compiler.put_policy(parsed)
    return compiler.model()


@st.composite
def some_cluster(draw: st.DrawFn) -> Cluster:
    pods = [draw(clusters.pods(str(uid))) for uid in range(draw(st.integers(1, 6)))]
    policies = [draw(clusters.policies(f"p{number}")) for number in range(draw(st.integers(1, 4)))]
    return Cluster(pods, clusters.namespaces(draw), policies)


@settings(max_examples=100, deadline=None)
@given(some_cluster(), st.randoms(use_true_random=False))
def test_the_table_decides_as_the_definition_does(cluster: Cluster, random: Random) -> None:
    evaluators = [Evaluator(load(compiler, cluster)) for compiler in compilers()]
    for flow in random.sample(FLOWS, 60):
        assert passes(evaluators, flow) == allows(cluster, flow), flow


@settings(max_examples=60, deadline=None)
@given(some_cluster(), st.randoms(use_true_random=False))
def test_the_explanation_is_what_the_definition_says(cluster: Cluster, random: Random) -> None:
    compiler = Compiler("one")
    load(compiler, cluster)
    for flow in random.sample(FLOWS, 60):
        found = explain(compiler, flow.source, flow.destination, flow.protocol.lower(), flow.port or 0)
        assert found.allowed == allows(cluster, flow), flow
        for side in (found.egress, found.ingress):
            assert {item.policy for item in side.allowing} <= set(side.isolating)


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, Any]]:
    events: list[tuple[str, Any]] = []
    for _ in range(draw(st.integers(2, 14))):
        kind = draw(
            st.sampled_from(["pod", "pod", "policy", "policy", "namespace", "-pod", "-policy", "-namespace"])
        )
        uid = str(draw(st.integers(0, 3)))
        if kind == "pod":
            events.append((kind, draw(clusters.pods(uid))))
        elif kind == "policy":
            events.append((kind, draw(clusters.policies(f"p{uid}"))))
        elif kind == "namespace":
            name = draw(st.sampled_from(clusters.NAMESPACES))
            events.append((kind, {"metadata": {"name": name, "labels": draw(clusters.labels)}}))
        elif kind == "-policy":
            events.append((kind, (draw(st.sampled_from(clusters.NAMESPACES)), f"p{uid}")))
        else:
            events.append((kind, uid if kind == "-pod" else draw(st.sampled_from(clusters.NAMESPACES))))
    return events


@settings(max_examples=100, deadline=None)
@given(histories(), st.booleans())
def test_changes_come_to_what_a_fresh_start_gives(events: list[tuple[str, Any]], every_time: bool) -> None:
    """Whether the table is asked for after each event or once at the end."""
    changed = Compiler("one")
    for kind, value in events:
        apply(changed, kind, value)
        if every_time:
            changed.model()
    fresh = Compiler("one")
    for pod in changed.pods.values():
        fresh.put_pod(pod)
    for policy in changed.policies.values():
        fresh.put_policy(policy)
    for namespace in changed.namespaces.values():
        fresh.put_namespace(namespace)
    one, other = changed.model(), fresh.model()
    if "egress6" in one.maps and "egress6" not in other.maps:
        # Only what came by can tell that there were IPv6 addresses once.
        fresh.put_pod(parse_pod({"metadata": {"name": "six", "uid": "six"}, "status": {"podIP": "fd00::77"}}))
        fresh.model()
        fresh.remove_pod("six")
        other = fresh.model()
    assert one == other


def apply(compiler: Compiler, kind: str, value: Any) -> None:
    if kind == "pod":
        compiler.put_pod(parse_pod(value))
    elif kind == "policy":
        compiler.put_policy(parse_policy(value))
    elif kind == "namespace":
        compiler.put_namespace(parse_namespace(value))
    elif kind == "-pod":
        compiler.remove_pod(value)
    elif kind == "-policy":
        compiler.remove_policy(value)
    else:
        compiler.remove_namespace(value)
