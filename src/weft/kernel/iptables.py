"""iptables: a table read at once, and lines applied in one transaction.

The programs themselves decide between their nftables and their legacy form, as the host is set up; what others
see with ``iptables-save`` is what is here. One reading and one writing replace a program run per rule, which is
what takes the time; ``attempt`` needs no reading where the tables are as one thinks (iptables-save(8),
iptables-restore(8)).
"""

import contextlib
import fcntl
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_PROGRAMS = {4: "iptables", 6: "ip6tables"}
#: The older form's IPv4 tables of the calling thread's network namespace.
_LEGACY_TABLES = Path("/proc/thread-self/net/ip_tables_names")
#: Seconds to wait for another program that holds the legacy tables' lock, and for the program itself.
_LOCK_WAIT = "10"
_TIMEOUT = 30.0
#: What the name of a chain may be; longer ones the kernel does not keep.
CHAIN_NAME = re.compile(r"[^\s\-!\"'\\][^\s\"'\\]{0,27}")
#: Held between a reading and the writing that follows from it; in the folder of /run that a container can write.
_LOCK = Path("/run/weft/iptables.lock")
#: Readings and writings until one meets the table as it was read.
_ATTEMPTS = 3


class IptablesError(Exception):
    """The tables could not be read, or lines were refused and nothing of them applied."""


@dataclass(frozen=True, slots=True)
class Table:
    """One table: its chains with their rules, each as iptables-save writes it behind ``-A CHAIN ``.

    ``policies`` are those of the kernel's own chains, such as ``DROP``; the others have none.
    """

    name: str
    chains: dict[str, list[str]]
    policies: dict[str, str] = field(default_factory=dict)

    def rules(self, chain: str) -> list[str]:
        """The rules of a chain, none for a chain that is not there."""
        return self.chains.get(chain, [])

    def references(self, target: str) -> list[tuple[str, str]]:
        """The (chain, rule) pairs whose target is a chain."""
        end = f"-j {target}"
        return [
            (chain, rule)
            for chain, rules in self.chains.items()
            for rule in rules
            if rule == end or rule.endswith(f" {end}")
        ]


def available(version: int = 4) -> bool:
    """Whether the programs for an IP version are installed."""
    return shutil.which(f"{_PROGRAMS[version]}-restore") is not None


_usable: set[int] = set()


def usable(version: int = 4) -> bool:
    """Whether the programs for an IP version are installed and the kernel knows what they need.

    The kernel is not asked again once it did.
    """
    if not available(version):
        return False
    if version not in _usable:
        with contextlib.suppress(IptablesError):
            read(version, "filter")
            _usable.add(version)
    return version in _usable


@contextlib.contextmanager
def _transaction() -> Iterator[None]:
    """Keep other users of this module from writing between a reading and what follows from it."""
    _LOCK.parent.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def read(version: int, table: str, *, legacy: bool = False) -> Table:
    """A table of the calling thread's network namespace, for IP version 4 or 6. Raises IptablesError.

    ``legacy``: the table of the older form, which may be in the kernel beside the one that the programs use. To
    read one that is not there makes it; ``legacy_tables`` tells which are.
    """
    return parse(table, _run([f"{_PROGRAMS[version]}{_form(legacy)}-save", "-t", table]))


def legacy_tables() -> list[str]:
    """The IPv4 tables of the older form that are in the kernel; none where their programs are not installed."""
    if shutil.which(f"{_PROGRAMS[4]}-legacy-save") is None:
        return []
    try:
        return _LEGACY_TABLES.read_text().split()
    except OSError:
        return []


def _form(legacy: bool) -> str:
    return "-legacy" if legacy else ""


