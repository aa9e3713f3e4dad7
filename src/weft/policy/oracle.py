"""What Kubernetes' definition says of one connection: slow, plain, and on the objects as the API has them.

Written from https://kubernetes.io/docs/concepts/services-networking/network-policies/ and the API's reference
alone, and sharing nothing with the compiler: the tests hold the two against each other. Objects must be valid.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

Object = Mapping[str, Any]


@dataclass(frozen=True)
class Flow:
    """A connection as its packets have it behind every translation of addresses. ``protocol`` as TCP, UDP, SCTP.

    ``port`` is None for protocols without ports.
    """

    source: str
    destination: str
    protocol: str
    port: int | None


@dataclass(frozen=True)
class Cluster:
    """All pods, namespaces and policies."""

    pods: Sequence[Object]
    namespaces: Sequence[Object] = ()
    policies: Sequence[Object] = field(default=())

    def pod_at(self, address: str) -> Object | None:
        """The pod whose own address it is: not a host's, not one that has ended; of several the newest."""
        found = [
            pod
            for pod in self.pods
            if address in _addresses(pod)
            and not pod.get("spec", {}).get("hostNetwork")
            and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")
        ]
        return max(found, key=_age, default=None)

    def namespace_labels(self, name: str) -> dict[str, str]:
        """A namespace's labels; its name is always among them."""
        labels: dict[str, str] = {}
        for namespace in self.namespaces:
            if namespace["metadata"]["name"] == name:
                labels = dict(namespace["metadata"].get("labels") or {})
        labels["kubernetes.io/metadata.name"] = name
        return labels


def allows(cluster: Cluster, flow: Flow) -> bool:
    """Whether the connection may be made: both its ends must allow it, and a pod cannot cut off itself."""
    source, destination = cluster.pod_at(flow.source), cluster.pod_at(flow.destination)
    if source is not None and source is destination:
        return True
    return _side_allows(cluster, source, "Egress", flow, flow.destination) and _side_allows(
        cluster, destination, "Ingress", flow, flow.source
    )


def _side_allows(cluster: Cluster, pod: Object | None, kind: str, flow: Flow, other: str) -> bool:
    if pod is None:
        return True  # nobody isolates what is not a pod
    isolating = [
        policy
        for policy in cluster.policies
        if _namespace(policy) == _namespace(pod)
        and kind in _types(policy)
        and _selects(policy["spec"].get("podSelector") or {}, pod["metadata"].get("labels") or {})
    ]
    if not isolating:
        return True
    return any(
        _rule_allows(cluster, policy, rule, kind, flow, other)
        for policy in isolating
        for rule in policy["spec"].get("ingress" if kind == "Ingress" else "egress") or []
    )


def _types(policy: Object) -> list[str]:
    given = policy["spec"].get("policyTypes")
    if given:
        return list(given)
    return ["Ingress", "Egress"] if policy["spec"].get("egress") else ["Ingress"]


def _rule_allows(cluster: Cluster, policy: Object, rule: Object, kind: str, flow: Flow, other: str) -> bool:
    peers, ports = rule.get("from" if kind == "Ingress" else "to") or [], rule.get("ports") or []
    return (not peers or any(_is_peer(cluster, policy, peer, other) for peer in peers)) and (
        not ports or any(_is_port(cluster, port, flow) for port in ports)
    )


def _is_peer(cluster: Cluster, policy: Object, peer: Object, address: str) -> bool:
    if peer.get("ipBlock") is not None:
        block = peer["ipBlock"]
        return _within(address, block["cidr"]) and not any(
            _within(address, hole) for hole in block.get("except") or []
        )
    pod = cluster.pod_at(address)
    if pod is None:
        return False
    if peer.get("namespaceSelector") is not None:
        if not _selects(peer["namespaceSelector"], cluster.namespace_labels(_namespace(pod))):
            return False
    elif _namespace(pod) != _namespace(policy):
        return False
    return peer.get("podSelector") is None or _selects(peer["podSelector"], pod["metadata"].get("labels") or {})


def _is_port(cluster: Cluster, port: Object, flow: Flow) -> bool:
    if (port.get("protocol") or "TCP") != flow.protocol or flow.port is None:
        return False
    wanted = port.get("port")
    if wanted is None:
        return True
    if isinstance(wanted, str):
        # A name means what the pod that is connected to means by it.
        pod = cluster.pod_at(flow.destination)
        return pod is not None and (wanted, flow.protocol, flow.port) in _named_ports(pod)
    return bool(wanted <= flow.port <= (port.get("endPort") or wanted))


def _named_ports(pod: Object) -> Iterable[tuple[str, str, int]]:
    spec = pod.get("spec", {})
    containers = list(spec.get("containers") or [])
    containers += [item for item in spec.get("initContainers") or [] if item.get("restartPolicy") == "Always"]
    return [
        (port["name"], port.get("protocol") or "TCP", port["containerPort"])
        for container in containers
        for port in container.get("ports") or []
        if port.get("name")
    ]


def _selects(selector: Object, labels: Mapping[str, str]) -> bool:
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    for expression in selector.get("matchExpressions") or []:
        key, operator, values = expression["key"], expression["operator"], expression.get("values") or []
        holds = {
            "In": key in labels and labels[key] in values,
            "NotIn": key not in labels or labels[key] not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }
        if not holds[operator]:
            return False
    return True


def _within(address: str, network: str) -> bool:
    return ip_address(address) in ip_network(network)


def _namespace(item: Object) -> str:
    return str(item["metadata"].get("namespace") or "default")


def _addresses(pod: Object) -> set[str]:
    status = pod.get("status") or {}
    listed = [entry["ip"] for entry in status.get("podIPs") or []]
    return {str(ip_address(text)) for text in [status.get("podIP"), *listed] if text}


def _age(pod: Object) -> tuple[str, str]:
    metadata = pod["metadata"]
    return str(metadata.get("creationTimestamp") or ""), str(metadata.get("uid") or "")
