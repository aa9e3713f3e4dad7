"""Namespaces as descriptors, and the way back from a visit."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.namespaces import inside, network_namespace, path
from weft.kernel.namespace import Kept, NetworkNamespace


def identity_here() -> tuple[int, int]:
    with NetworkNamespace.current() as here:
        return here.identity


def test_a_visit_is_there_and_then_back(namespace: str) -> None:
    home = identity_here()
    with NetworkNamespace.open(path(namespace)) as there:
        with there.entered():
            assert identity_here() == there.identity != home
        assert identity_here() == home


def test_a_visit_that_fails_comes_back_too(namespace: str) -> None:
    home = identity_here()
    with NetworkNamespace.open(path(namespace)) as there, pytest.raises(ZeroDivisionError), there.entered():
        _ = 1 / 0
    assert identity_here() == home


def test_visits_nest(namespace: str, pod: str) -> None:
    with (
        NetworkNamespace.open(path(namespace)) as outer,
        NetworkNamespace.open(path(pod)) as inner,
        outer.entered(),
    ):
        with inner.entered():
            assert identity_here() == inner.identity
        assert identity_here() == outer.identity


def test_a_visit_concerns_its_own_thread_only(namespace: str) -> None:
    home, seen, entered = identity_here(), [], threading.Event()

    def bystander() -> None:
        entered.wait(10)
        seen.append(identity_here())

    thread = threading.Thread(target=bystander)
    thread.start()
    with NetworkNamespace.open(path(namespace)) as there, there.entered():
        entered.set()
        thread.join()
    assert seen == [home]


def there_identity(name: str) -> tuple[int, int]:
    with NetworkNamespace.open(path(name)) as there:
        return there.identity


def test_a_namespace_outlives_its_name() -> None:
    with network_namespace() as name:
        held = NetworkNamespace.open(path(name))
        identity = held.identity
    with held, held.entered():
        assert identity_here() == identity


def test_what_is_no_network_namespace_is_refused_and_not_leaked(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    before = descriptors()
    for wrong in (tmp_path / "file", tmp_path / "fifo", tmp_path, Path("/proc/self/ns/mnt")):
        with pytest.raises(ValueError, match=f"{wrong}.* is not a network namespace"):
            NetworkNamespace.open(wrong)
    with pytest.raises(FileNotFoundError):
        NetworkNamespace.open(tmp_path / "missing")
    with pytest.raises(ValueError, match="is not a network namespace"):
        NetworkNamespace.from_fd(os.open(tmp_path / "file", os.O_RDONLY))
    assert descriptors() == before


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_closing_closes_once() -> None:
    there = NetworkNamespace.current()
    descriptor = there.fd
    there.close()
    there.close()
    assert there.fd == -1
    assert repr(there) == "<NetworkNamespace closed>"
    with pytest.raises(OSError):
        os.fstat(descriptor)


def test_a_forgotten_namespace_is_let_go() -> None:
    before = descriptors()
    forgotten = NetworkNamespace.current()
    assert descriptors() == before + 1
    del forgotten
    assert descriptors() == before


def test_entering_a_closed_namespace_stays_home() -> None:
    home, there = identity_here(), NetworkNamespace.current()
    there.close()
    with pytest.raises(OSError, match="cannot enter the network namespace"), there.entered():
        pass
    assert identity_here() == home


def test_without_a_way_back_the_process_ends(namespace: str) -> None:
    # The visitor's descriptor of the way home is the one after its own.
    script = f"""
import os
from weft.kernel.namespace import Kept, NetworkNamespace
with NetworkNamespace.open({str(path(namespace))!r}) as there, there.entered():
    os.closerange(there.fd + 1, there.fd + 10)
print("still here")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == -signal.SIGABRT
    assert "no way back to the thread's own network namespace" in done.stderr
    assert "still here" not in done.stdout


def test_the_helper_returns_answers_and_failures(namespace: str) -> None:
    assert inside(namespace, identity_here) == there_identity(namespace)
    with pytest.raises(ZeroDivisionError):
        inside(namespace, lambda: 1 // 0)


def test_what_is_kept_is_the_threads_and_the_namespaces(namespace: str) -> None:
    made: list[object] = []

    def make() -> object:
        made.append(object())
        return made[-1]

    kept = Kept(make)
    here = kept.get()
    assert kept.get() is here
    there = inside(namespace, kept.get)
    assert there is not here and kept.get() is here
    assert inside(namespace, lambda: kept.get() is kept.get())
    with NetworkNamespace.open(path(namespace)) as other, other.entered():
        elsewhere = kept.get()
        assert elsewhere is not here
    assert kept.get() not in (here, elsewhere)


def test_a_handle_finds_its_namespace_alone() -> None:
    with network_namespace() as name, NetworkNamespace.open(path(name)) as namespace:
        handle, identity = namespace.handle, namespace.identity
        if not handle:
            pytest.skip("this kernel has no handles of namespaces (Linux 6.18)")
        with NetworkNamespace.from_handle(handle) as found:
            assert found.identity == identity
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            NetworkNamespace.from_handle(handle).close()
        except OSError:
            break  # the kernel takes namespaces down a little later
        time.sleep(0.02)
    with pytest.raises(OSError, match="is gone"):
        NetworkNamespace.from_handle(handle)
    with pytest.raises(OSError):
        NetworkNamespace.from_handle(b"")
