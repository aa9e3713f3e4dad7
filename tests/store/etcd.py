"""Real etcd for tests: in a namespace of its own, killed and started again at will."""

import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.namespaces import inside, ip, network_namespace, path, run

PORT = 2379

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
            "--log-level", "error",
            *self.options,
        ]  # fmt: skip
        if "--initial-cluster" not in self.options:
            command += ["--initial-cluster", f"{self.name}={peer}"]
        with (self.folder / "etcd.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        self.started.append(self.process)

    def start(self) -> None:
        """Start it and wait until it listens."""
        self.spawn()
        self.await_listening()

    def await_listening(self) -> None:
        deadline = time.monotonic() + 30
        while not inside(self.namespace, self._listens):
            assert self.process is not None
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    def log(self) -> str:
        return (self.folder / "etcd.log").read_text()[-2000:]

    def kill(self, number: int = signal.SIGKILL) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(timeout=20)

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

    def _listens(self) -> bool:
        try:
            with closing(socket.create_connection((self.host, PORT), timeout=1)):
                return True
        except OSError:
            return False


@contextmanager
def etcd(folder: Path, *options: str, scheme: str = "http") -> Iterator[Etcd]:
    """One etcd in a namespace with nothing but loopback."""
    with network_namespace() as namespace:
        ip("link", "set", "lo", "up", namespace=namespace)
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
        folder = _shared.enter_context(tempfile.TemporaryDirectory(prefix="weft-etcd-"))
        _server = _shared.enter_context(etcd(Path(folder)))
    return _server


def end_shared_etcd() -> None:
    """Called when the tests are over."""
    _shared.close()
