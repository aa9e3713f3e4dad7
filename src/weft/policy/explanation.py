"""Why a connection is allowed or not: the policies that isolate either end, and the rules that allow it."""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from weft.policy.compiler import Compiler
from weft.policy.objects import Block, Direction, Key, Pod, PodPeer, Policy, Port, Rule
from weft.policy.parsing import namespace_of


@dataclass(frozen=True, slots=True)
class Allowance:
    """A rule that allows a connection, by its place in ``ingress`` or ``egress``, from 0."""

    policy: Key
    rule: int


@dataclass(frozen=True, slots=True)
class Side:
    """One end of a connection. ``isolating`` is empty where nothing isolates it; then it allows everything.

    ``here``: whether this node enforces it.
    """

    direction: Direction
    pod: Pod | None
    isolating: tuple[Key, ...]
    allowing: tuple[Allowance, ...]
    here: bool

    @property
    def allows(self) -> bool:
        """Whether this end lets the connection pass."""
        return not self.isolating or bool(self.allowing)


@dataclass(frozen=True, slots=True)
class Explanation:
    """Both ends; ``to_itself`` where they are one pod, which nothing can cut off."""

    egress: Side
    ingress: Side
    to_itself: bool

    @property
    def allowed(self) -> bool:
        """Whether the connection may be made."""
        return self.to_itself or (self.egress.allows and self.ingress.allows)


def explain(compiler: Compiler, source: str, destination: str, protocol: str, port: int) -> Explanation:
    """Why a connection between two addresses is allowed or not. ``port`` is 0 for protocols without ports."""
    ends = compiler.owner(source), compiler.owner(destination)
    call = _Call(compiler, source, destination, protocol, port)
    egress = _side(call, Direction.EGRESS, ends[0], destination)
    ingress = _side(call, Direction.INGRESS, ends[1], source)
    return Explanation(egress, ingress, ends[0] is not None and ends[0] is ends[1])


@dataclass(frozen=True, slots=True)
class _Call:
    compiler: Compiler
    source: str
    destination: str
    protocol: str
    port: int


def selecting(compiler: Compiler, pod: Pod, direction: Direction) -> list[Policy]:
    """The policies that isolate a pod in a direction, by name."""
    return [
        policy
        for key, policy in sorted(compiler.policies.items())
        if key[0] == pod.namespace
        and policy.rules(direction) is not None
        and (pod.unknown or policy.selector.matches(pod.labels))
    ]


def _side(call: _Call, direction: Direction, pod: Pod | None, other: str) -> Side:
    if pod is None:
        return Side(direction, None, (), (), False)
    isolating = selecting(call.compiler, pod, direction)
    allowing = [
        Allowance(policy.key, number)
        for policy in isolating
        for number, rule in enumerate(policy.rules(direction) or ())
        if not pod.unknown and _allows(call, policy, rule, other)
    ]
    here = call.compiler.is_local(pod)
    return Side(direction, pod, tuple(policy.key for policy in isolating), tuple(allowing), here)


def _allows(call: _Call, policy: Policy, rule: Rule, other: str) -> bool:
    return (not rule.peers or any(_is_peer(call.compiler, policy, peer, other) for peer in rule.peers)) and (
        not rule.ports or any(_is_port(call, port) for port in rule.ports)
    )


def _is_peer(compiler: Compiler, policy: Policy, peer: PodPeer | Block, address: str) -> bool:
    if isinstance(peer, Block):
        parsed = ip_address(address)
        return parsed in peer.network and not any(parsed in hole for hole in peer.excepted)
    pod = compiler.owner(address)
    if pod is None or pod.unknown or not peer.pods.matches(pod.labels):
        return False
    if peer.namespaces is None:
        return pod.namespace == policy.namespace
    namespace = compiler.namespaces.get(pod.namespace) or namespace_of(pod.namespace)
    return peer.namespaces.matches(namespace.labels)


def _is_port(call: _Call, port: Port) -> bool:
    if port.protocol != call.protocol or not call.port:
        return False
    if isinstance(port.port, str):
        pod = call.compiler.owner(call.destination)
        return pod is not None and any(
            (item.name, item.protocol, item.number) == (port.port, port.protocol, call.port) for item in pod.ports
        )
    return port.port is None or port.port <= call.port <= (port.end or port.port)


def sides(explanation: Explanation) -> Iterator[Side]:
    """Both ends, the sender's first."""
    yield explanation.egress
    yield explanation.ingress
