"""The truth table: every pair of pods and every port tried with packets, held against Kubernetes' definition."""

import json
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from weft.lab import policies
from weft.lab.state import LabState, PodState
from weft.policy.oracle import Cluster, Flow, allows

#: Seconds for a packet and its answer: at first, and where that was not what the definition says.
TIMEOUT = 0.3
PATIENCE = 1.5
#: Where every pod answers.
PORTS = tuple((protocol, port) for protocol in ("tcp", "udp", "sctp") for port in (80, 81))

Port = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Probe:
    """One pod's way to another's port: what the definition says, and what came of it."""

    source: str
    target: str
    version: int
    protocol: str
    port: int
    expected: bool
    reached: bool

    @property
    def good(self) -> bool:
        """Whether the network does as the definition says."""
        return self.expected == self.reached


def cluster_of(lab: LabState, manifests: Sequence[dict[str, Any]] | None = None) -> Cluster:
    """The lab as the oracle takes it; with its own policies, or those given."""
    return Cluster(
        policies.pods(lab),
        list(policies.namespace_manifests(lab)),
        policies.applied(lab) if manifests is None else manifests,
    )


def prove(
    lab: LabState, ports: Sequence[Port] = PORTS, pods: Sequence[PodState] | None = None
) -> tuple[Probe, ...]:
    """Try every ordered pair of the pods (all of the lab's by default) on every port. Raises OSError."""
    cluster = cluster_of(lab)
    every = [pod for pod in (lab.pods if pods is None else pods) if pod.ip]
    with ThreadPoolExecutor(len(every) or 1) as threads:
        list(threads.map(lambda pod: order(lab, pod, {"serve": ports}), every))
        return tuple(
            probe
            for probes in threads.map(lambda pod: _try(lab, cluster, pod, every, ports), every)
            for probe in probes
        )


def _try(
    lab: LabState, cluster: Cluster, source: PodState, every: Sequence[PodState], ports: Sequence[Port]
) -> list[Probe]:
    ways = [
        _Way(target.name, version, mine, theirs, *port)
        for target in every
        if target is not source
        for version, mine, theirs in _pairs(source, target)
        for port in ports
    ]
    expected = [allows(cluster, Flow(way.source, way.destination, way.protocol.upper(), way.port)) for way in ways]
    reached = _reach(lab, source, ways, TIMEOUT)
    again = [place for place in range(len(ways)) if reached[place] != expected[place]]
    # A busy machine is slow, and a change may be a moment old: what is not as expected gets a second chance.
    for place, answered in zip(
        again, _reach(lab, source, [ways[place] for place in again], PATIENCE), strict=True
    ):
        reached[place] = answered
    return [
        Probe(source.name, way.target, way.version, way.protocol, way.port, expected[place], reached[place])
        for place, way in enumerate(ways)
    ]


@dataclass(frozen=True, slots=True)
class _Way:
    """One probe to be made, between addresses of one IP version."""

    target: str
    version: int
    source: str
    destination: str
    protocol: str
    port: int


def _pairs(source: PodState, target: PodState) -> list[tuple[int, str, str]]:
    """IP version, own and other address, for each version that both have."""
    return [
        (version, mine, theirs)
        for version, mine, theirs in ((4, source.ip, target.ip), (6, source.ip6, target.ip6))
        if mine and theirs
    ]


def _reach(lab: LabState, source: PodState, ways: Sequence[_Way], timeout: float) -> list[bool]:
    if not ways:
        return []
    targets = [[way.protocol, way.destination, way.port] for way in ways]
    return [bool(each) for each in order(lab, source, {"reach": targets, "timeout": timeout})]


def order(lab: LabState, pod: PodState, wanted: dict[str, Any]) -> list[Any]:
    """What a pod answers to an order. Raises OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(30)
        connection.connect(str(lab.control_socket(pod)))
        connection.sendall(json.dumps(wanted).encode() + b"\n")
        with connection.makefile() as stream:
            answer: list[Any] = json.loads(stream.readline())
    return answer
