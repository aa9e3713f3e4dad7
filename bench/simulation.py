"""A cluster of thousands of nodes in one process: the agents' own decisions over a store that counts.

What is left out: the kernel (``bench.many_peers`` has it), the network, and the journal's file.
"""

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from weft.agent.addresses import Addresses
from weft.agent.cluster import Cluster
from weft.agent.enrolment import Enrolment
from weft.agent.journal import Attachment, Journal
from weft.agent.live_view import LiveView
from weft.agent.records import NodeRecord
from weft.agent.view import View
from weft.fabric.plan import derived_link_address
from weft.ipam.ranges import IPAddress, IPNetwork, PodRange
from weft.store import Conflict, Entry, Event, KeyExists, Listing

#: Pods after which a node's thread looks whether a spare block is needed.
PODS_BETWEEN_LOOKS = 16
#: Nodes that act between two moments at which everybody has heard of everything.
NODES_BETWEEN_VIEWS = 500


class CountingStore:
    """``weft.store.Store`` in a dictionary. Counts requests and the bytes that it tells."""

    def __init__(self) -> None:
        self.content: dict[str, Entry] = {}
        self.revision = 0
        self.requests: Counter[str] = Counter()
        self.listed_bytes = 0
        self.events = 0
        self.event_bytes = 0
        #: What listings tell, where that is not the present: all who start at the same moment see the same.
        self.frozen: Listing | None = None

    def get(self, key: str) -> Entry | None:
        self.requests["get"] += 1
        return self.content.get(key)

    def entries(self, prefix: str) -> Listing:
        self.requests["list"] += 1
        listing = self.frozen or self.listing(prefix)
        self.listed_bytes += sum(len(entry.key) + len(entry.value) for entry in listing.entries)
        return listing

    def listing(self, prefix: str = "") -> Listing:
        """``entries``, uncounted."""
        found = (entry for key, entry in sorted(self.content.items()) if key.startswith(prefix))
        return Listing(tuple(found), self.revision)

    def create(self, key: str, value: bytes) -> Entry:
        self.requests["create"] += 1
        if key in self.content:
            self.requests["create, taken"] += 1
            raise KeyExists(f"{key} exists")
        return self._write(key, value)

    def replace(self, key: str, value: bytes, revision: int) -> Entry:
        self.requests["replace"] += 1
        self._expect(key, revision)
        return self._write(key, value)

    def delete(self, key: str, revision: int) -> None:
        self.requests["delete"] += 1
        self._expect(key, revision)
        del self.content[key]
        self._tell(key, b"")

    def watch(self, prefix: str, revision: int, stopped: Callable[[], bool]) -> Iterator[Event]:
        raise NotImplementedError("the simulation tells everybody at once")

    def close(self) -> None:
        """Nothing is open."""

    @property
    def size(self) -> int:
        """Bytes of all keys and values."""
        return sum(len(entry.key) + len(entry.value) for entry in self.content.values())

    def _write(self, key: str, value: bytes) -> Entry:
        self._tell(key, value)
        entry = self.content[key] = Entry(key, value, self.revision)
        return entry

    def _tell(self, key: str, value: bytes) -> None:
        self.revision += 1
        self.events += 1
        self.event_bytes += len(key) + len(value)

    def _expect(self, key: str, revision: int) -> None:
        entry = self.content.get(key)
        if entry is None or entry.revision != revision:
            raise Conflict(f"{key} is not at revision {revision}")


class DictionaryJournal(Journal):
    """The journal's blocks and facts without a file."""

    def __init__(self) -> None:
        self._own: dict[IPNetwork, None] = {}
        self._facts: dict[str, str] = {}

    def blocks(self) -> list[IPNetwork]:
        return list(self._own)

    def add_block(self, block: IPNetwork) -> None:
        self._own[block] = None

    def drop_block(self, block: IPNetwork) -> None:
        self._own.pop(block, None)

    def attachments(self) -> list[Attachment]:
        return []

    def released(self) -> list[IPAddress]:
        return []

    def fact(self, name: str) -> str | None:
        return self._facts.get(name)

    def set_fact(self, name: str, value: str) -> None:
        self._facts[name] = value


class SharedView(LiveView):
    """One view that all nodes of a process look at: 5,000 copies of it would not fit."""

    def __init__(self) -> None:
        super().__init__(Path("/dev/null"))

    def replace(self, view: View) -> None:
        """Nodes do not put their own listing in its place."""

    def share(self, view: View) -> None:
        """What everybody knows from here on."""
        super().replace(view)

    @property
    def shared(self) -> View:
        """What everybody knows."""
        return self._view

    def keep(self, *, at_once: bool = False) -> None:
        """Nothing is written."""


class SimulatedCluster(Cluster):
    """Lists as the real one, but reads what is listed only once for all nodes."""

    def __init__(self, store: CountingStore, live: SharedView) -> None:
        super().__init__(store)
        self._counting, self._live = store, live

    def view(self) -> View:
        self._counting.entries("")
        return View() if self._counting.frozen else self._live.shared


