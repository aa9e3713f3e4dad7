"""The storm itself, and what it came to."""

import re
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

from tests.agent.storm.agreement import disagreements
from tests.agent.storm.disasters import Disaster
from tests.agent.storm.ledger import Ledger
from tests.agent.storm.network import Network, sandboxes
from tests.agent.storm.runtime import LATE, Call, Runtime
from tests.namespaces import path

#: Calls of the plugin that a node gets at the same time.
WORKERS = 2
#: Pods of each node at the end. A node that grows so far takes several blocks.
PEAK = 24
#: Seconds for everybody to agree after the storm.
AGREEMENT = 60.0
_PING_INTERVAL = 0.1


@dataclass(frozen=True)
class Pinged:
    """Packets from one node's first pod to another's, all the while."""

    source: str
    target: str
    sent: int
    received: int


@dataclass(frozen=True)
class Outcome:
    """What a storm came to; times in seconds. ``struck`` and ``healed`` are when the disaster began and ended."""

    adds: Sequence[Call]
    struck: float
    healed: float
    pings: Sequence[Pinged]
    agreed_after: float
    #: By node, the destinations whose route was withdrawn.
    withdrawn: dict[str, list[str]]

    @property
    def made(self) -> list[Call]:
        return [call for call in self.adds if not call.refused]

    @property
    def refused(self) -> list[Call]:
        return [call for call in self.adds if call.refused]

    @property
    def while_struck(self) -> list[Call]:
        """ADDs that began and succeeded between the first and the last step."""
        return [call for call in self.made if call.begun >= self.struck and call.begun + call.took < self.healed]

    @property
    def late(self) -> list[Call]:
        return [call for call in self.adds if call.took > LATE]

    @property
    def longest(self) -> float:
        return max((call.took for call in self.adds), default=0.0)

    @property
    def pause(self) -> float:
        """The longest time in which no ADD succeeded."""
        times = sorted(call.begun + call.took for call in self.made)
        return max((after - before for before, after in pairwise(times)), default=0.0)

    @property
    def lost(self) -> int:
        return sum(item.sent - item.received for item in self.pings)


def storm(
    network: Network, disasters: Sequence[Disaster], seconds: float, *, peaks: Sequence[int] = (), seed: int = 1
) -> Outcome:
    """Pods come and go for so many seconds a disaster; ``peaks`` are the pods of each node at the end.

    Raises AssertionError where something does not fit together.
    """
    peaks = peaks or [PEAK] * len(network.nodes)
    ledger = Ledger()
    steps: list[float] = []
    with sandboxes(sum(peaks) + 8 * len(peaks)) as names:
        spare = deque(names)
        runtimes = [
            Runtime(node, ledger, deque(spare.popleft() for _ in range(peak + 8)), peak, seed)
            for node, peak in zip(network.nodes, peaks, strict=True)
        ]
        anchors = [runtime.add() for runtime in runtimes]
        assert None not in anchors
        _await_agreement(network, ledger)
        with _pings(network, ledger) as pings:
            _rage(network, runtimes, disasters, seconds, steps)
            healed = time.monotonic()
            _await_agreement(network, ledger)
            agreed = time.monotonic()
        assert not (shared := ledger.shared_addresses()), f"one address, two pods: {shared}"
        _everybody_reaches_everybody(network, ledger)
        for runtime in runtimes:
            for pod in runtime.pods:
                runtime.delete(pod)
        # What is free now is all but the bridges' addresses: none is lost.
        _await_agreement(network, ledger)
    return Outcome(
        [call for runtime in runtimes for call in runtime.adds], steps[0], steps[-1], pings, agreed - healed,
        {name: log.withdrawn() for name, log in network.routes.items()},
    )  # fmt: skip


def _rage(
    network: Network,
    runtimes: Sequence[Runtime],
    disasters: Sequence[Disaster],
    seconds: float,
    steps: list[float],
) -> None:
    ended = threading.Event()
    whole = seconds * len(disasters)
    begun = time.monotonic()
    threads = [
        threading.Thread(target=runtime.work, args=(begun, whole, ended), name=f"worker-{number}")
        for runtime in runtimes
        for number in range(WORKERS)
    ]
    for thread in threads:
        thread.start()
    try:
        for number, disaster in enumerate(disasters):
            for share in disaster(network, list(runtimes)):
                if steps:
                    steps.append(time.monotonic())
                time.sleep(share * seconds)
                if not steps:
                    steps.append(time.monotonic())
            steps.append(time.monotonic())
            time.sleep(max(0.0, begun + seconds * (number + 1) - time.monotonic()))
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    for runtime in runtimes:
        if runtime.failure is not None:
            raise runtime.failure


def _await_agreement(network: Network, ledger: Ledger) -> None:
    deadline = time.monotonic() + AGREEMENT
    while found := disagreements(network, ledger):
        assert time.monotonic() < deadline, "\n".join(found)
        time.sleep(0.2)


@contextmanager
def _pings(network: Network, ledger: Ledger) -> Iterator[list[Pinged]]:
    """From every pod that lives now to every other one, until the block ends; filled in then."""
    told: list[Pinged] = []
    running = []
    for source in ledger.alive():
        for target in ledger.alive():
            if source is not target:
                command = ["nsenter", f"--net={path(source.sandbox)}", "--", "ping", "-q", "-n",
                           "-i", str(_PING_INTERVAL), target.address]  # fmt: skip
                process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
                running.append((source.node, target.node, process))
    try:
        yield told
    finally:
        for source_node, target_node, process in running:
            process.send_signal(2)
            said = process.communicate(timeout=20)[0]
            if found := re.search(r"(\d+) packets transmitted, (\d+) received", said):
                told.append(Pinged(source_node, target_node, int(found[1]), int(found[2])))


def _everybody_reaches_everybody(network: Network, ledger: Ledger) -> None:
    """Every pod one of each other node's."""
    alive = ledger.alive()
    commands = []
    for number, source in enumerate(alive):
        for node in network.nodes:
            there = [life for life in alive if life.node == node.name]
            if node.name != source.node and there:
                commands.append((source, there[number % len(there)]))
    for source, target in commands:
        done = subprocess.run(
            ["nsenter", f"--net={path(source.sandbox)}", "--", "ping", "-q", "-c", "1", "-W", "5", target.address],
            capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{source.container} does not reach {target.container} at {target.address}"
