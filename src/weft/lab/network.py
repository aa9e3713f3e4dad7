"""Namespaces and wires of a lab, made with ``ip`` as one would by hand."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from weft.lab.topology import LabError

NAMESPACES = Path("/run/netns")


def run(*command: str, stdin: str | None = None, timeout: float = 60) -> str:
    """Run a command to its end; what it printed. Raises LabError with its complaint."""
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=timeout)
    except FileNotFoundError:
        raise LabError(f"{command[0]} is not installed: run 'make lab', which installs what is needed") from None
    except subprocess.TimeoutExpired:
        raise LabError(f"{' '.join(command)}: no end after {timeout:g} s") from None
    if done.returncode:
        raise LabError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def exists(namespace: str) -> bool:
    """Whether there is a namespace of that name."""
    return (NAMESPACES / namespace).exists()


def add_namespaces(names: Sequence[str]) -> None:
    """Make namespaces with their loopback up. Raises LabError for a name that is taken."""
    for name in names:
        if exists(name):
            raise LabError(f"namespace {name} exists and is not this lab's: remove it, or give another --lab")
    run("ip", "-batch", "-", stdin="".join(f"netns add {name}\n" for name in names))
    for name in names:
        run("ip", "-n", name, "link", "set", "lo", "up")


def delete_namespaces(names: Sequence[str]) -> list[str]:
    """Remove the namespaces that are there; which they were."""
    present = [name for name in names if exists(name)]
    if present:
        run("ip", "-batch", "-", stdin="".join(f"netns delete {name}\n" for name in present))
    return present


def make_underlay(namespace: str, gateway: str, mtu: int) -> None:
    """A bridge for the nodes to be plugged into, with the address of their gateway."""
    run(
        "ip", "-n", namespace, "-batch", "-",
        stdin=f"link add underlay mtu {mtu} type bridge\nlink set underlay up\n"
        f"address add {gateway} dev underlay\n",
    )  # fmt: skip


def plug_in(underlay: str, node: str, namespace: str, address: str, gateway: str, mtu: int) -> None:
    """Give a node an eth0 on the underlay, with an address and a default route."""
    run(
        "ip", "-n", underlay, "-batch", "-",
        stdin=f"link add dev {node} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {namespace}\n"
        f"link set dev {node} master underlay up\n",
    )  # fmt: skip
    run(
        "ip", "-n", namespace, "-batch", "-",
        stdin=f"link set eth0 up\naddress add {address} dev eth0\nroute add default via {gateway}\n",
    )  # fmt: skip


def processes_in(namespaces: Sequence[str]) -> list[int]:
    """PIDs of everything that runs in the namespaces, whoever started it there."""
    inodes = {(NAMESPACES / name).stat().st_ino for name in namespaces if exists(name)}
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                inode = (folder / "ns" / "net").stat().st_ino
            except OSError:
                continue
            if inode in inodes:
                found.append(int(folder.name))
    return found
