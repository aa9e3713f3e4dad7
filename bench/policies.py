"""A large cluster for measurements: 10,000 pods in 1,000 namespaces under 5,000 policies of the usual kinds."""

from collections.abc import Iterator
from typing import Any

PODS, NAMESPACES, POLICIES = 10_000, 1_000, 5_000
APPS, TEAMS = ("web", "api", "db", "queue", "cache"), 20


def namespaces() -> Iterator[dict[str, Any]]:
    """Namespaces of twenty teams."""
    for number in range(NAMESPACES):
        yield {
            "kind": "Namespace",
            "metadata": {"name": f"ns-{number}", "labels": {"team": f"team-{number % TEAMS}"}},
        }


def pods(nodes: int) -> Iterator[dict[str, Any]]:
    """Pods, ten in each namespace, spread over nodes ``node-0`` and so on."""
    for number in range(PODS):
        yield pod(number, f"node-{number % nodes}")


def pod(number: int, node: str) -> dict[str, Any]:
    """One pod of the cluster by its number."""
    app = APPS[number // NAMESPACES % len(APPS)]
    return {
        "kind": "Pod",
        "metadata": {
            "uid": f"uid-{number}",
            "name": f"{app}-{number}",
            "namespace": f"ns-{number % NAMESPACES}",
            "labels": {"app": app, "pod-template-hash": f"{number // 100:x}"},
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {
            "nodeName": node,
            "containers": [
                {"ports": [{"name": "http", "containerPort": 8080}, {"name": "m", "containerPort": 9090}]}
            ],
        },
        "status": {"phase": "Running", "podIP": f"10.{64 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"},
    }


def policies(count: int = POLICIES) -> Iterator[dict[str, Any]]:
    """Five kinds in turn: deny all; the app before; a team's monitoring; egress to a block; egress by name."""
    for number in range(count):
        yield policy(number)


def policy(number: int) -> dict[str, Any]:
    """One policy of the cluster by its number."""
    namespace, kind = number % NAMESPACES, number // NAMESPACES % 5
    app, peer = APPS[kind], APPS[kind - 1]
    spec: dict[str, Any] = {"podSelector": {"matchLabels": {"app": app}}, "policyTypes": ["Ingress"]}
    if kind == 0:
        spec["podSelector"] = {}
    elif kind == 1:
        ports = [{"port": 8080}, {"protocol": "UDP", "port": 5000, "endPort": 5100 + number % 7}]
        spec["ingress"] = [{"from": [{"podSelector": {"matchLabels": {"app": peer}}}], "ports": ports}]
    elif kind == 2:
        team = {"namespaceSelector": {"matchLabels": {"team": f"team-{number % TEAMS}"}}}
        spec["ingress"] = [
            {"from": [{**team, "podSelector": {"matchLabels": {"app": peer}}}], "ports": [{"port": "m"}]}
        ]
    elif kind == 3:
        block = {"cidr": "10.0.0.0/8", "except": [f"10.{number % 200}.0.0/16"]}
        spec |= {"policyTypes": ["Egress"], "egress": [{"to": [{"ipBlock": block}], "ports": [{"port": 5432}]}]}
    else:
        spec |= {
            "policyTypes": ["Ingress", "Egress"],
            "egress": [{"to": [{"podSelector": {}}], "ports": [{"port": "http"}]}],
        }
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": f"policy-{number}", "namespace": f"ns-{namespace}"},
        "spec": spec,
    }
