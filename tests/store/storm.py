"""A storm of claims on an etcd of three members, while something breaks.

Several clients claim the same blocks one after the other, each as fast as it can. A watch listens. Afterwards
every block must have exactly one owner, who knows it, and the watch must have told each claim once.
"""

import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from uuid import uuid4

import msgspec
import urllib3

from tests.namespaces import ip, network_namespace, path
from tests.store.etcd import PORT, Etcd, in_memory
from weft.kernel.namespace import NetworkNamespace
from weft.store import Event, KeyExists, StoreUnavailable
from weft.store.etcd import EtcdStore

_SUBNET = "172.26.7"
#: Room for etcd's write-ahead log, which takes 64 MiB for the present and 64 MiB for the next, and for its repair.
_DISK = "220m"
_HOLD_A_DISK = 'mount -t tmpfs -o "size=$1" tmpfs "$2" && echo mounted && exec sleep infinity'


@dataclass
class Trio:
    """Three members, each in a namespace of its own, on one bridge; clients are in the bridge's namespace."""

    wire: str
    members: list[Etcd]
    #: By member, the process for which its disk is mounted.
    disks: dict[str, int]

    def url(self, prefix: str, first: int = 0) -> str:
        """All three as endpoints, beginning with one of them."""
        hosts = [member.host for member in self.members[first:] + self.members[:first]]
        return f"etcd://{','.join(f'{host}:{PORT}' for host in hosts)}{prefix}"

    def leader(self) -> Etcd:
        """Who leads now, by its own word."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            for member in self.members:
                try:
                    answer = urllib3.request(
                        "POST", f"{member.url}/v3/maintenance/status", body=b"{}", timeout=1, retries=False
                    ).data
                except urllib3.exceptions.HTTPError:
                    continue
                status = msgspec.json.decode(answer)
                if status.get("leader") and status["leader"] == status["header"]["member_id"]:
                    return member
            time.sleep(0.1)
        raise AssertionError("nobody leads")

    def await_whole(self) -> None:
        """Wait until all three serve."""
        for member in self.members:
            member.await_serving()

    def cut_off(self, member: Etcd) -> None:
        ip("link", "set", member.name, "down", namespace=self.wire)

    def join(self, member: Etcd) -> None:
        ip("link", "set", member.name, "up", namespace=self.wire)

    def fill_disk(self, member: Etcd) -> None:
        """Leave not one byte on the member's disk."""
        with self._filler(member).open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(1 << 16))

    def free_disk(self, member: Etcd) -> None:
        self._filler(member).unlink(missing_ok=True)

    def _filler(self, member: Etcd) -> Path:
        return Path(f"/proc/{self.disks[member.name]}/root{member.folder}/filler")


@contextmanager
def trio() -> Iterator[Trio]:
    """The calling thread is where the clients are. Everything is gone after the block."""
    with ExitStack() as stack:
        folder = stack.enter_context(in_memory())
        wire = stack.enter_context(network_namespace())
        ip("link", "add", "wire", "type", "bridge", namespace=wire)
        ip("link", "set", "wire", "up", namespace=wire)
        ip("address", "add", f"{_SUBNET}.1/24", "dev", "wire", namespace=wire)
        hosts = {name: f"{_SUBNET}.{number}" for number, name in enumerate(("etcd1", "etcd2", "etcd3"), start=2)}
        token = uuid4().hex
        members = []
        disks: dict[str, int] = {}
        for name, host in hosts.items():
            namespace = stack.enter_context(network_namespace())
            ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", namespace, namespace=wire)
            ip("link", "set", name, "master", "wire", "up", namespace=wire)
            for words in ("link set lo up", "link set eth0 up", f"address add {host}/24 dev eth0"):
                ip(*words.split(), namespace=namespace)
            initial = ",".join(f"{each}=http://{at}:2380" for each, at in hosts.items())
            disks[name] = stack.enter_context(_small_disk(folder / name))
            member = Etcd(
                namespace, folder / name, host, name,
                options=("--initial-cluster", initial, "--initial-cluster-token", token),
                wrapper=("nsenter", f"--mount=/proc/{disks[name]}/ns/mnt", "--"),
            )  # fmt: skip
            stack.callback(member.end)
            members.append(member)
        for member in members:
            member.spawn()
        for member in members:
            member.await_serving()
        place = stack.enter_context(NetworkNamespace.open(path(wire)))
        stack.enter_context(place.entered())
        yield Trio(wire, members, disks)


@contextmanager
def _small_disk(folder: Path) -> Iterator[int]:
    """A disk that is mounted for one process only, whose ID this is, and for those that join it."""
    folder.mkdir()
    command = ["unshare", "--mount", "--propagation", "private", "setpriv", "--pdeathsig", "KILL",
               "sh", "-c", _HOLD_A_DISK, "sh", _DISK, str(folder)]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"mounted\n"
            yield holder.pid
        finally:
            holder.kill()


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
