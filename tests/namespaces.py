"""Network namespaces for tests: uniquely named, always removed, and code that runs inside one."""

import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from weft.kernel.namespace import NetworkNamespace

Answer = TypeVar("Answer")


def ip(*arguments: str, namespace: str | None = None) -> str:
    """What iproute2 prints, in a namespace of the test. Fails with its complaint."""
    return run("ip", *(("-n", namespace) if namespace else ()), *arguments)


def run(*command: str, namespace: str | None = None) -> str:
    """What a command prints, in a namespace of the test where one is given. Fails with its complaint."""
    entering = ("ip", "netns", "exec", namespace) if namespace else ()
    done = subprocess.run((*entering, *command), capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
    return done.stdout


@contextmanager
def network_namespace() -> Iterator[str]:
    """The name of a new network namespace, which ends with the block, and all devices in it."""
    name = f"weft-test-{uuid.uuid4().hex[:10]}"
    ip("netns", "add", name)
    try:
        yield name
    finally:
        ip("netns", "delete", name)


def path(name: str) -> Path:
    """The file that stands for a namespace."""
    return Path("/run/netns") / name


def inside(name: str, work: Callable[[], Answer]) -> Answer:
    """Do the work in a namespace, on a thread that lives only for it; its answer or its exception."""
    answers: list[Answer] = []
    failures: list[BaseException] = []

    def visit() -> None:
        try:
            with NetworkNamespace.open(path(name)) as namespace, namespace.entered():
                answers.append(work())
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=visit)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return answers[0]
