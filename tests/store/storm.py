"""A storm of claims on an etcd of three members, while something breaks.

Several clients claim the same blocks one after the other, each as fast as it can. A watch listens. Afterwards
every block must have exactly one owner, who knows it, and the watch must have told each claim once.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from uuid import uuid4

from tests.store.trio import Trio
from weft.store import Event, KeyExists, StoreUnavailable
from weft.store.etcd import EtcdStore


@dataclass
class Client:
    """One who claims. Times in seconds; ``refused`` counts calls that ended with StoreUnavailable."""

    name: str
    won: list[str] = field(default_factory=list)
    lost: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    longest: float = 0.0
    delayed: int = 0
    failure: BaseException | None = None


@dataclass(frozen=True)
class Outcome:
    """What a storm came to."""

    clients: Sequence[Client]
    claimed_at: Sequence[float]

    @property
    def claims(self) -> int:
        return sum(len(client.won) for client in self.clients)

    @property
    def refused(self) -> int:
        return sum(client.refused.total() for client in self.clients)

    @property
    def delayed(self) -> int:
        """Calls that took more than a second and succeeded or lost."""
        return sum(client.delayed for client in self.clients)

    @property
    def longest(self) -> float:
        return max(client.longest for client in self.clients)

    @property
    def pause(self) -> float:
        """The longest time without any claim, in seconds."""
        times = sorted(self.claimed_at)
        return max((after - before for before, after in pairwise(times)), default=0.0)


def storm(
    trio: Trio, seconds: float, strike: Callable[[], object], heal: Callable[[], object], clients: int = 6
) -> Outcome:
    """Claim for so many seconds; strike after a fifth of them, heal after three fifths. Checks what came of it."""
    prefix = f"/storm-{uuid4().hex}"
    ended, settled = threading.Event(), threading.Event()
    claimed_at: list[float] = []
    told: list[Event] = []
    with closing(EtcdStore.open(trio.url(prefix))) as witness:
        begin = witness.entries("").revision
        claimants = [Client(f"node{number}") for number in range(clients)]
        threads = [
            threading.Thread(target=_claim, args=(client, trio.url(prefix, number % 3), ended, claimed_at))
            for number, client in enumerate(claimants)
        ]
        listener = threading.Thread(target=_listen, args=(trio.url(prefix, 1), begin, settled, told))
        for thread in (*threads, listener):
            thread.start()
        try:
            time.sleep(seconds / 5)
            strike()
            time.sleep(2 * seconds / 5)
            heal()
            time.sleep(2 * seconds / 5)
        finally:
            ended.set()
            for thread in threads:
                thread.join()
            try:
                listing = witness.entries("blocks/")
                deadline = time.monotonic() + 30
                while len(told) < len(listing.entries) and time.monotonic() < deadline:
                    time.sleep(0.05)
            finally:
                settled.set()
                listener.join()
    for client in claimants:
        if client.failure is not None:
            raise client.failure
    owners = {entry.key: entry.value.decode() for entry in listing.entries}
    won = [(block, client.name) for client in claimants for block in client.won]
    assert len(won) == len({block for block, _ in won}), "a block has two owners"
    assert dict(won) == owners, "somebody owns a block and does not know it, or the other way about"
    by_revision = sorted(listing.entries, key=lambda entry: entry.revision)
    assert [event.entry for event in told] == by_revision, "the watch told something else than what happened"
    return Outcome(claimants, claimed_at)


def _claim(client: Client, url: str, ended: threading.Event, claimed_at: list[float]) -> None:
    try:
        with closing(EtcdStore.open(url)) as store:
            number = 0
            while not ended.is_set():
                block = f"blocks/{number}"
                begun = time.monotonic()
                if _settle(client, store, block):
                    client.won.append(block)
                    claimed_at.append(time.monotonic())
                else:
                    client.lost += 1
                took = time.monotonic() - begun
                client.longest = max(client.longest, took)
                client.delayed += took > 1
                number += 1
                time.sleep(random.uniform(0, 0.01))  # noqa: S311  # so that nobody is always first
    except BaseException as failure:
        client.failure = failure


def _settle(client: Client, store: EtcdStore, block: str) -> bool:
    """Whether the block is ours in the end, however often the store refuses before."""
    deadline = time.monotonic() + 60
    while True:
        try:
            store.create(block, client.name.encode())
        except KeyExists:
            return False
        except StoreUnavailable as error:
            client.refused[str(error)] += 1
            assert time.monotonic() < deadline, "etcd does not come back"
            continue
        return True


def _listen(url: str, revision: int, settled: threading.Event, told: list[Event]) -> None:
    with closing(EtcdStore.open(url)) as store:
        while not settled.is_set():
            try:
                for event in store.watch("blocks/", revision, settled.is_set):
                    told.append(event)
                    revision = event.revision
            except StoreUnavailable:
                continue