class SimulatedNode:
    """One agent's decisions."""

    def __init__(self, number: int, store: CountingStore, live: SharedView, ranges: Sequence[PodRange]) -> None:
        self.name = f"node-{number:05}"
        self._ranges = ranges
        cluster, journal = SimulatedCluster(store, live), DictionaryJournal()
        self.addresses = Addresses(cluster, journal, live, self.name, None)

        def record(gateway: IPv4Address | None, gateway6: IPv6Address | None) -> NodeRecord:
            underlay = IPv4Address(0xAC100000 + number)
            mac, instance = derived_link_address("vtep", self.name), f"{number:032x}"
            return NodeRecord(underlay, mac, gateway, instance, gateway6)

        self._enrolment = Enrolment(cluster, journal, self.addresses, live, self.name, record)

    def join(self) -> None:
        """Sign in and claim the first block."""
        self._enrolment.enter(self._ranges)

    def run_pods(self, count: int) -> list[IPAddress]:
        """Attach pods, as fast as it goes."""
        taken: list[IPAddress] = []
        for number in range(count):
            taken += self.addresses.take()
            if number % PODS_BETWEEN_LOOKS == 0:
                self.addresses.keep_one_spare()
        self.addresses.keep_one_spare()
        return taken


class Simulation:
    """A cluster, and what came of it."""

    def __init__(self, ranges: Sequence[PodRange], nodes: int, pods: int) -> None:
        self.store = CountingStore()
        self._live = SharedView()
        self._ranges = ranges
        self._pods = pods
        self._nodes = [self._node(number) for number in range(nodes)]
        self._next = nodes

    def join_at_once(self) -> dict[str, float]:
        """All list the empty cluster at the same moment; then each claims without hearing of the others."""
        begun = time.process_time()
        self.store.frozen = self.store.listing()
        attempts = []
        for node in self._nodes:
            before = self.store.requests["create"]
            node.join()
            attempts.append(self.store.requests["create"] - before)
        self.store.frozen = None
        joined = self.store.requests.copy()
        self._hear()
        # The spare blocks, too, on what was known before anybody had one.
        for node in self._nodes:
            node.addresses.keep_one_spare()
        requests, count = self._requests(), len(self._nodes)
        return {
            "requests per join": requests / count,
            "of them until the node serves": sum(joined[kind] for kind in self._kinds()) / count,
            "claims that were taken, per join": self.store.requests["create, taken"] / count,
            "most claims of one join": max(attempts) - 1,  # one creates the record
            "median claims of a join": statistics.median(attempts) - 1,
            "writes": self.store.events,
            "processor seconds of decisions": time.process_time() - begun,
        }

    def run_pods(self) -> dict[str, float]:
        """Every node fills up; everybody hears of claims every 500 nodes."""
        before, begun = self._requests(), time.process_time()
        taken: set[IPAddress] = set()
        count = 0
        for place, node in enumerate(self._nodes):
            if place % NODES_BETWEEN_VIEWS == 0:
                self._hear()
            mine = node.run_pods(self._pods)
            taken.update(mine)
            count += len(mine)
        self._hear()
        assert len(taken) == count, "an address was given out twice"
        per_node = [len(node.addresses.blocks()) for node in self._nodes]
        return {
            "pods": count,
            "requests per node": (self._requests() - before) / len(self._nodes),
            "blocks per node, mean": statistics.mean(per_node),
            "blocks in all": sum(per_node),
            "blocks of the range": sum(pods.block_count for pods in self._ranges if pods.version == 4),
            "microseconds per address": (time.process_time() - begun) / count * 1e6,
        }

    def churn(self, share: float) -> dict[str, float]:
        """In one hour a share of the nodes is removed and as many new ones come and fill up."""
        number = round(len(self._nodes) * share)
        events, told, listed, requests = (
            self.store.events, self.store.event_bytes, self.store.listed_bytes, self._requests(),
        )  # fmt: skip
        step = len(self._nodes) // number
        for gone in self._nodes[: number * step : step]:
            Cluster(self.store).remove_node(gone.name)
        self._nodes = [node for place, node in enumerate(self._nodes) if place % step or place >= number * step]
        self._hear()
        for place in range(number):
            if place % NODES_BETWEEN_VIEWS == 0:
                self._hear()
            node = self._node(self._next)
            self._next += 1
            node.join()
            node.run_pods(self._pods)
            self._nodes.append(node)
        self._hear()
        owned = [block for node in self._nodes for block in node.addresses.blocks()]
        assert len(owned) == len(set(owned)) == len(self._live.owners()), "blocks were lost or given twice"
        return {
            "nodes removed and joined": number,
            "events watched per node and hour": self.store.events - events,
            "bytes watched per node and hour": self.store.event_bytes - told,
            "requests per change of a node": (self._requests() - requests) / number,
            "bytes listed per change of a node": (self.store.listed_bytes - listed) / number,
        }

    def state(self) -> dict[str, float]:
        """What the store holds."""
        return {"keys": len(self.store.content), "MiB of keys and values": self.store.size / 2**20}

    def _node(self, number: int) -> SimulatedNode:
        return SimulatedNode(number, self.store, self._live, self._ranges)

    def _hear(self) -> None:
        listing = self.store.listing()
        self._live.share(View.of(listing.entries, listing.revision))

    def _requests(self) -> int:
        return sum(self.store.requests[kind] for kind in self._kinds())

    @staticmethod
    def _kinds() -> tuple[str, ...]:
        return ("get", "list", "create", "replace", "delete")
