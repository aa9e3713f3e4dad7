"""Values below /proc/sys, in the calling thread's network namespace where they belong to one.

A key is a path in parts, ``("net", "ipv4", "conf", "eth0.100", "proxy_arp")``: names of interfaces may have dots.
Source: https://docs.kernel.org/networking/ip-sysctl.html
"""

import contextlib
import errno
import os
from collections.abc import Sequence

#: In a container /proc/sys is read-only: there WEFT_SYSCTL_ROOT names a folder that has the host's ``net`` in it.
_ROOT = os.environ.get("WEFT_SYSCTL_ROOT") or "/proc/sys"
_MEND = ": mount the host's /proc/sys/net writable, and name the folder that it is in by WEFT_SYSCTL_ROOT"


def read(path: Sequence[str]) -> str:
    """The value, without the line's end. Raises OSError naming the key, ValueError where the key is no path."""
    try:
        descriptor = os.open(_file(path), os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(descriptor, 4096).decode().rstrip("\n")
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _named(error, f"cannot read sysctl {_shown(path)}") from None


def write(path: Sequence[str], value: int | str) -> None:
    """Set the value; nothing is written where it is set already. Raises OSError naming the key and the value.

    So a value that someone set beforehand serves where /proc/sys is mounted read-only.
    """
    wanted = str(value)
    # Some can only be written, such as net/ipv4/route/flush.
    with contextlib.suppress(PermissionError):
        if read(path).split() == wanted.split():
            return
    try:
        descriptor = os.open(_file(path), os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, wanted.encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        mend = _MEND if error.errno == errno.EROFS else ""
        raise _named(error, f"cannot set sysctl {_shown(path)} to {wanted!r}", mend) from None


def _file(path: Sequence[str]) -> str:
    if isinstance(path, str) or not path or any(part in ("", ".", "..") or "/" in part for part in path):
        raise ValueError(f'{path!r} is not a sysctl key: parts without "/", as in ("net", "ipv4", "ip_forward")')
    return "/".join((_ROOT, *path))


def _shown(path: Sequence[str]) -> str:
    return "/".join(path)


def _named(error: OSError, what: str, mend: str = "") -> OSError:
    return OSError(error.errno, f"{what}: {error.strerror}{mend}")
