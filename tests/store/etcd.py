"""Real etcd for tests: in a namespace of its own, killed and started again at will."""

import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.namespaces import ip, network_namespace, path, run
from weft.store.etcd import EtcdStore

PORT = 2379
#: The store of an etcd that listens on the loopback of the test's namespace.
HERE = f"etcd://127.0.0.1:{PORT}"
#: What the fixture ``opened`` gives: opens stores, which are closed after the test.
Opened = Callable[[str], EtcdStore]

_shared = ExitStack()
_server: "Etcd | None" = None


@dataclass
class Etcd:
    """One member. ``host`` is its address in the namespace; ``options`` are further words for etcd."""

    namespace: str
    folder: Path
    host: str = "127.0.0.1"
    name: str = "default"
    scheme: str = "http"
    options: tuple[str, ...] = ()
    #: Words before etcd's own, such as a mount namespace with a small disk.
    wrapper: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    logged: int = 0
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}:{PORT}"

    def spawn(self) -> None:
        """Start it and do not wait."""
        self.folder.mkdir(parents=True, exist_ok=True)
        peer = f"http://{self.host}:2380"
        command = [
            "nsenter", f"--net={path(self.namespace)}", "--", *self.wrapper,
            "setpriv", "--pdeathsig", "KILL", "etcd", "--name", self.name, "--data-dir", str(self.folder / "data"),
            "--listen-client-urls", self.url, "--advertise-client-urls", self.url,
            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
            *self.options,
        ]  # fmt: skip
        if "--initial-cluster" not in self.options:
            command += ["--initial-cluster", f"{self.name}={peer}"]
        with (self.folder / "etcd.log").open("ab") as log:
            self.logged = log.tell()
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        self.started.append(self.process)

    def start(self) -> None:
        """Start it and wait until it serves."""
        self.spawn()
        self.await_serving()

    def await_serving(self) -> None:
        """Wait until the process that was started last has joined its cluster and takes requests."""
        deadline = time.monotonic() + 60
        while "ready to serve client requests" not in self.log():
            assert self.process is not None
            assert self.process.poll() is None, self.log()[-2000:]
            assert time.monotonic() < deadline, self.log()[-2000:]
            time.sleep(0.02)

    def log(self) -> str:
        """What the process that was started last has said."""
        return (self.folder / "etcd.log").read_text()[self.logged :]

    def kill(self, number: int = signal.SIGKILL) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(timeout=20)

    def suspend(self) -> None:
        """Let it hang: connections stay, nothing is answered."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        tasks = Path(f"/proc/{self.process.pid}/task")
        while any(") T " not in (task / "stat").read_text() for task in tasks.iterdir()):
            time.sleep(0.01)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def control(self, *words: str, options: Sequence[str] = ()) -> str:
        """What etcdctl says. Fails with its complaint."""
        command = ("etcdctl", f"--endpoints={self.url}", *options, *words)
        return run("env", "ETCDCTL_API=3", *command, namespace=self.namespace)

    def end(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait(timeout=20)


@contextmanager
def in_memory() -> Iterator[Path]:
    """A folder that no other load on the disk makes slow, where the machine has one in memory."""
    parent = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="weft-etcd-", dir=parent) as folder:
        yield Path(folder)


@contextmanager
def etcd(*options: str, scheme: str = "http") -> Iterator[Etcd]:
    """One etcd in a namespace with nothing but loopback."""
    with network_namespace() as namespace:
        ip("link", "set", "lo", "up", namespace=namespace)
        with etcd_in(namespace, *options, scheme=scheme) as server:
            yield server


@contextmanager
def etcd_in(namespace: str, *options: str, scheme: str = "http") -> Iterator[Etcd]:
    """One etcd on the loopback of a namespace."""
    with in_memory() as folder:
        server = Etcd(namespace, folder, scheme=scheme, options=options)
        try:
            server.start()
            yield server
        finally:
            server.end()


def shared_etcd() -> Etcd:
    """The one that the tests of this process share; started by the first that asks."""
    global _server  # noqa: PLW0603  # started once for many tests
    if _server is None:
        _server = _shared.enter_context(etcd())
    return _server


def end_shared_etcd() -> None:
    """Called when the tests are over."""
    _shared.close()
