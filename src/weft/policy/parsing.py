"""Kubernetes' objects as decoded JSON, checked as the API server checks them (pkg/apis/networking/validation).

Unknown fields are refused, as kubectl does: what we do not understand must not open anything.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any, Self

from weft.policy.objects import (
    EVERYTHING,
    NAMESPACE_NAME_LABEL,
    Block,
    ContainerPort,
    Namespace,
    Pod,
    PodPeer,
    Policy,
    Port,
    Protocol,
    Requirement,
    Rule,
    Selector,
)

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_PORT_NAME = re.compile(r"(?!.*--)(?=.*[a-z])[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?")
_OPERATORS = {"In": True, "NotIn": True, "Exists": False, "DoesNotExist": False}
#: Problems of one policy that are worth telling.
_MOST_PROBLEMS = 10

Object = Mapping[str, Any]


class ParseError(ValueError):
    """An object cannot be used at all: it has no usable name. The message says which and why."""


class _Problems:
    """What is wrong with an object, by the path of the field."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self._path: list[str] = []

    def add(self, reason: str, value: object = None) -> None:
        shown = "" if value is None else f" {value!r}"
        self.found.append(f"{''.join(self._path).lstrip('.')}{shown}: {reason}")

    def at(self, step: str) -> Self:
        """A step further down, for the length of a ``with``: thousands of policies pass here at a start."""
        self._path.append(step)
        return self

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        self._path.pop()

    def mapping(self, value: object, known: Sequence[str]) -> Object:
        """The value as an object of known fields; empty where it is none."""
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.add("must be an object", value)
            return {}
        for name in value:
            if name not in known:
                self.add(f"unknown field; there are: {', '.join(known)}", name)
        return value

    def listing(self, value: object) -> Iterator[Any]:
        """The entries of a list, each at its path; none where it is no list."""
        if value is not None and not isinstance(value, list):
            self.add("must be a list", value)
            return
        for number, entry in enumerate(value or ()):
            with self.at(f"[{number}]"):
                yield entry


def parse_policy(data: Object) -> Policy:
    """A NetworkPolicy. One that the API would refuse isolates all that it may mean, and allows nothing.

    Raises ParseError where it has no usable name.
    """
    namespace, name, _ = _metadata(data, "NetworkPolicy")
    problems = _Problems()
    if data.get("apiVersion") != "networking.k8s.io/v1":
        with problems.at("apiVersion"):
            problems.add("must be networking.k8s.io/v1", data.get("apiVersion"))
    problems.mapping(data, ("apiVersion", "kind", "metadata", "spec", "status"))
    with problems.at("spec"):
        spec = problems.mapping(data.get("spec"), ("podSelector", "policyTypes", "ingress", "egress"))
        before = len(problems.found)
        with problems.at(".podSelector"):
            selector = _selector(spec.get("podSelector"), problems)
        if len(problems.found) > before:
            selector = EVERYTHING
        before = len(problems.found)
        types = _policy_types(spec, problems)
        if len(problems.found) > before:
            types = {"Ingress", "Egress"}
        with problems.at(".ingress"):
            ingress = tuple(_rule(entry, "from", problems) for entry in problems.listing(spec.get("ingress")))
        with problems.at(".egress"):
            egress = tuple(_rule(entry, "to", problems) for entry in problems.listing(spec.get("egress")))
    if problems.found:
        ingress = egress = ()
        if spec.get("egress") is not None and "policyTypes" not in spec:
            types.add("Egress")
    return Policy(
        namespace,
        name,
        selector,
        ingress if "Ingress" in types else None,
        egress if "Egress" in types else None,
        tuple(problems.found[:_MOST_PROBLEMS]),
    )


def parse_namespace(data: Object) -> Namespace:
    """A Namespace. Raises ParseError."""
    _, name, metadata = _metadata(data, "Namespace")
    return namespace_of(name, _plain_labels(metadata, f"Namespace {name}"))


def namespace_of(name: str, labels: Mapping[str, str] | None = None) -> Namespace:
    """A namespace with the label that the API server gives it."""
    return Namespace(name, {**(labels or {}), NAMESPACE_NAME_LABEL: name})


