"""kubectl exec, attach and logs against the server; the commands run on this machine."""

import fcntl
import os
import pty
import shutil
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from uuid import uuid4

import pytest

from tests.lab.api.test_kubectl import POD, Cluster
from weft.lab.api.errors import ApiError
from weft.lab.api.logs import start_of_tail
from weft.lab.api.remote_command import ending
from weft.lab.api.storage import Object

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl here")


class Here:
    """``PodAccess`` for pods whose containers are this machine."""

    def __init__(self, log: Path) -> None:
        self.path = log
        self.ended: list[int] = []

    def log(self, pod: Object, container: str) -> Path:
        if not self.path.exists():
            raise ApiError("BadRequest", "it writes no log")
        return self.path

    def command(self, pod: Object, container: str, words: Sequence[str], *, tty: bool) -> list[str]:
        return list(words)

    def own_command(self, pod: Object, container: str, *, tty: bool) -> list[str]:
        return list(pod["spec"]["containers"][0]["args"])

    def environment(self) -> Mapping[str, str]:
        return os.environ | {"WHERE": "inside"}

    def say_ended(self, pod: Object, status: int) -> None:
        self.ended.append(status)


@pytest.fixture
def here(tmp_path: Path) -> Here:
    return Here(tmp_path / "log")


@pytest.fixture
def cluster(tmp_path: Path, here: Here) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    made.server.pods = here
    made.run("apply", "-f", "-", given=POD)
    yield made
    made.server.stop()


def execute(cluster: Cluster, *words: str, given: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [*cluster.words, "exec", *(["-i"] if given else []), "web", "--", *words],
        input=given, capture_output=True, timeout=60, check=False,
    )  # fmt: skip


def test_output_errors_and_the_exit_status(cluster: Cluster) -> None:
    done = execute(cluster, "sh", "-c", "echo $WHERE; echo wrong >&2; exit 7")
    assert (done.returncode, done.stdout) == (7, b"inside\n")
    assert done.stderr == b"wrong\ncommand terminated with exit code 7\n"
    assert execute(cluster, "echo", "a  b", "c").stdout == b"a  b c\n"
    assert execute(cluster, "sh", "-c", "kill -9 $$").returncode == 137
    assert execute(cluster, "true").returncode == 0


def test_much_goes_in_and_out_and_all_of_it(cluster: Cluster) -> None:
    data = os.urandom(3_000_000)
    assert execute(cluster, "cat", given=data).stdout == data
    assert execute(cluster, "wc", "-c", given=data).stdout.strip() == b"3000000"
    # What does not read its input ends all the same.
    assert execute(cluster, "sh", "-c", "echo done", given=data).stdout == b"done\n"


def test_who_leaves_something_running_is_not_waited_for(cluster: Cluster) -> None:
    mark = f"3{uuid4().int % 10**7:07}"
    assert execute(cluster, "sh", "-c", f"sleep {mark} & echo started").stdout == b"started\n"
    (left,) = running(mark)
    os.kill(int(left), signal.SIGKILL)


def running(mark: str) -> list[str]:
    """PIDs of what has this as a word of its command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in entry.read_bytes().split(b"\0"):
                found.append(entry.parent.name)
        except OSError:
            continue
    return found


def until_running(mark: str, wanted: bool) -> None:
    deadline = time.monotonic() + 30
    while bool(running(mark)) is not wanted:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("given", [[], ["-i"]])
def test_a_command_ends_with_its_client(cluster: Cluster, given: list[str]) -> None:
    mark = f"3{uuid4().int % 10**7:07}"
    # The client's own command line has the mark as part of a word only.
    script = f"exec sleep {mark}"
    process = subprocess.Popen(
        [*cluster.words, "exec", *given, "web", "--", "sh", "-c", script], stdin=subprocess.PIPE
    )
    try:
        until_running(mark, True)
    finally:
        process.kill()
        process.communicate()
    until_running(mark, False)


def test_a_terminal_has_the_clients_size_and_takes_what_is_typed(cluster: Cluster) -> None:
    own, theirs = pty.openpty()
    fcntl.ioctl(own, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
    # The size comes in a message of its own, before or after the command has begun.
    script = (
        'test -t 0 && until [ "$(stty size)" = "33 77" ]; do sleep 0.05; done; read line; echo "<$line>"; exit 5'
    )
    process = subprocess.Popen(
        [*cluster.words, "exec", "-it", "web", "--", "sh", "-c", script],
        stdin=theirs, stdout=theirs, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        os.write(own, b"typed\n")
        said = b""
        while b"<typed>" not in said:
            said += os.read(own, 1000)
        assert process.wait(60) == 5
    finally:
        process.kill()
        process.communicate()
        os.close(own)
        os.close(theirs)


def test_who_attaches_runs_the_pods_own_command(cluster: Cluster, here: Here) -> None:
    container = {"name": "web", "image": "one", "args": ["sh", "-c", "cat; exit 3"]}
    spec = {
        "restartPolicy": "Never",
        "stdin": True,
        "containers": [container | {"stdin": True, "stdinOnce": True}],
    }
    cluster.run("apply", "-f", "-", given=POD | {"metadata": {"name": "job"}, "spec": spec})
    done = subprocess.run(
        [*cluster.words, "attach", "-i", "job"], input=b"hello", capture_output=True, timeout=60, check=False
    )
    # Whoever attaches is told nothing of the exit status: it is the pod's.
    assert (done.returncode, done.stdout) == (0, b"hello"), done.stderr
    assert here.ended == [3]


def test_what_is_not_served_is_said_with_what_is(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "a lab forwards no ports: 'weft lab exec" in cluster.run("port-forward", "web", "8080:80", status=1)
    monkeypatch.setenv("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false")
    assert "kubectl does from 1.31 on" in cluster.run("exec", "web", "--", "true", status=1)
    monkeypatch.undo()
    assert "NotFound" in cluster.run("exec", "nobody", "--", "true", status=1)
    cluster.server.pods = None
    assert "could not find the requested resource" in cluster.run("exec", "web", "--", "true", status=1)


def test_logs_whole_from_their_end_and_as_they_grow(cluster: Cluster, here: Here) -> None:
    assert "writes no log" in cluster.run("logs", "web", status=1)
    here.path.write_text("one\ntwo\nthree\n")
    assert cluster.run("logs", "web") == "one\ntwo\nthree\n"
    assert cluster.run("logs", "web", "--tail=2") == "two\nthree\n"
    assert "have no times" in cluster.run("logs", "web", "--since=5m", status=1)
    process = cluster.popen("logs", "-f", "web", "--tail=1")
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "three\n"
        with here.path.open("a") as file:
            file.write("four\n")
        assert process.stdout.readline() == "four\n"
        cluster.run("delete", "pod", "web")
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("text", "lines", "wanted"),
    [
        (b"", 3, b""),
        (b"a\nb\nc\n", 1, b"c\n"),
        (b"a\nb\nc", 1, b"c"),
        (b"a\nb\nc\n", 3, b"a\nb\nc\n"),
        (b"a\nb\nc\n", 9, b"a\nb\nc\n"),
        (b"a\n\n\n", 2, b"\n\n"),
        (b"a\nb\n", 0, b""),
    ],
)
def test_the_last_lines(text: bytes, lines: int, wanted: bytes) -> None:
    assert text[start_of_tail(text, lines) :] == wanted


def test_how_it_ended() -> None:
    assert ending(0)["status"] == "Success"
    assert ending(4)["details"]["causes"] == [{"reason": "ExitCode", "message": "4"}]
    assert ending(-15)["details"]["causes"] == [{"reason": "ExitCode", "message": "143"}]
