"""Kubernetes' own cases and generated ones with packets: TCP, UDP and SCTP, on two nodes."""

import pytest

from tests.lab.policy.cases import CASES, Case, Step
from tests.lab.policy.conftest import PORTS, Cluster
from tests.policy import generated
from weft.lab import policy_check


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_kubernetes_cases(cluster: Cluster, case: Case) -> None:
    """The packets, the definition and the case's own table say the same; of one IP version in turn."""
    for step in case.steps:
        cluster.put(step)
        probes = policy_check.prove(cluster.lab, list(step.denied))
        assert [probe for probe in probes if not probe.good] == []
        listed = case.pods.split()
        for probe in probes:
            ends = probe.source.replace("-", ""), probe.target.replace("-", "")
            if not set(ends) <= set(listed) or (probe.version == 6 and "ipBlock" in str(step.policies)):
                continue
            assert probe.reached != any(
                covers(pattern, *ends) for pattern in step.denied[probe.protocol, probe.port]
            ), (step, probe)


def test_some_of_the_generated_policies(cluster: Cluster) -> None:
    """One in seventy with packets; ``tests.policy.test_generated`` has all of them without."""
    listed = list(generated.cases(cluster.block("xb", "29"), cluster.block("xb", "31")))
    for name, manifests in listed[::70]:
        cluster.put(Step({}, {}), manifests)
        bad = [probe for probe in policy_check.prove(cluster.lab, PORTS[:4:3]) if not probe.good]
        assert bad == [], name


def test_the_check_finds_what_is_not_enforced(cluster: Cluster) -> None:
    """A policy that no table has, and a table that says more than the policies."""
    lab = cluster.lab
    cluster.put(Step({"deny": "x podSelector: {}"}, {}))
    assert all(probe.good for probe in policy_check.prove(lab, [("tcp", 80)]))
    cluster.on_node(0, "nft", "delete", "table", "inet", "weft-policy")
    bad = [probe for probe in policy_check.prove(lab, [("tcp", 80)]) if not probe.good]
    assert {probe.target for probe in bad} == {"x-a", "x-b"}
    assert not any(probe.expected for probe in bad)
    # A change makes the table anew.
    cluster.put(Step({}, {}))
    assert all(probe.good for probe in policy_check.prove(lab, [("tcp", 80)]))
    cluster.on_node(0, "nft", "insert", "rule", "inet", "weft-policy", "egress", "tcp", "dport", "80", "drop")
    bad = [probe for probe in policy_check.prove(lab, [("tcp", 80)]) if not probe.good]
    assert bad and all(probe.expected for probe in bad)
    cluster.on_node(0, "nft", "delete", "table", "inet", "weft-policy")
    cluster.put(Step({"deny": "x podSelector: {}"}, {}))


def covers(pattern: str, source: str, target: str) -> bool:
    """Whether a pattern of a case denies the way."""
    head, _, excepted = pattern.partition(" except ")
    wanted = head.split(">")
    if set(excepted.split()) & {source, target}:
        return False
    return all(each in ("*", end, end[0]) for each, end in zip(wanted, (source, target), strict=True))


def test_the_patterns() -> None:
    assert covers("*>x", "ya", "xb") and not covers("*>x", "xb", "ya")
    assert covers("xa>* except yb", "xa", "ya") and not covers("xa>* except yb", "xa", "yb")
    assert not covers("xa>y", "xb", "ya")
