"""The proof: every pod reaches every pod, and the receiver saw the sender's own address."""

import json
import socket
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from weft.lab.state import LabState, PodState
from weft.lab.topology import LabError

#: Pods that probe at the same time; each probes a few targets at once.
AT_ONCE = 8
#: Seconds for one connection or echo.
TIMEOUT = 3.0

#: What a pod says of one address: whom the receiver saw by ``tcp`` and ``icmp``, or ``tcp_error``, ``icmp_error``.
Report = dict[str, str]


@dataclass(frozen=True, slots=True)
class Pair:
    """What came of one pod's way to another. ``problems`` is empty where all is well."""

    source: str
    target: str
    same_node: bool
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Proof:
    """What the check found, against the three rules."""

    pairs: tuple[Pair, ...]
    without_address: tuple[str, ...]

    @property
    def broken(self) -> list[Pair]:
        """The pairs with a problem."""
        return [pair for pair in self.pairs if pair.problems]

    @property
    def rules(self) -> list[tuple[str, bool | None]]:
        """The three rules, and whether each holds; None where there was no pair to try."""

        def holds(same_node: bool) -> bool | None:
            tried = [pair for pair in self.pairs if pair.same_node == same_node]
            return all(not pair.problems for pair in tried) if tried else None

        return [
            ("every pod has an address", not self.without_address),
            ("every pod reaches every pod on its node", holds(True)),
            ("every pod reaches every pod on other nodes without NAT", holds(False)),
        ]

    @property
    def good(self) -> bool:
        """Whether no rule is broken."""
        return not any(held is False for _, held in self.rules)


def judge(source: PodState, target: PodState, reports: Mapping[str, Report]) -> Pair:
    """Hold what a target saw, at each of its addresses, against the sender's own of that family, if it has one."""
    problems = []
    for label, address in target.addresses.items():
        report, own = reports.get(address), source.addresses.get(label)
        if own is None:
            continue
        if report is None:
            problems.append(f"pod {source.name} did not report on {address}")
            continue
        for way, name in (("tcp", f"{label}TCP"), ("icmp", f"{label}ICMP")):
            if error := report.get(f"{way}_error"):
                problems.append(f"{name}: {error.lower()}")
            elif report.get(way) != own:
                problems.append(f"{name}: NAT, the receiver saw {report.get(way)} instead of {own}")
    return Pair(source.name, target.name, source.node == target.node, tuple(problems))


def prove(lab: LabState, pods: Sequence[PodState] | None = None) -> Proof:
    """Try every ordered pair of the pods (all of the lab's by default)."""
    every = list(lab.pods if pods is None else pods)
    addressed = [pod for pod in every if pod.ip]

    def try_from(source: PodState) -> list[Pair]:
        targets = [pod for pod in addressed if pod is not source]
        reports = _reports(lab, source, targets)
        return [judge(source, target, reports) for target in targets]

    with ThreadPoolExecutor(AT_ONCE) as threads:
        pairs = [pair for found in threads.map(try_from, addressed) for pair in found]
    # A family whose first range was added to a running lab is missing where a pod is older.
    of_all = {"", "IPv6 "} if ":" in lab.settings.range else {""}
    wanted = {"", *(label for pod in every for label in pod.addresses)} & of_all
    return Proof(tuple(pairs), tuple(pod.name for pod in every if not wanted <= pod.addresses.keys()))


def summary(pairs: Iterable[Pair], nodes: dict[str, str]) -> dict[tuple[str, str], tuple[int, int]]:
    """Per pair of nodes: how many pairs of pods are well, of how many."""
    counts: dict[tuple[str, str], tuple[int, int]] = {}
    for pair in pairs:
        key = nodes[pair.source], nodes[pair.target]
        well, all_of_them = counts.get(key, (0, 0))
        counts[key] = well + (not pair.problems), all_of_them + 1
    return counts


def _reports(lab: LabState, source: PodState, targets: Sequence[PodState]) -> dict[str, Report]:
    """What a pod reports of its targets' addresses; nothing where the pod itself does not answer."""
    order = {"targets": [a for pod in targets for a in pod.addresses.values()], "timeout": TIMEOUT}
    reports: dict[str, Report] = {}
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(4 * TIMEOUT)
            connection.connect(str(lab.control_socket(source)))
            connection.sendall(json.dumps(order).encode() + b"\n")
            with connection.makefile() as stream:
                for line in stream:
                    report = json.loads(line)
                    reports[report["target"]] = report
    except (OSError, ValueError):
        pass  # what is missing is a problem of its pair
    return reports


def require_pods(lab: LabState) -> None:
    """Raise LabError where there is nothing to prove."""
    if not lab.pods:
        raise LabError("the lab has no pods: 'weft lab run NAME --node controlplane' starts one")
