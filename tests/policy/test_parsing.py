"""What the API would refuse is named, isolates, and allows nothing."""

from typing import Any

import pytest

from tests.policy.clusters import policy
from weft.policy import ranges
from weft.policy.compiler import Compiler
from weft.policy.evaluation import Evaluator, Packet
from weft.policy.objects import EVERYTHING, Policy
from weft.policy.parsing import ParseError, parse_namespace, parse_pod, parse_policy


def parsed(**spec: Any) -> Policy:
    return parse_policy(policy("x", "p", **spec))


def ingress(*peers: Any, ports: Any = None) -> list[dict[str, Any]]:
    return [{"from": list(peers), **({"ports": ports} if ports is not None else {})}]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"ingress": ingress({})}, "spec.ingress[0].from[0]: must have a podSelector"),
        ({"ingress": ingress({"ipBlock": {"cidr": "10.0.0.1/8"}})}, "10.0.0.1/8 has host bits set"),
        ({"ingress": ingress({"ipBlock": {"cidr": "10.0.0.0"}})}, "ipBlock '10.0.0.0': write it as CIDR"),
        ({"ingress": ingress({"ipBlock": {"cidr": "10.0.0.0/33"}})}, "10.0.0.0/33"),
        ({"ingress": ingress({"ipBlock": {}})}, "write it as CIDR"),
        ({"ingress": ingress({"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}})}, "stands alone"),
        (
            {"ingress": ingress({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}})},
            "except[0] '11.0.0.0/16': must lie within 10.0.0.0/8",
        ),
        ({"ingress": ingress({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}})}, "be smaller"),
        ({"ingress": ingress({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["fd00::/16"]}})}, "must lie within"),
        ({"ingress": ingress(ports=[{"port": 80, "endPort": 79}])}, "ports[0] 79: endPort: give 80 to 65535"),
        ({"ingress": ingress(ports=[{"endPort": 79}])}, "endPort: needs a port by number"),
        ({"ingress": ingress(ports=[{"port": "http", "endPort": 90}])}, "endPort: needs a port by number"),
        ({"ingress": ingress(ports=[{"port": 0}])}, "port: give 1 to 65535"),
        ({"ingress": ingress(ports=[{"port": 65536}])}, "port: give 1 to 65535"),
        ({"ingress": ingress(ports=[{"port": True}])}, "port: give 1 to 65535"),
        ({"ingress": ingress(ports=[{"port": "HTTP"}])}, "a name has at most 15"),
        ({"ingress": ingress(ports=[{"port": "80"}])}, "a name has at most 15"),
        ({"ingress": ingress(ports=[{"protocol": "tcp"}])}, "protocol: use TCP, UDP or SCTP"),
        ({"egress": [{"from": []}]}, "spec.egress[0] 'from': unknown field; there are: to, ports"),
        ({"ingres": []}, "spec 'ingres': unknown field"),
        ({"ingress": {}}, "spec.ingress {}: must be a list"),
        ({"policyTypes": ["Ingres"]}, "spec.policyTypes[0] 'Ingres': use Ingress or Egress"),
        (
            {"podSelector": {"matchExpressions": [{"key": "a", "operator": "Equals"}]}},
            "'Equals': operator: use In",
        ),
        ({"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}, "values: give at least one"),
        (
            {"podSelector": {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}},
            "values: leave them out",
        ),
        ({"podSelector": {"matchLabels": {"a b": "c"}}}, "'a b': is not a label's name"),
        ({"podSelector": {"matchLabels": {"a": 1}}}, "1: is not a label's value"),
        ({"podSelector": "all"}, "spec.podSelector 'all': must be an object"),
    ],
)
def test_a_bad_policy_is_named_and_isolates(spec: dict[str, Any], said: str) -> None:
    found = parsed(**{"podSelector": {}, "ingress": [{}], **spec})
    assert said in " ".join(found.problems)
    assert found.ingress == ()
    assert found.egress in ((), None)
    assert found.selector == EVERYTHING
    # Whatever else there is stays as it is, and this one opens nothing.
    compiler = Compiler("one")
    for number, namespace in enumerate("xy", start=1):
        status = {"podIP": f"10.0.0.{number}"}
        compiler.put_pod(
            parse_pod(
                {"metadata": {"name": "a", "namespace": namespace}, "spec": {"nodeName": "one"}, "status": status}
            )
        )
    compiler.put_policy(found)
    evaluate = Evaluator(compiler.model())
    assert not evaluate(Packet("10.0.0.2", "10.0.0.1", "tcp", 80)).passes
    assert evaluate(Packet("192.0.2.1", "10.0.0.2", "tcp", 80)).passes


def test_an_unknown_direction_isolates_both() -> None:
    assert parsed(podSelector={}, policyTypes=["Both"]).egress == ()


def test_a_bad_rule_leaves_the_target_as_narrow_as_it_was() -> None:
    found = parsed(podSelector={"matchLabels": {"app": "db"}}, ingress=ingress({}))
    assert found.problems and not found.selector.matches({"app": "web"}) and found.selector.matches({"app": "db"})


@pytest.mark.parametrize(
    ("spec", "directions"),
    [
        ({}, (True, False)),
        ({"egress": []}, (True, False)),
        ({"egress": [{}]}, (True, True)),
        ({"policyTypes": [], "egress": [{}]}, (True, True)),
        ({"policyTypes": ["Egress"], "ingress": [{}]}, (False, True)),
        ({"policyTypes": ["Ingress"], "egress": [{}]}, (True, False)),
    ],
)
def test_types_are_filled_in_as_the_api_does(spec: dict[str, Any], directions: tuple[bool, bool]) -> None:
    found = parsed(podSelector={}, **spec)
    assert (found.ingress is not None, found.egress is not None) == directions
    assert not found.problems


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"metadata": {}},
        {"metadata": {"name": "Upper"}},
        {"metadata": {"name": "p", "namespace": "../etc"}},
        {"metadata": {"name": "a; flush ruleset"}},
        {"metadata": {"name": "p\n"}},
    ],
)
def test_an_object_without_a_usable_name_is_refused(data: dict[str, Any]) -> None:
    for parse in (parse_policy, parse_pod, parse_namespace):
        with pytest.raises(ParseError):
            parse(data)


def test_an_address_of_a_pod_is_checked() -> None:
    with pytest.raises(ParseError, match="Pod x/a: status.podIP: '10.0.0.1 }' does not appear"):
        parse_pod({"metadata": {"name": "a", "namespace": "x"}, "status": {"podIP": "10.0.0.1 }"}})


def test_a_large_block_is_merged() -> None:
    holes = [f"10.{number >> 8 & 255}.{number & 255}.{2 * half}/31" for number in range(10_000) for half in (0, 2)]
    found = parsed(podSelector={}, ingress=ingress({"ipBlock": {"cidr": "10.0.0.0/8", "except": holes}}))
    assert not found.problems and found.ingress
    allowed = ranges.allowed(found.ingress[0].peers, 4)  # type: ignore[arg-type]
    assert len(allowed) == 20_000
    assert sum(high - low + 1 for low, high in allowed) == 2**24 - 2 * 20_000
