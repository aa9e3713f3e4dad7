"""Which pods are in which set: peers by selector, ports by name."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from weft.policy.model import Set
from weft.policy.objects import Labels, Pod, Protocol, Selector

ADDRESS_TYPES = {4: "ipv4_addr", 6: "ipv6_addr"}


@dataclass(frozen=True, slots=True)
class Peers:
    """Pods of one namespace or, where ``namespaces`` is given, of those that it selects."""

    namespace: str
    namespaces: Selector | None
    pods: Selector

    def name(self, version: int) -> str:
        """The set's name."""
        return f"pods/{digest(self)}-{version}"


@dataclass(frozen=True, slots=True)
class NamedPorts:
    """What pods mean by a port's name: their addresses with the protocol and number."""

    port: str
    protocol: Protocol

    def name(self, version: int) -> str:
        """The set's name."""
        return f"port/{self.protocol}/{self.port}-{version}"

    def numbers(self, pod: Pod) -> set[int]:
        """The numbers that a pod's containers give the name."""
        return {item.number for item in pod.ports if (item.name, item.protocol) == (self.port, self.protocol)}


@dataclass(frozen=True, slots=True)
class Placed:
    """A pod that counts: with the addresses that are its own, and its namespace's labels."""

    pod: Pod
    namespace_labels: Labels
    addresses: tuple[str, ...]


def digest(*values: object) -> str:
    """Twelve hex digits that stand for values of ours."""
    return hashlib.blake2b(repr(values).encode(), digest_size=6).hexdigest()


def version_of(address: str) -> int:
    """4 or 6."""
    return 6 if ":" in address else 4


class Members:
    """The sets that chains ask for, kept while they are asked for."""

    def __init__(self, candidates: Callable[[Peers | NamedPorts], Iterable[Placed]]) -> None:
        """``candidates`` are the pods that a new set may hold."""
        self._candidates = candidates
        self._versions: tuple[int, ...] = (4,)
        self._counts: dict[Peers | NamedPorts, int] = {}
        self._elements: dict[tuple[Peers | NamedPorts, int], set[str]] = {}
        self._of_namespace: dict[str, list[Peers]] = {}
        self._of_all: list[Peers] = []
        self._named: dict[tuple[str, Protocol], NamedPorts] = {}
        self._dirty: set[tuple[Peers | NamedPorts, int]] = set()

    def use_versions(self, versions: tuple[int, ...]) -> None:
        """The IP versions that pods have: there are sets of these only."""
        self._versions = versions
        self._dirty.update(self._elements)

    def acquire(self, key: Peers | NamedPorts) -> None:
        """A chain refers to the set."""
        self._counts[key] = self._counts.get(key, 0) + 1
        if self._counts[key] > 1:
            return
        for version in ADDRESS_TYPES:
            self._elements[key, version] = set()
            self._dirty.add((key, version))
        if isinstance(key, NamedPorts):
            self._named[key.port, key.protocol] = key
        elif key.namespaces is None:
            self._of_namespace.setdefault(key.namespace, []).append(key)
        else:
            self._of_all.append(key)
        for placed in self._candidates(key):
            self._add(key, placed)

    def release(self, key: Peers | NamedPorts) -> None:
        """A chain refers to the set no more."""
        self._counts[key] -= 1
        if self._counts[key]:
            return
        del self._counts[key]
        for version in ADDRESS_TYPES:
            del self._elements[key, version]
            self._dirty.add((key, version))
        if isinstance(key, NamedPorts):
            del self._named[key.port, key.protocol]
        elif key.namespaces is None:
            self._of_namespace[key.namespace].remove(key)
        else:
            self._of_all.remove(key)

    def place(self, placed: Placed) -> None:
        """A pod is there: it joins every set that it matches."""
        for key in self._concerned(placed.pod):
            self._add(key, placed)

    def withdraw(self, placed: Placed) -> None:
        """A pod leaves: exactly what ``place`` of it did is undone."""
        for key in self._concerned(placed.pod):
            for version, element in _elements(key, placed):
                self._elements[key, version].discard(element)
                self._dirty.add((key, version))

    def changes(self) -> dict[str, Set | None]:
        """The sets that changed since the last call; None for those that are gone."""
        changed: dict[str, Set | None] = {}
        for key, version in self._dirty:
            if version not in self._versions:
                continue
            elements = self._elements.get((key, version))
            if elements is None:
                changed[key.name(version)] = None
                continue
            suffix = " . inet_proto . inet_service" if isinstance(key, NamedPorts) else ""
            changed[key.name(version)] = Set(ADDRESS_TYPES[version] + suffix, frozenset(elements))
        self._dirty.clear()
        return changed

    def _concerned(self, pod: Pod) -> Iterator[Peers | NamedPorts]:
        if not pod.unknown:
            yield from self._of_namespace.get(pod.namespace, ())
            yield from self._of_all
        for port in pod.ports:
            named = self._named.get((port.name, port.protocol))
            if named is not None:
                yield named

    def _add(self, key: Peers | NamedPorts, placed: Placed) -> None:
        for version, element in _elements(key, placed):
            self._elements[key, version].add(element)
            self._dirty.add((key, version))


def _elements(key: Peers | NamedPorts, placed: Placed) -> list[tuple[int, str]]:
    """The elements that a pod brings into a set, with their IP version."""
    if isinstance(key, NamedPorts):
        numbers = key.numbers(placed.pod)
        return [
            (version_of(address), f"{address} . {key.protocol} . {number}")
            for address in placed.addresses
            for number in numbers
        ]
    if placed.pod.unknown:
        return []
    if key.namespaces is None:
        matches = placed.pod.namespace == key.namespace
    else:
        matches = key.namespaces.matches(placed.namespace_labels)
    if not matches or not key.pods.matches(placed.pod.labels):
        return []
    return [(version_of(address), address) for address in placed.addresses]