def parse_pod(data: Object) -> Pod:
    """A Pod: what of it policies speak about. Raises ParseError."""
    namespace, name, metadata = _metadata(data, "Pod")
    what = f"Pod {namespace}/{name}"
    spec, status = _object(data, "spec", what), _object(data, "status", what)
    listed = [entry.get("ip") for entry in status.get("podIPs") or () if isinstance(entry, dict)]
    try:
        addresses = {str(ip_address(text)) for text in (status.get("podIP"), *listed) if text}
    except ValueError as error:
        raise ParseError(f"{what}: status.podIP: {error}") from None
    return Pod(
        uid=str(metadata.get("uid") or f"{namespace}/{name}"),
        namespace=namespace,
        name=name,
        labels=_plain_labels(metadata, what),
        addresses=tuple(sorted(addresses)),
        ports=_container_ports(spec),
        node=str(spec.get("nodeName") or ""),
        host_network=bool(spec.get("hostNetwork")),
        ended=status.get("phase") in ("Succeeded", "Failed"),
        created=_seconds(metadata.get("creationTimestamp")),
    )


def _metadata(data: Object, kind: str) -> tuple[str, str, Object]:
    metadata = data.get("metadata")
    if not isinstance(metadata, dict):
        raise ParseError(f"{kind}: metadata is missing")
    name, namespace = metadata.get("name"), metadata.get("namespace") or "default"
    for field, value in (("name", name), ("namespace", namespace)):
        if not isinstance(value, str) or not _NAME.fullmatch(value) or len(value) > 253:
            raise ParseError(f"{kind}: metadata.{field} {value!r}: use lower-case letters, digits, '-' and '.'")
    return str(namespace), str(name), metadata


def _object(data: Object, field: str, what: str) -> Object:
    value = data.get(field) or {}
    if not isinstance(value, dict):
        raise ParseError(f"{what}: {field} must be an object")
    return value


def _plain_labels(metadata: Object, what: str) -> dict[str, str]:
    labels = metadata.get("labels") or {}
    if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
        raise ParseError(f"{what}: metadata.labels must map names to strings")
    return dict(labels)


def _seconds(text: object) -> float:
    if isinstance(text, datetime):  # YAML has dates of its own
        return text.timestamp()
    try:
        return datetime.fromisoformat(str(text)).timestamp() if text else 0.0
    except ValueError:
        return 0.0


def _container_ports(spec: Object) -> tuple[ContainerPort, ...]:
    """Named ports of containers and of sidecars: init containers that are restarted always."""
    sidecars = [
        item
        for item in spec.get("initContainers") or ()
        if isinstance(item, dict) and item.get("restartPolicy") == "Always"
    ]
    found = []
    for container in [*(spec.get("containers") or ()), *sidecars]:
        for port in (container.get("ports") or ()) if isinstance(container, dict) else ():
            protocol, number = str(port.get("protocol") or "TCP").lower(), port.get("containerPort")
            if port.get("name") and protocol in tuple(Protocol) and isinstance(number, int):
                found.append(ContainerPort(str(port["name"]), Protocol(protocol), number))
    return tuple(found)


def _policy_types(spec: Object, problems: _Problems) -> set[str]:
    """Ingress always and Egress where there are rules for it, unless it is said."""
    with problems.at(".policyTypes"):
        given = [entry for entry in problems.listing(spec.get("policyTypes")) if _is_type(entry, problems)]
    if given:
        return set(given)
    return {"Ingress", "Egress"} if spec.get("egress") else {"Ingress"}


def _is_type(entry: object, problems: _Problems) -> bool:
    if entry in ("Ingress", "Egress"):
        return True
    problems.add("use Ingress or Egress", entry)
    return False


def _selector(value: object, problems: _Problems) -> Selector:
    given = problems.mapping(value, ("matchLabels", "matchExpressions"))
    labels = given.get("matchLabels")
    if labels is not None and not isinstance(labels, dict):
        problems.add("matchLabels must be an object", labels)
    pairs = sorted(labels.items()) if isinstance(labels, dict) else []
    with problems.at(".matchLabels"):
        for key, label in pairs:
            _check_label(key, [label], problems)
    with problems.at(".matchExpressions"):
        expressions = [_requirement(entry, problems) for entry in problems.listing(given.get("matchExpressions"))]
    return Selector(tuple((str(key), str(label)) for key, label in pairs), tuple(expressions))


