"""Policies by the hundred, every combination of what a rule may say, in the manner of cyclonus' generator."""

from collections.abc import Iterator
from itertools import chain, combinations, product
from typing import Any

from tests.policy.clusters import policy

Case = tuple[str, list[dict[str, Any]]]

_PODS: dict[str, Any] = {
    "any pod": {},
    "pod b": {"matchLabels": {"pod": "b"}},
    "pod not a": {"matchExpressions": [{"key": "pod", "operator": "NotIn", "values": ["a"]}]},
}
_NAME = "kubernetes.io/metadata.name"
_NAMESPACES: dict[str, Any] = {
    "any namespace": {},
    "namespace y": {"matchLabels": {_NAME: "y"}},
    "namespace x or z": {"matchExpressions": [{"key": _NAME, "operator": "In", "values": ["x", "z"]}]},
}


def peers(block: str, hole: str) -> dict[str, dict[str, Any]]:
    """Every kind of peer, by what it means."""
    found: dict[str, dict[str, Any]] = {
        "block": {"ipBlock": {"cidr": block}},
        "block with exception": {"ipBlock": {"cidr": block, "except": [hole]}},
    }
    for (pods, pod_selector), (namespaces, selector) in product(
        [("", None), *_PODS.items()], [("", None), *_NAMESPACES.items()]
    ):
        if pods or namespaces:
            parts = {"podSelector": pod_selector, "namespaceSelector": selector}
            found[f"{pods} {namespaces}".strip()] = {
                name: part for name, part in parts.items() if part is not None
            }
    return found


def ports() -> dict[str, dict[str, Any]]:
    """Every kind of port, by what it means."""
    kinds: dict[str, dict[str, Any]] = {
        "any port": {},
        "port 80": {"port": 80},
        "port by name": {"port": "serve-81-udp"},
        "range": {"port": 79, "endPort": 80},
    }
    protocols: dict[str, dict[str, Any]] = {
        "no protocol": {},
        **{name: {"protocol": name} for name in ("TCP", "UDP", "SCTP")},
    }
    return {
        f"{kind}, {protocol}": {**port, **given}
        for (kind, port), (protocol, given) in product(kinds.items(), protocols.items())
    }


def cases(block: str, hole: str) -> Iterator[Case]:
    """All of them; ``block`` is around some of the pods, ``hole`` within it."""
    every = peers(block, hole)
    for direction, (number, names) in product(("ingress", "egress"), _some_of(every)):
        chosen = [every[name] for name in names]
        yield f"{direction}, {number} peers: {'; '.join(names)}", [_rule("p", direction, chosen, [])]
    listed = ports()
    for direction, (number, names) in product(("ingress", "egress"), _some_of(listed)):
        chosen = [listed[name] for name in names]
        yield f"{direction}, {number} ports: {'; '.join(names)}", [_rule("p", direction, [], chosen)]
    yield from _conflicts(every)
    yield from _targets()


def _some_of(named: dict[str, Any]) -> Iterator[tuple[int, tuple[str, ...]]]:
    chosen = chain(*(combinations(named, number) for number in (0, 1, 2)))
    return ((len(names), names) for names in chosen)


def _rule(name: str, direction: str, chosen: list[Any], listed: list[Any], namespace: str = "x") -> dict[str, Any]:
    rule: dict[str, Any] = {}
    if chosen:
        rule["from" if direction == "ingress" else "to"] = chosen
    if listed:
        rule["ports"] = listed
    kind = direction.capitalize()
    selector = {"matchLabels": {"pod": "a"}}
    return policy(namespace, name, podSelector=selector, policyTypes=[kind], **{direction: [rule]})


def _conflicts(every: dict[str, Any]) -> Iterator[Case]:
    """One policy that denies and one that allows, at the same end or at either."""
    for direction, other, peer in product(
        ("ingress", "egress"), ("ingress", "egress"), ("pod b", "block", "namespace y")
    ):
        deny = policy("x", "deny", podSelector={}, policyTypes=[direction.capitalize()])
        for namespace in "xy":
            allow = _rule("allow", other, [every[peer]], [], namespace)
            yield f"deny {direction} and allow {other} of {namespace}: {peer}", [deny, allow]


def _targets() -> Iterator[Case]:
    """Whom a policy selects, in which directions, without and with rules."""
    selectors = [*_PODS.items(), ("nobody", {"matchLabels": {"pod": "none"}})]
    types: list[Any] = [None, ["Ingress"], ["Egress"], ["Ingress", "Egress"]]
    rules: list[dict[str, Any]] = [{}, {"ingress": []}, {"ingress": [{}]}, {"egress": []}, {"egress": [{}]}]
    for (name, selector), given, rule in product(selectors, types, rules):
        kinds = {} if given is None else {"policyTypes": given}
        found = policy("y", "p", podSelector=selector, **kinds, **rule)
        yield f"{name}, types {given}, {rule}", [found]
