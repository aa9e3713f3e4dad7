"""What a container runtime does on one node during a storm: pods that come and go, more of them with time."""

import random
import threading
import time
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from tests.agent.storm.ledger import Ledger, Life
from tests.namespaces import path
from tests.nodes import Node
from weft.cni import ErrorCode

#: Seconds beyond which an ADD counts as late.
LATE = 1.0
#: Seconds between two calls of one worker, at most.
_PAUSE = 0.04
#: Seconds before a worker goes on after it was told to try again later.
_AFTER_REFUSAL = 0.2
_TRY_AGAIN = int(ErrorCode.TRY_AGAIN_LATER)


@dataclass(frozen=True)
class Call:
    """One ADD. Times are monotonic seconds; ``refused`` is what the plugin said."""

    node: str
    begun: float
    took: float
    refused: str = ""


@dataclass
class Runtime:
    """Several workers that call the plugin as a runtime does: an ADD that fails is followed by a DEL.

    There must be a pod before they begin.
    """

    node: Node
    ledger: Ledger
    free: deque[str]
    #: How many pods there are to be at the end.
    peak: int
    seed: int
    adds: list[Call] = field(default_factory=list)
    pods: list[Life] = field(default_factory=list)
    failure: BaseException | None = None
    _stopped: bool = False
    _busy: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _numbers: "count[int]" = field(default_factory=count)

    def work(self, begun: float, seconds: float, ended: threading.Event) -> None:
        """One worker, until the end."""
        # Which calls are made depends on the seed, when they are made on the machine.
        chance = random.Random(f"{self.seed} {self.node.name} {threading.current_thread().name}")  # noqa: S311
        try:
            while not ended.wait(chance.uniform(0, _PAUSE)):
                share = min(1.0, (time.monotonic() - begun) / seconds)
                wanted = 2 + round((self.peak - 2) * share)
                with self._lock:
                    if self._stopped:
                        continue
                    self._busy += 1
                    too_few = len(self.pods) < wanted
                    # The first pod stays to the end.
                    victim = None if too_few else self.pods.pop(chance.randrange(1, len(self.pods)))
                if victim is not None:
                    self.delete(victim)
                elif self.add() is None:
                    time.sleep(_AFTER_REFUSAL)
                with self._lock:
                    self._busy -= 1
        except BaseException as error:
            self.failure = error

    def add(self) -> Life | None:
        """One pod more; None where that was refused."""
        with self._lock:
            container, sandbox = f"{self.node.name}-{next(self._numbers)}", self.free.popleft()
        begun = time.monotonic()
        status, answer = self.node.call("ADD", container, str(path(sandbox)))
        now = time.monotonic()
        if status == 0:
            life = Life(self.node.name, container, sandbox, _address(answer), now)
            self.ledger.begin(life)
            with self._lock:
                self.pods.append(life)
                self.adds.append(Call(self.node.name, begun, now - begun))
            return life
        assert answer["code"] == _TRY_AGAIN, answer
        with self._lock:
            self.adds.append(Call(self.node.name, begun, now - begun, answer["msg"]))
        self.node.delete(container, str(path(sandbox)))
        with self._lock:
            self.free.append(sandbox)
        return None

    def delete(self, pod: Life) -> None:
        self.ledger.end(pod.container, time.monotonic())
        self.node.delete(pod.container, str(path(pod.sandbox)))
        with self._lock:
            self.free.append(pod.sandbox)

    def stop(self) -> None:
        """The machine is gone, and its pods with it. Returns when no call is under way."""
        with self._lock:
            self._stopped = True
        while self._busy:
            time.sleep(0.01)
        now = time.monotonic()
        for pod in self.pods:
            self.ledger.end(pod.container, now)

    def go_on(self, kept: Collection[str]) -> None:
        """The machine is back; of its pods those live on that the node has kept."""
        now = time.monotonic()
        lost = [pod for pod in self.pods if pod.container not in kept]
        self.pods = [replace(pod, since=now, until=None) for pod in self.pods if pod.container in kept]
        for pod in self.pods:
            self.ledger.begin(pod)
        for pod in lost:
            self.delete(pod)
        self._stopped = False


def _address(result: Any) -> str:
    address: str = result["ips"][0]["address"]
    return address.partition("/")[0]