def _requirement(value: object, problems: _Problems) -> Requirement:
    given = problems.mapping(value, ("key", "operator", "values"))
    operator = given.get("operator")
    values = list(problems.listing(given.get("values")))
    if operator not in _OPERATORS:
        problems.add(f"operator: use {', '.join(_OPERATORS)}", operator)
    elif _OPERATORS[operator] != bool(values):
        problems.add("values: " + ("give at least one" if _OPERATORS[operator] else "leave them out"), operator)
    _check_label(given.get("key"), values, problems)
    return Requirement(str(given.get("key")), str(operator), tuple(sorted(set(map(str, values)))))


def _check_label(key: object, values: Sequence[object], problems: _Problems) -> None:
    prefix, _, name = str(key).rpartition("/")
    bad_prefix = "/" in str(key) and not (_NAME.fullmatch(prefix) and len(prefix) <= 253)
    if not isinstance(key, str) or bad_prefix or not _LABEL_NAME.fullmatch(name):
        problems.add("is not a label's name", key)
    for value in values:
        if not isinstance(value, str) or (value and not _LABEL_NAME.fullmatch(value)):
            problems.add("is not a label's value", value)


def _rule(value: object, side: str, problems: _Problems) -> Rule:
    given = problems.mapping(value, (side, "ports"))
    if value is None:
        problems.add("must be an object; {} allows everything")
    with problems.at(f".{side}"):
        peers = [_peer(entry, problems) for entry in problems.listing(given.get(side))]
    with problems.at(".ports"):
        ports = [_port(entry, problems) for entry in problems.listing(given.get("ports"))]
    return Rule(
        tuple(peer for peer in peers if peer is not None), tuple(port for port in ports if port is not None)
    )


def _peer(value: object, problems: _Problems) -> PodPeer | Block | None:
    given = problems.mapping(value, ("podSelector", "namespaceSelector", "ipBlock"))
    pods, namespaces, block = (given.get(name) for name in ("podSelector", "namespaceSelector", "ipBlock"))
    if pods is None and namespaces is None and block is None:
        problems.add("must have a podSelector, a namespaceSelector or an ipBlock")
        return None
    if block is not None:
        if pods is not None or namespaces is not None:
            problems.add("an ipBlock stands alone: give selectors an entry of their own")
        with problems.at(".ipBlock"):
            return _block(block, problems)
    with problems.at(".podSelector"):
        selected = _selector(pods, problems)
    with problems.at(".namespaceSelector"):
        return PodPeer(selected, None if namespaces is None else _selector(namespaces, problems))


def _block(value: object, problems: _Problems) -> Block | None:
    given = problems.mapping(value, ("cidr", "except"))
    network = _network(given.get("cidr"), problems)
    with problems.at(".except"):
        excepted = []
        for entry in problems.listing(given.get("except")):
            hole = _network(entry, problems)
            if hole is None or network is None:
                continue
            if hole.version != network.version or hole == network or not _within(hole, network):
                problems.add(f"must lie within {network} and be smaller", entry)
            excepted.append(hole)
    return None if network is None else Block(network, tuple(excepted))


def _within(inner: IPv4Network | IPv6Network, outer: IPv4Network | IPv6Network) -> bool:
    return inner.network_address in outer and inner.prefixlen > outer.prefixlen


def _network(value: object, problems: _Problems) -> IPv4Network | IPv6Network | None:
    if not isinstance(value, str) or "/" not in value:
        problems.add("write it as CIDR, such as 10.0.0.0/8", value if value is not None else "")
        return None
    try:
        return ip_network(value)
    except ValueError as error:
        problems.add(str(error))
        return None


def _port(value: object, problems: _Problems) -> Port | None:
    given = problems.mapping(value, ("protocol", "port", "endPort"))
    protocol, port, end = given.get("protocol"), given.get("port"), given.get("endPort")
    before = len(problems.found)
    if protocol is not None and protocol not in ("TCP", "UDP", "SCTP"):
        problems.add("protocol: use TCP, UDP or SCTP", protocol)
    if isinstance(port, str):
        if not _PORT_NAME.fullmatch(port):
            problems.add("port: a name has at most 15 lower-case letters, digits and '-'", port)
    elif port is not None and not _is_number(port):
        problems.add("port: give 1 to 65535 or a port's name", port)
    if end is not None:
        if not _is_number(port):
            problems.add("endPort: needs a port by number", end)
        elif not _is_number(end) or end < port:
            problems.add(f"endPort: give {port} to 65535", end)
    if len(problems.found) > before:
        return None
    return Port(Protocol(str(protocol or "TCP").lower()), port, end)


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65535
