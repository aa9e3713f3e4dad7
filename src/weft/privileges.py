"""What the kernel must let Weft's programs do: one table for them and the manifest; and folders that they write.

Numbers of capabilities: include/uapi/linux/capability.h; what this process has: CapEff in proc_pid_status(5).
"""

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Capability:
    """A capability and what it is for. One that is not ``needed`` is of use on some hosts only."""

    name: str
    number: int
    why: str
    needed: bool = True


_FOLDERS = Capability("DAC_OVERRIDE", 1, "folders of the host", needed=False)
#: Of ``weft agent``, ``weft npc`` and ``weft cni install``: what the manifest's containers have, and no more.
AGENT = (
    Capability("NET_ADMIN", 12, "links, addresses, routes, nftables"),
    Capability("NET_RAW", 13, "gratuitous ARP"),
    Capability("SYS_ADMIN", 21, "entering pods' network namespaces"),
    _FOLDERS,
)
POLICY = (Capability("NET_ADMIN", 12, "nftables, connection tracking"), _FOLDERS)
INSTALL = (_FOLDERS,)


class NotPermitted(Exception):
    """This process lacks something that it cannot work without; the message names it and the mend."""


def missing(effective: int, wanted: Sequence[Capability]) -> list[Capability]:
    """Which of the needed ones are not in a set of capabilities, one bit each."""
    return [each for each in wanted if each.needed and not effective >> each.number & 1]


def require(who: str, wanted: Sequence[Capability]) -> None:
    """Raise NotPermitted where this process lacks a capability that it needs; ``who`` is to be given it."""
    lacking = missing(_effective(), wanted)
    if not lacking:
        return
    names = " and ".join(f"CAP_{each.name}" for each in lacking)
    uses = " and ".join(each.why for each in lacking)
    raise NotPermitted(
        f"{names} {'is' if len(lacking) == 1 else 'are'} missing, for {uses}: give the {who} {names} "
        "(in a manifest: securityContext.capabilities.add)"
    )


def require_writable(folder: Path, otherwise: str = "") -> None:
    """Raise NotPermitted where nothing can be written to a folder, or where one that is not there cannot be made.

    ``otherwise`` names the option that gives another folder. Nothing is left behind.
    """
    reason = _why_not_writable(folder)
    if reason:
        instead = f", or give another {otherwise}" if otherwise else ""
        raise NotPermitted(f"{folder} cannot be written ({os.strerror(reason)}): {_mend(reason)}{instead}")


def _mend(reason: int) -> str:
    if reason == errno.EROFS:
        return "mount it without readOnly (ro)"
    if reason in (errno.EACCES, errno.EPERM):
        return "let root own it, give CAP_DAC_OVERRIDE, or take its attribute immutable away (chattr -i)"
    if reason in (errno.ENOSPC, errno.EDQUOT):
        return "make room there"
    return "make a folder of it"


def _why_not_writable(folder: Path) -> int:
    """The error's number; 0 where files can be made there."""
    present = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    try:
        # A file without a name: no other program sees it, and it ends with its descriptor.
        os.close(os.open(present, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    except OSError as error:
        # EOPNOTSUPP, and EISDIR of old: this file system has no such files.
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
            return error.errno or errno.EIO
        return 0 if os.access(present, os.W_OK | os.X_OK) else errno.EACCES
    return 0


def _effective() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff:"))
