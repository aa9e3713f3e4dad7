"""The launcher against a real server at the other end of its socket, and against none."""

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.namespaces import network_namespace, path
from weft.agent.wire import Request, decode_request, encode_answer, receive_request

INSTALLED = Path(sys.executable).parent / "weft-launcher"
SOURCE = Path(__file__).parents[2] / "launcher" / "launcher.c"
VERSIONS = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]


@pytest.fixture(scope="session")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """The launcher with the compiler's checks of memory and arithmetic, where the compiler has them."""
    target = tmp_path_factory.mktemp("launcher") / "launcher"
    flags = ["-std=c11", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    done = subprocess.run(["gcc", *flags, "-o", target, SOURCE], capture_output=True, check=False)
    return target if done.returncode == 0 else None


@pytest.fixture(params=["installed", "sanitized"])
def launcher(request: pytest.FixtureRequest, sanitized: Path | None) -> Path:
    if request.param == "installed":
        return INSTALLED
    if sanitized is None:
        pytest.skip("this compiler has no address sanitizer")
    return sanitized


class Call:
    """One call of the launcher in a folder of its own."""

    def __init__(self, launcher: Path, folder: Path) -> None:
        self.launcher = launcher
        self.folder = folder
        self.socket = folder / "cni.sock"
        self.deletions = folder / "state" / "deletions"

    def environment(self, **more: Any) -> dict[str, str]:
        values: dict[str, str | None] = {
            "CNI_COMMAND": "ADD",
            "CNI_CONTAINERID": "abc",
            "CNI_NETNS": "/proc/self/ns/net",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": "/opt/cni/bin",
            "WEFT_SOCKET": str(self.socket),
            "WEFT_DELETIONS": str(self.deletions),
            "WEFT_DEADLINE": "10",
            **more,
        }
        return {name: value for name, value in values.items() if value is not None}

    def __call__(self, stdin: bytes = b"{}", plugin: str = "weave-net", **more: Any) -> Any:
        return subprocess.run(
            [plugin],
            executable=self.launcher,
            input=stdin,
            capture_output=True,
            timeout=30,
            check=False,
            env=self.environment(**more),
        )

    def error(self, stdin: bytes = b"{}", **more: Any) -> dict[str, Any]:
        """A call that must fail: its error."""
        done = self(stdin, **more)
        assert done.returncode == 1, done
        assert done.stderr == b""
        error: dict[str, Any] = json.loads(done.stdout)
        assert set(error) == {"cniVersion", "code", "msg"}
        return error

    @contextmanager
    def agent(self, answer: Callable[[socket.socket], None]) -> Iterator[None]:
        """Something that accepts one connection."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self.socket))
        listener.listen(8)
        listener.settimeout(20)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            thread.join(timeout=30)
            listener.close()
            self.socket.unlink()


@pytest.fixture
def call(launcher: Path, tmp_path: Path) -> Call:
    return Call(launcher, tmp_path)


def test_the_agent_gets_everything_and_its_answer_is_passed_on(call: Call) -> None:
    got: list[Request] = []
    inode: list[int] = []

    def answer(connection: socket.socket) -> None:
        request = receive_request(connection)
        got.append(request)
        assert request.namespace is not None
        inode.append(os.fstat(request.namespace).st_ino)
        os.close(request.namespace)
        connection.sendall(encode_answer(3, b"what it said" * 10000))

    configuration = b'{"cniVersion": "1.0.0", "big": "' + b"x" * 500_000 + b'"}'
    with network_namespace() as name, call.agent(answer):
        done = call(configuration, plugin="/opt/cni/bin/weave-net", CNI_NETNS=str(path(name)), CNI_ARGS="A=B;C=d")
        assert inode == [path(name).stat().st_ino]
    assert (done.returncode, done.stdout, done.stderr) == (3, b"what it said" * 10000, b"")
    (request,) = got
    assert request.plugin == "weave-net"
    assert request.configuration == configuration
    assert dict(request.environment) == {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "abc",
        "CNI_NETNS": str(path(name)),
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/opt/cni/bin",
        "CNI_ARGS": "A=B;C=d",
    }


def slow(connection: socket.socket) -> None:
    receive_request(connection)
    time.sleep(2.5)


def gone(connection: socket.socket) -> None:
    receive_request(connection)
    connection.sendall(encode_answer(0, b"x" * 100)[:50])


def foreign(connection: socket.socket) -> None:
    receive_request(connection)
    connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n")


@pytest.mark.parametrize("answer", [slow, gone, foreign])
@pytest.mark.parametrize(("command", "code"), [("ADD", 11), ("CHECK", 11), ("GC", 11), ("STATUS", 50)])
def test_an_agent_that_fails_is_an_error_that_names_the_socket(
    call: Call, answer: Callable[[socket.socket], None], command: str, code: int
) -> None:
    begun = time.monotonic()
    with call.agent(answer):
        error = call.error(b'{"cniVersion": "0.4.0"}', CNI_COMMAND=command, WEFT_DEADLINE="1")
        assert time.monotonic() - begun < 2.4
    assert (error["code"], error["cniVersion"]) == (code, "0.4.0")
    assert str(call.socket) in error["msg"]


def test_a_full_backlog_is_waited_for_until_the_deadline(call: Call) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(str(call.socket))
        listener.listen(0)
        first.connect(str(call.socket))
        error = call.error(WEFT_DEADLINE="1")
    assert (error["code"], str(call.socket) in error["msg"]) == (11, True)


@pytest.mark.parametrize(("command", "code"), [("ADD", 11), ("CHECK", 11), ("GC", 11), ("STATUS", 50)])
def test_without_an_agent(call: Call, command: str, code: int) -> None:
    error = call.error(CNI_COMMAND=command, WEFT_DEADLINE="1")
    assert error["code"] == code
    assert str(call.socket) in error["msg"]


def unread(connection: socket.socket) -> None:
    """An agent that ends with a request in its backlog."""


@pytest.mark.parametrize("before", [None, unread])
def test_an_add_waits_for_an_agent_that_starts_again(
    call: Call, before: Callable[[socket.socket], None] | None
) -> None:
    def answer(connection: socket.socket) -> None:
        os.close(receive_request(connection).namespace or -1)
        connection.sendall(encode_answer(0, b"served"))

    with ThreadPoolExecutor(1) as threads:
        if before is None:
            waiting = threads.submit(call)
            time.sleep(0.3)
        else:
            with call.agent(before):
                waiting = threads.submit(call)
        assert not waiting.done()
        with call.agent(answer):
            assert waiting.result().stdout == b"served"


@pytest.mark.parametrize("command", ["ADD", "CHECK"])
def test_a_request_that_was_read_is_not_sent_again(call: Call, command: str) -> None:
    """Its agent may have done it."""

    def dying(connection: socket.socket) -> None:
        os.close(receive_request(connection).namespace or -1)

    with call.agent(dying):
        error = call.error(CNI_COMMAND=command)
    assert (error["code"], "went away before it answered" in error["msg"]) == (11, True)


@pytest.mark.parametrize("answer", [None, slow, gone, foreign])
def test_a_del_is_written_down_for_the_next_agent(
    call: Call, answer: Callable[[socket.socket], None] | None
) -> None:
    configuration = b'{"cniVersion": "1.0.0", "name": "weave"}'
    if answer is None:
        done = call(configuration, CNI_COMMAND="DEL", CNI_NETNS="/run/netns/gone")
    else:
        with call.agent(answer):
            done = call(configuration, CNI_COMMAND="DEL", CNI_NETNS="", WEFT_DEADLINE="1")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    (file,) = call.deletions.iterdir()
    assert stat.S_IMODE(call.deletions.stat().st_mode) == 0o700
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    request = decode_request(file.read_bytes())
    assert (request.plugin, request.configuration) == ("weave-net", configuration)
    assert (request.environment["CNI_COMMAND"], request.environment["CNI_CONTAINERID"]) == ("DEL", "abc")


def test_deletions_stay_in_order(call: Call) -> None:
    for number in range(5):
        assert call(CNI_COMMAND="DEL", CNI_CONTAINERID=f"c{number}").returncode == 0
    kept = [decode_request(file.read_bytes()) for file in sorted(call.deletions.iterdir())]
    assert [request.environment["CNI_CONTAINERID"] for request in kept] == [f"c{number}" for number in range(5)]


def test_a_folder_that_others_may_read_is_refused(call: Call) -> None:
    call.deletions.mkdir(parents=True)
    call.deletions.chmod(0o755)
    error = call.error(CNI_COMMAND="DEL")
    assert error["code"] == 11
    assert str(call.deletions) in error["msg"]
    assert list(call.deletions.iterdir()) == []


def test_a_folder_that_cannot_be_is_an_error(call: Call) -> None:
    call.deletions.parent.write_text("a file in its place")
    error = call.error(CNI_COMMAND="DEL")
    assert error["code"] == 11
    assert str(call.deletions.parent) in error["msg"]


def test_a_full_disk_is_an_error_and_leaves_no_half_file(call: Call) -> None:
    call.deletions.mkdir(parents=True, mode=0o700)
    script = (
        'mount -t tmpfs -o size=4k,mode=700 none "$0" && head -c 4096 /dev/zero > "$0/x";'
        'head -c 20000 /dev/zero | tr "\\0" " " | "$1"; echo " $?"; ls -A "$0"'
    )
    mount = ["unshare", "--mount", "sh", "-c", script]
    done = subprocess.run(
        [*mount, call.deletions, call.launcher], env=call.environment(CNI_COMMAND="DEL", PATH=os.environ["PATH"]),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    answer, rest = done.stdout.split("\n", 1)
    assert json.loads(answer)["code"] == 11
    assert "No space left" in json.loads(answer)["msg"]
    assert rest.split() == ["1", "x"]


def test_version_and_about_need_no_agent(call: Call) -> None:
    done = call(CNI_COMMAND="VERSION")
    assert json.loads(done.stdout) == {"cniVersion": "1.1.0", "supportedVersions": VERSIONS}
    done = call(CNI_COMMAND=None)
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"weave-net" in done.stderr


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"CNI_COMMAND": "FLY"}, "CNI_COMMAND: FLY"),
        ({"CNI_CONTAINERID": None}, "CNI_CONTAINERID"),
        ({"CNI_CONTAINERID": "../etc"}, "../etc"),
        ({"CNI_CONTAINERID": "_a"}, "_a"),
        ({"CNI_IFNAME": None}, "CNI_IFNAME"),
        ({"CNI_IFNAME": "sixteen-bytes-01"}, "sixteen-bytes-01"),
        ({"CNI_IFNAME": "a/b"}, "a/b"),
        ({"CNI_IFNAME": ".."}, "CNI_IFNAME"),
        ({"CNI_IFNAME": "a b"}, "a b"),
        ({"CNI_NETNS": None}, "CNI_NETNS"),
        ({"CNI_NETNS": "/run/netns/no-such"}, "No such file"),
        ({"CNI_NETNS": "/etc/passwd"}, "not a network namespace"),
        ({"CNI_PATH": None}, "CNI_PATH"),
        ({"CNI_ARGS": "x" * 70000}, "65536"),
    ],
)
def test_a_malformed_environment_is_code_4(call: Call, change: dict[str, Any], said: str) -> None:
    error = call.error(**change)
    assert error["code"] == 4
    assert said in error["msg"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"WEFT_DEADLINE": "soon"}, "soon"),
        ({"WEFT_DEADLINE": "0"}, "0"),
        ({"WEFT_SOCKET": "relative"}, "relative"),
        ({"WEFT_SOCKET": "/" + "x" * 200}, "at most"),
        ({"WEFT_DELETIONS": "here"}, "here"),
    ],
)
def test_a_bad_setting_is_code_7(call: Call, change: dict[str, Any], said: str) -> None:
    error = call.error(**change)
    assert error["code"] == 7
    assert said in error["msg"]


def test_standard_input_is_bounded_in_size_and_time(call: Call) -> None:
    assert call.error(b"x" * (1 << 20) + b"y")["code"] == 6
    assert call.error(b"")["code"] == 6
    silent = subprocess.Popen(
        ["weave-net"], executable=call.launcher, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env=call.environment(WEFT_DEADLINE="1"),
    )  # fmt: skip
    assert silent.wait(timeout=5) == 1
    assert silent.stdout is not None
    assert json.loads(silent.stdout.read())["code"] == 5
    for stream in (silent.stdin, silent.stdout):
        assert stream is not None
        stream.close()


@settings(max_examples=60)
@given(st.binary(min_size=1, max_size=40).filter(lambda data: b"\0" not in data), st.binary(max_size=60))
def test_whatever_comes_in_what_goes_out_is_json(value: bytes, stdin: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        call = Call(INSTALLED, Path(folder))
        done = subprocess.run(
            ["weave-net"], executable=INSTALLED, input=stdin, capture_output=True, check=False, timeout=20,
            env={**{name.encode(): text.encode() for name, text in call.environment().items()},
                 b"CNI_CONTAINERID": value},
        )  # fmt: skip
        assert done.returncode == 1
        error = json.loads(done.stdout.decode())
        assert error["code"] in (4, 6, 11)


def test_it_needs_nothing_of_the_host(launcher: Path) -> None:
    if launcher != INSTALLED:
        pytest.skip("about the installed executable")
    described = subprocess.run(["ldd", launcher], capture_output=True, text=True, check=False)
    assert "not a dynamic executable" in described.stdout + described.stderr or "statically" in described.stdout
    assert shutil.which("ldd")
