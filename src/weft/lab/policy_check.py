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
    pods = [policies.pod_manifest(pod) for pod in lab.pods]
    return Cluster(
        pods, list(policies.namespace_manifests(lab)), policies.applied(lab) if manifests is None else manifests
    )


def prove(
    lab: LabState, ports: Sequence[Port] = PORTS, pods: Sequence[PodState] | None = None
) -> tuple[Probe, ...]:
    """Try every ordered pair of the pods (all of the lab's by default) on every port. Raises OSError."""
    cluster = cluster_of(lab)
    every = [pod for pod in (lab.pods if pods is None else pods) if pod.ip]
    with ThreadPoolExecutor(len(every) or 1) as threads:
        list(threads.map(lambda pod: _order(lab, pod, {"serve": ports}), every))
        return tuple(
            probe
            for probes in threads.map(lambda pod: _try(lab, cluster, pod, every, ports), every)
            for probe in probes
        )


def _try(
    lab: LabState, cluster: Cluster, source: PodState, every: Sequence[PodState], ports: Sequence[Port]
) -> list[Probe]:
    ways = [(target, protocol, port) for target in every if target is not source for protocol, port in ports]
    expected = [
        allows(cluster, Flow(source.ip, target.ip, protocol.upper(), port)) for target, protocol, port in ways
    ]
    reached = _reach(lab, source, ways, TIMEOUT)
    again = [place for place in range(len(ways)) if reached[place] != expected[place]]
    # A busy machine is slow, and a change may be a moment old: what is not as expected gets a second chance.
    for place, answered in zip(
        again, _reach(lab, source, [ways[place] for place in again], PATIENCE), strict=True
    ):
        reached[place] = answered
    return [
        Probe(source.name, target.name, protocol, port, expected[place], reached[place])
        for place, (target, protocol, port) in enumerate(ways)
    ]


def _reach(
    lab: LabState, source: PodState, ways: Sequence[tuple[PodState, str, int]], timeout: float
) -> list[bool]:
    if not ways:
        return []
    targets = [[protocol, target.ip, port] for target, protocol, port in ways]
    return [bool(each) for each in _order(lab, source, {"reach": targets, "timeout": timeout})]


def _order(lab: LabState, pod: PodState, order: dict[str, Any]) -> list[Any]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(30)
        connection.connect(str(lab.control_socket(pod)))
        connection.sendall(json.dumps(order).encode() + b"\n")
        with connection.makefile() as stream:
            answer: list[Any] = json.loads(stream.readline())
    return answer
