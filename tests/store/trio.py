"""Three members of one etcd, each in a namespace of its own, that fail one by one."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import msgspec
import urllib3

from tests.namespaces import ip, network_namespace, path
from tests.store.etcd import PORT, Etcd, in_memory
from weft.kernel.namespace import NetworkNamespace

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
    """A wire of their own. The calling thread is where the clients are. Everything is gone after the block."""
    with network_namespace() as wire:
        ip("link", "add", "wire", "type", "bridge", namespace=wire)
        ip("link", "set", "wire", "up", namespace=wire)
        ip("address", "add", f"{_SUBNET}.1/24", "dev", "wire", namespace=wire)
        with trio_on(wire, _SUBNET, 2) as three:
            yield three


@contextmanager
def trio_on(wire: str, subnet: str, first: int) -> Iterator[Trio]:
    """On the bridge ``wire`` of a namespace, from an address of its subnet on; the calling thread is there too."""
    with ExitStack() as stack:
        folder = stack.enter_context(in_memory())
        hosts = {f"etcd{number + 1}": f"{subnet}.{first + number}" for number in range(3)}
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
