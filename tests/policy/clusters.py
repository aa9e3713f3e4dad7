"""Random clusters and policies as Kubernetes has them, from a small alphabet so that selectors meet labels."""

from ipaddress import IPv4Network, ip_network
from typing import Any

from hypothesis import strategies as st

NAMESPACES = ("x", "y", "z")
NODES = ("one", "two")
KEYS, VALUES = ("app", "tier", "pod"), ("a", "b", "c")
PORTS = (80, 81, 5000, 5005)
PORT_NAMES = ("http", "dns")
PROTOCOLS = ("TCP", "UDP", "SCTP")
#: Addresses of pods, and of others that are in blocks or not.
ADDRESSES = [*(f"10.32.0.{number}" for number in range(1, 6)), *(f"fd00::{number}" for number in range(1, 3))]
OTHERS = ["10.32.0.200", "192.0.2.7", "203.0.113.9", "2001:db8::1", "fd00::99"]

labels = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), max_size=2)


@st.composite
def _expression(draw: st.DrawFn) -> dict[str, Any]:
    operator = draw(st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist"]))
    key = draw(st.sampled_from([*KEYS, "kubernetes.io/metadata.name"]))
    if operator in ("Exists", "DoesNotExist"):
        return {"key": key, "operator": operator}
    values = st.sampled_from([*VALUES, *NAMESPACES])
    return {"key": key, "operator": operator, "values": draw(st.lists(values, min_size=1, max_size=2))}


selectors = st.fixed_dictionaries(
    {}, optional={"matchLabels": labels, "matchExpressions": st.lists(_expression(), max_size=2)}
)


@st.composite
def _block(draw: st.DrawFn) -> dict[str, Any]:
    network = ip_network(
        draw(
            st.sampled_from(
                ["0.0.0.0/0", "10.32.0.0/29", "10.0.0.0/8", "10.32.0.4/32", "192.0.2.0/24", "fd00::/16"]
            )
        )
    )
    holes = []
    if network.prefixlen < 30:
        inside = 4 if isinstance(network, IPv4Network) else 64
        for _ in range(draw(st.integers(0, 2))):
            base = int(network.network_address) + draw(st.integers(0, 15))
            prefix = draw(
                st.integers(min(network.prefixlen + 1, network.max_prefixlen - inside), network.max_prefixlen)
            )
            holes.append(str(ip_network((base, prefix), strict=False)))
        holes = [hole for hole in holes if ip_network(hole).subnet_of(network) and hole != str(network)]  # type: ignore[arg-type]
    return {"cidr": str(network), **({"except": holes} if holes else {})}


@st.composite
def _peer(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["pods", "namespaces", "both", "block"]))
    if kind == "block":
        return {"ipBlock": draw(_block())}
    peer = {}
    if kind in ("pods", "both"):
        peer["podSelector"] = draw(selectors)
    if kind in ("namespaces", "both"):
        peer["namespaceSelector"] = draw(selectors)
    return peer


@st.composite
def _port(draw: st.DrawFn) -> dict[str, Any]:
    port: dict[str, Any] = {}
    if draw(st.booleans()):
        port["protocol"] = draw(st.sampled_from(PROTOCOLS))
    kind = draw(st.sampled_from(["none", "number", "name", "range"]))
    if kind == "name":
        port["port"] = draw(st.sampled_from(PORT_NAMES))
    elif kind != "none":
        port["port"] = draw(st.sampled_from(PORTS))
        if kind == "range":
            port["endPort"] = draw(st.sampled_from([number for number in PORTS if number >= port["port"]]))
    return port


def _rules(side: str) -> st.SearchStrategy[list[dict[str, Any]]]:
    return st.lists(
        st.fixed_dictionaries(
            {}, optional={side: st.lists(_peer(), max_size=3), "ports": st.lists(_port(), max_size=3)}
        ),
        max_size=2,
    )


@st.composite
def policies(draw: st.DrawFn, name: str = "p") -> dict[str, Any]:
    spec: dict[str, Any] = {"podSelector": draw(selectors)}
    types = draw(st.sampled_from([None, [], ["Ingress"], ["Egress"], ["Ingress", "Egress"]]))
    if types is not None:
        spec["policyTypes"] = types
    if draw(st.booleans()):
        spec["ingress"] = draw(_rules("from"))
    if draw(st.booleans()):
        spec["egress"] = draw(_rules("to"))
    return policy(draw(st.sampled_from(NAMESPACES)), name, **spec)


def policy(namespace: str, name: str, **spec: Any) -> dict[str, Any]:
    """A NetworkPolicy."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": name},
        "spec": spec,
    }


@st.composite
def pods(draw: st.DrawFn, uid: str) -> dict[str, Any]:
    found = draw(st.lists(st.sampled_from(ADDRESSES), max_size=2, unique=True))
    ports = draw(
        st.lists(
            st.fixed_dictionaries(
                {"name": st.sampled_from(PORT_NAMES), "containerPort": st.sampled_from(PORTS)},
                optional={"protocol": st.sampled_from(PROTOCOLS)},
            ),
            max_size=2,
        )
    )
    return {
        "kind": "Pod",
        "metadata": {
            "uid": uid,
            "namespace": draw(st.sampled_from(NAMESPACES)),
            "name": f"pod-{uid}",
            "labels": draw(labels),
            "creationTimestamp": f"2026-01-01T00:00:0{draw(st.integers(0, 3))}Z",
        },
        "spec": {
            "nodeName": draw(st.sampled_from(NODES)),
            "hostNetwork": draw(st.sampled_from([False, False, False, True])),
            "containers": [{"ports": ports}],
        },
        "status": {
            "phase": draw(st.sampled_from(["Running", "Running", "Pending", "Succeeded", "Failed"])),
            "podIPs": [{"ip": address} for address in found],
        },
    }


def namespaces(draw: st.DrawFn) -> list[dict[str, Any]]:
    return [{"kind": "Namespace", "metadata": {"name": name, "labels": draw(labels)}} for name in NAMESPACES]
