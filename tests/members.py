"""Members of a cluster without a kernel: the parts of an agent that decide on blocks and addresses."""

from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TypeVar

from weft.agent.addresses import Addresses
from weft.agent.attachments import by_family
from weft.agent.cluster import Cluster
from weft.agent.enrolment import Enrolment
from weft.agent.journal import Attachment, Journal, State
from weft.agent.live_view import LiveView
from weft.agent.reclaim import Reclaimer
from weft.agent.records import NodeRecord
from weft.ipam.ranges import PodRange
from weft.ipam.shares import Init
from weft.plugins.main.weave_requests import AddressRequest
from weft.store import Entry, Event, Listing, Store, StoreUnavailable

Answer = TypeVar("Answer")


class UnreliableStore:
    """A real store behind a wire that can be cut: before a write, or between it and its answer."""

    def __init__(self, store: Store) -> None:
        self._store = store
        #: Calls that still pass; None for all of them. The answer of the last one is lost where ``lose_answer``.
        self.calls_left: int | None = None
        self.lose_answer = False

    def get(self, key: str) -> Entry | None:
        return self._pass(lambda: self._store.get(key))

    def entries(self, prefix: str) -> Listing:
        return self._pass(lambda: self._store.entries(prefix))

    def create(self, key: str, value: bytes) -> Entry:
        return self._pass(lambda: self._store.create(key, value))

    def replace(self, key: str, value: bytes, revision: int) -> Entry:
        return self._pass(lambda: self._store.replace(key, value, revision))

    def delete(self, key: str, revision: int) -> None:
        self._pass(lambda: self._store.delete(key, revision))

    def watch(self, prefix: str, revision: int, stopped: Callable[[], bool]) -> Iterator[Event]:
        return self._pass(lambda: self._store.watch(prefix, revision, stopped))

    def close(self) -> None:
        """The store belongs to the test."""

    def _pass(self, call: Callable[[], Answer]) -> Answer:
        if self.calls_left == 0:
            raise StoreUnavailable("the wire is cut")
        if self.calls_left is not None:
            self.calls_left -= 1
        answer = call()
        if self.calls_left == 0 and self.lose_answer:
            raise StoreUnavailable("the wire was cut before the answer came")
        return answer


class Member:
    """One node, started anew with each ``Member`` of the same folder and name."""

    def __init__(
        self,
        folder: Path,
        store: Store,
        name: str,
        *ranges: PodRange,
        init: Init = None,
        address: str = "172.25.1.2",
    ) -> None:
        self.name = name
        self.wire = UnreliableStore(store)
        self.cluster = Cluster(self.wire)
        (folder / name).mkdir(parents=True, exist_ok=True)
        self.journal = Journal(folder / name / "journal.db")
        self.live = LiveView(folder / name / "view.json")
        self.addresses = Addresses(self.cluster, self.journal, self.live, name, init)
        self.told = ranges

        def record(gateway: IPv4Address | None, gateway6: IPv6Address | None) -> NodeRecord:
            return NodeRecord(IPv4Address(address), "02:00:00:00:00:01", gateway, f"{name}@{address}", gateway6)

        self.enrolment = Enrolment(self.cluster, self.journal, self.addresses, self.live, name, record)
        self.reclaimer = Reclaimer(self.cluster, self.live, name)

    def enter(self) -> bool:
        """Start; False where the store is away. Pods that cannot keep their addresses are dropped."""
        heard = self.enrolment.enter(self.told)
        displaced = [item for item in self.journal.attachments() if self.addresses.displaced(item)]
        half_made = [item for item in self.journal.attachments() if item.state is not State.ATTACHED]
        self.journal.forget({item.id: item for item in (*displaced, *half_made)}.values())
        for item in half_made:
            if item not in displaced:
                self.addresses.release(item.addresses)
        return heard

    def add(self, container: str, wanted: AddressRequest | None = None) -> Attachment:
        """Attach a pod."""
        taken = self.addresses.take(wanted)
        reserved = self.journal.reserve(container, "eth0", "weave", f"v{container}", *by_family(taken))
        self.journal.set_state(reserved, State.ATTACHED)
        return reserved

    def delete(self, attachment: Attachment) -> None:
        """Detach a pod."""
        self.journal.set_state(attachment, State.RETIRING)
        self.journal.forget([attachment])
        self.addresses.release(attachment.addresses)

    def hear(self) -> None:
        """Learn what there is now, as the watch would tell it, and act on it."""
        self.live.replace(self.cluster.view())
        self.enrolment.check()

    def care(self) -> None:
        """What the agent's thread does every ten seconds."""
        self.enrolment.check()
        self.addresses.keep_one_spare()

    def stop(self) -> None:
        """End without a word."""
        self.live.keep(at_once=True)
        self.journal.close()
