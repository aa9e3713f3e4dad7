"""One policy's chain for one direction, and the sets that it looks into."""

from collections.abc import Iterable, Sequence
from itertools import product

from weft.policy import ranges
from weft.policy.members import ADDRESS_TYPES, Members, NamedPorts, Peers, digest
from weft.policy.model import INGRESS, Action, Field, Match, Rule, Set, Statement, Verdict
from weft.policy.objects import Block, Direction, Key, PodPeer, Policy, Port, Protocol
from weft.policy.objects import Rule as PolicyRule

_EVERY_PORT = (0, 65535)
#: The side of a packet where a policy's peers are, and what follows when it allows.
_PEER_SIDE = {Direction.INGRESS: Field.SOURCE, Direction.EGRESS: Field.DESTINATION}
_ALLOWED = {Direction.INGRESS: Verdict(Action.ACCEPT), Direction.EGRESS: Verdict(Action.GOTO, INGRESS)}

#: One way to match, and the set of pods that it needs kept up to date.
Alternative = tuple[tuple[Match, ...], Peers | NamedPorts | None]


def chain_name(direction: Direction, key: Key) -> str:
    """The chain of a policy, and the counter of what it allowed. Names of nftables have at most 255 bytes."""
    namespace, name = key
    plain = f"{direction}/{namespace}/{name}"
    return plain if len(plain) <= 200 else f"{direction}/{namespace}/{digest(name)}"


class ChainCompiler:
    """Chains of the policies that are asked for, with the sets of ports and blocks that they share."""

    def __init__(self, members: Members) -> None:
        self._members = members
        self._versions: tuple[int, ...] = (4,)
        self.chains: dict[str, tuple[Statement, ...]] = {}
        self._members_of: dict[str, list[Peers | NamedPorts]] = {}
        self._constants_of: dict[str, list[str]] = {}
        self._constants: dict[str, int] = {}
        self._changed: dict[str, Set | None] = {}

    def use_versions(self, versions: tuple[int, ...]) -> None:
        """The IP versions that pods have; chains are compiled anew by the caller."""
        self._versions = versions

    def compile(self, policy: Policy, direction: Direction) -> None:
        """Make or replace a policy's chain."""
        name = chain_name(direction, policy.key)
        old_members, old_constants = self._members_of.get(name, []), self._constants_of.get(name, [])
        self._members_of[name], self._constants_of[name] = [], []
        statements: list[Statement] = []
        for rule in policy.rules(direction) or ():
            statements += self._rules(policy.namespace, rule, direction, name)
        self.chains[name] = tuple(statements)
        # Acquired before what it had is released, so that a set in both is not made anew.
        self._release(old_members, old_constants)

    def remove(self, direction: Direction, key: Key) -> None:
        """No pod of this node is selected by the policy any more."""
        name = chain_name(direction, key)
        if self.chains.pop(name, None) is not None:
            self._release(self._members_of.pop(name), self._constants_of.pop(name))

    def changes(self) -> dict[str, Set | None]:
        """Sets of ports and blocks that changed since the last call; None for those that are gone."""
        changed, self._changed = self._changed, {}
        return changed

    def _release(self, members: Iterable[Peers | NamedPorts], constants: Iterable[str]) -> None:
        for key in members:
            self._members.release(key)
        for name in constants:
            self._constants[name] -= 1
            if not self._constants[name]:
                del self._constants[name]
                self._changed[name] = None

    def _rules(self, namespace: str, rule: PolicyRule, direction: Direction, name: str) -> Iterable[Rule]:
        peers = self._peers(namespace, rule.peers, _PEER_SIDE[direction], name)
        ports = self._ports(rule.ports, name)
        for (peer, peer_key), (port, port_key) in product(peers, ports):
            versions = {match.version for match in (*peer, *port) if match.version}
            if len(versions) > 1:
                continue
            for key in (peer_key, port_key):
                if key is not None:
                    self._members.acquire(key)
                    self._members_of[name].append(key)
            yield Rule((*peer, *port), _ALLOWED[direction], name)

    def _peers(
        self, namespace: str, peers: Sequence[PodPeer | Block], side: Field, chain: str
    ) -> list[Alternative]:
        if not peers:
            return [((), None)]
        found: list[Alternative] = []
        blocks = [peer for peer in peers if isinstance(peer, Block)]
        for peer in dict.fromkeys(peer for peer in peers if isinstance(peer, PodPeer)):
            key = Peers("" if peer.namespaces is not None else namespace, peer.namespaces, peer.pods)
            found += [((Match((side,), key.name(version), version),), key) for version in self._versions]
        for version, kind in ADDRESS_TYPES.items():
            intervals = ranges.allowed(blocks, version)
            if intervals:
                elements = frozenset(ranges.text(interval, version) for interval in intervals)
                name = self._constant("blocks", Set(kind, elements, True), chain, f"-{version}")
                found.append(((Match((side,), name, version),), None))
        return found

    def _ports(self, ports: Sequence[Port], chain: str) -> list[Alternative]:
        if not ports:
            return [((), None)]
        found: list[Alternative] = []
        numbered = _numbers(ports)
        if numbered:
            intervals = any("-" in element for element in numbered)
            name = self._constant("ports", Set("inet_proto . inet_service", numbered, intervals), chain)
            found.append(((Match((Field.PORT,), name),), None))
        for port in dict.fromkeys(ports):
            if isinstance(port.port, str):
                key = NamedPorts(port.port, port.protocol)
                fields = (Field.DESTINATION, Field.PORT)
                found += [((Match(fields, key.name(version), version),), key) for version in self._versions]
        return found

    def _constant(self, kind: str, members: Set, chain: str, suffix: str = "") -> str:
        """A set that is named for what it holds, so that equal ones are one."""
        name = f"{kind}/{digest(members.type, sorted(members.elements))}{suffix}"
        self._constants[name] = self._constants.get(name, 0) + 1
        self._constants_of[chain].append(name)
        if self._constants[name] == 1:
            self._changed[name] = members
        return name


def _numbers(ports: Sequence[Port]) -> frozenset[str]:
    """Ports by number as elements; ranges of one protocol merged, since a set refuses those that overlap."""
    elements = set()
    for protocol in Protocol:
        intervals = [
            _EVERY_PORT if port.port is None else (port.port, port.end or port.port)
            for port in ports
            if port.protocol is protocol and not isinstance(port.port, str)
        ]
        for low, high in ranges.merged(intervals):
            elements.add(f"{protocol} . {low}" + ("" if low == high else f"-{high}"))
    return frozenset(elements)