def parse(table: str, saved: str) -> Table:
    """A table out of what iptables-save prints."""
    chains: dict[str, list[str]] = {}
    policies: dict[str, str] = {}
    for line in saved.splitlines():
        if line.startswith(":"):
            chain, policy = line[1:].split(" ")[:2]
            chains[chain] = []
            if policy != "-":
                policies[chain] = policy
        elif line.startswith("-A "):
            _, chain, rule = line.split(" ", 2)
            chains.setdefault(chain, []).append(rule)
    return Table(table, chains, policies)


def apply(version: int, table: str, lines: Sequence[str], *, legacy: bool = False) -> None:
    """Apply lines of iptables-restore to a table: all of them or none. Raises IptablesError.

    ``:CHAIN - [0:0]`` makes a chain or empties it, ``-A``, ``-I``, ``-D`` and ``-X`` are those of iptables.
    """
    if not lines:
        return
    text = "\n".join((f"*{table}", *lines, "COMMIT", ""))
    _run([f"{_PROGRAMS[version]}{_form(legacy)}-restore", "--noflush", "-w", _LOCK_WAIT], text)


def attempt(version: int, table: str, lines: Sequence[str]) -> bool:
    """``apply``, for lines that presume what is there: ``-C``, ``-N``, ``-D`` fail where it is otherwise.

    Whether they were applied; nothing of them was where they were not.
    """
    try:
        apply(version, table, lines)
    except IptablesError:
        return False
    return True


def edit(version: int, table: str, change: Callable[[Table], Sequence[str]]) -> None:
    """Read a table and apply the lines that follow from it; once more where it changed meanwhile.

    ``change`` should make shared chains with ``-N``, so that one that came meanwhile is not emptied. Raises
    IptablesError.
    """
    with _transaction():
        found = read(version, table)
        for left in reversed(range(_ATTEMPTS)):
            try:
                apply(version, table, change(found))
                break
            except IptablesError:
                seen, found = found, read(version, table)
                if found == seen or not left:
                    raise


def removal(table: Table, chains: Sequence[str]) -> list[str]:
    """The lines that take chains away, and the rules that lead to them; none for chains that are not there."""
    lines = []
    for chain in chains:
        lines += [f"-D {place} {rule}" for place, rule in table.references(chain)]
        if chain in table.chains:
            lines += [empty_chain(chain), f"-X {chain}"]
    return lines


def empty_chain(chain: str) -> str:
    """The line that makes a chain, or empties it where it is there."""
    return f":{chain} - [0:0]"


def quoted(arguments: Sequence[str]) -> str:
    """A rule's arguments as iptables-save and iptables-restore write them.

    Raises ValueError for one with a line's end, which no quotes can hold.
    """
    if any("\n" in argument or "\0" in argument for argument in arguments):
        raise ValueError("an argument of iptables holds no line's end")
    return " ".join(_quoted(argument) for argument in arguments)


def _quoted(argument: str) -> str:
    if argument and not set(argument) & set("\"'\\ \t"):
        return argument
    return '"' + argument.replace("\\", "\\\\").replace('"', '\\"') + '"'


def unquoted(rule: str) -> list[str]:
    """The arguments of a rule."""
    return shlex.split(rule)


def _run(command: list[str], text: str = "") -> str:
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except FileNotFoundError:
        raise IptablesError(f"the program {command[0]} is not installed (Debian: iptables)") from None
    except subprocess.TimeoutExpired:
        raise IptablesError(f"{command[0]} gave no answer in {_TIMEOUT:g} s") from None
    if done.returncode:
        raise IptablesError(f"{command[0]} failed: {_reason(done.stderr, text)}")
    return done.stdout


def _reason(complaint: str, text: str) -> str:
    """The program's complaint in one line, with the line of the input that it is about."""
    lines = [line.strip() for line in complaint.splitlines() if line.strip() and "warning" not in line.lower()]
    said = " ".join(lines[:3])[:300] or "no reason given"
    for word in said.replace(":", " ").split():
        if word.isdigit() and 0 < int(word) <= text.count("\n"):
            return f"{said}: {text.splitlines()[int(word) - 1]}"
    return said
