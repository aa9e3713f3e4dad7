"""The one image of a lab's sandboxes and containers, made on the spot of what this machine has.

It holds a program that waits (busybox, linked statically, as sandboxes have nothing else) and the root of this
machine's file system without its content: the pods' containers find that bound in, read-only, as a Pod's
``hostPath`` volumes are.
"""

import gzip
import io
import shutil
import sys
import tarfile
from pathlib import Path

from weft.lab import archives
from weft.lab.topology import LabError

NAME = "weft.dev/lab/pod:1"
_BUSYBOX = "busybox"
#: In the image.
_WAITS = ("/busybox", "sleep", "infinity")
#: What programs of this machine need of it, where it is there: links are in the image as they are here.
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc/alternatives", "/etc/ld.so.cache")
_FOLDERS = ("dev", "etc", "proc", "root", "run", "sys", "tmp", "var")
#: ELF header: the program header's type that names an interpreter, which a static program does not have.
_PT_INTERP = 3


def require() -> None:
    """Raise LabError where there is no program that runs in an empty root."""
    found = shutil.which(_BUSYBOX)
    if found is None or _is_dynamic(Path(found)):
        mend = "run 'make setup-containerd', or leave out --runtime containerd"
        raise LabError(f"a static {_BUSYBOX} (Debian: busybox-static) is not installed: {mend}")


def bound() -> list[str]:
    """The places of this machine's file system that a container finds as they are here.

    Python may live anywhere; the folders of this machine's system are where they always are.
    """
    system = [path for path in _SYSTEM if Path(path).exists() and not Path(path).is_symlink()]
    own = str(Path(sys.base_prefix).resolve())
    return [*system, *([] if own.startswith("/usr/") or own == "/usr" else [own])]


def write(path: Path) -> None:
    """Write the image as an OCI archive. Raises LabError."""
    program = Path(shutil.which(_BUSYBOX) or "").resolve()
    layer = io.BytesIO()
    with gzip.GzipFile(fileobj=layer, mode="wb", mtime=0, compresslevel=1) as packed:
        _fill(packed, program.read_bytes())
    archives.write(path, NAME, [layer.getvalue()], {"Entrypoint": list(_WAITS), "WorkingDir": "/"})


def _fill(packed: gzip.GzipFile, program: bytes) -> None:
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name in _FOLDERS:
            item = tarfile.TarInfo(name)
            item.type, item.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            archive.addfile(item)
        for path in map(Path, _SYSTEM):
            if path.is_symlink():
                item = tarfile.TarInfo(str(path.relative_to("/")))
                item.type, item.linkname = tarfile.SYMTYPE, str(path.readlink())
                archive.addfile(item)
        archives.add(archive, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
        archives.add(archive, "etc/group", b"root:x:0:\n")
        archives.add(archive, _WAITS[0].lstrip("/"), program, mode=0o755)


def _is_dynamic(path: Path) -> bool:
    """Whether a 64-bit ELF program asks for an interpreter (elf(5))."""
    data = path.read_bytes()
    start = int.from_bytes(data[32:40], sys.byteorder)
    size, count = (int.from_bytes(data[at : at + 2], sys.byteorder) for at in (54, 56))
    kinds = (data[at : at + 4] for at in range(start, start + size * count, size or 1))
    return data[:5] != b"\x7fELF\x02" or any(int.from_bytes(kind, sys.byteorder) == _PT_INTERP for kind in kinds)
