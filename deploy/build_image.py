"""Builds the manifest's image without a container engine: ``python deploy/build_image.py OUTPUT.tar``.

The root file system is Debian's smallest with Python, libnftables and iptables (debootstrap), and Weft with its
locked dependencies in /opt/weft. The output is an OCI layout in a tar, which ``ctr image import`` and
``skopeo copy oci-archive:…`` take. A list of all that is in it (CycloneDX) lies in /usr/share/weft/sbom.json.
"""

import argparse
import contextlib
import gzip
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from weft.lab import archives

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("python3", "libnftables1", "iptables")
NAME = "docker.io/weft/weft"
ENVIRONMENT = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONDONTWRITEBYTECODE=1")
#: What a node agent never reads.
_NOT_NEEDED = (
    "usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/zoneinfo",
    "usr/share/lintian", "usr/share/bash-completion",
    "var/cache/apt", "var/lib/apt", "var/cache/debconf", "var/log", "tmp",
)  # fmt: skip
_COMMAND = """\
#!/usr/bin/python3 -I
import sys

sys.path.insert(0, "/opt/weft")
from weft.cli import main

main()
"""
#: Where Weave Net's image had its script, which its users type.
_WEAVE = """\
#!/bin/sh
exec weft weave "$@"
"""


def main() -> int:
    """Build; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "image", help="folder kept between builds")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("build_image: must run as root: debootstrap needs it", file=sys.stderr)
        return 1
    try:
        base = base_layer(options.cache)
        with tempfile.TemporaryDirectory(dir=options.cache) as folder:
            weft = weft_layer(Path(folder), base)
            size = write_image(options.output, [base, weft], version())
    except subprocess.CalledProcessError as error:
        print(f"build_image: {error.cmd[0]} failed: {(error.stderr or '').strip()[-2000:]}", file=sys.stderr)
        return 1
    print(f"{options.output}: {NAME}:{version()}, {size / 2**20:.0f} MiB compressed")
    return 0


def version() -> str:
    """Weft's."""
    return importlib.metadata.version("weft")


def base_layer(cache: Path) -> Path:
    """The layer of Debian's packages, from the cache where it was made before."""
    suite, mirror = _debian()
    key = hashlib.sha256(
        json.dumps([suite, PACKAGES, _NOT_NEEDED, Path(__file__).read_text()]).encode()
    ).hexdigest()
    layer = cache / f"base-{key[:16]}.tar.gz"
    if not layer.exists():
        print(f"==> debootstrap {suite}: {', '.join(PACKAGES)}", flush=True)
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            root = Path(folder) / "root"
            _run("debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", suite, str(root), mirror)
            for place in _NOT_NEEDED:
                shutil.rmtree(root / place, ignore_errors=True)
                (root / place).mkdir(parents=True, exist_ok=True)
            (root / "tmp").chmod(0o1777)
            (root / "etc" / "resolv.conf").write_text("")
            (root / "etc" / "hostname").write_text("")
            _pack(root, layer)
    return layer


def weft_layer(folder: Path, base: Path) -> Path:
    """The layer of Weft and what it depends on."""
    print("==> weft and its dependencies", flush=True)
    root, wheels = folder / "weft", folder / "wheels"
    target = root / "opt" / "weft"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    _run(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(wheels), str(ROOT))
    python = _python_of(base)
    matching = ["--only-binary=:all:", f"--python-version={python}", "--implementation=cp"]
    locked = ["--require-hashes", "--no-deps", "-r", str(ROOT / "requirements.lock")]
    _run(*pip, "install", "--target", str(target), *matching, *locked)
    # Apart from the others: pip leaves a folder bin alone that is there.
    _run(*pip, "install", "--target", str(folder / "own"), "--no-deps", *map(str, wheels.glob("*.whl")))
    shutil.copytree(folder / "own", target, dirs_exist_ok=True)
    for name in ("weft", "weft-plugin"):
        (target / "bin" / name).unlink(missing_ok=True)  # they name this machine's Python
    commands = root / "usr" / "local" / "bin"
    commands.mkdir(parents=True)
    (commands / "weft").write_text(_COMMAND)
    (commands / "weft").chmod(0o755)
    (commands / "weft-launcher").symlink_to("/opt/weft/bin/weft-launcher")
    weave = root / "home" / "weave" / "weave"
    weave.parent.mkdir(parents=True)
    weave.write_text(_WEAVE)
    weave.chmod(0o755)
    share = root / "usr" / "share" / "weft"
    share.mkdir(parents=True)
    (share / "sbom.json").write_text(json.dumps(bill_of_materials(base, target), indent=1) + "\n")
    for compiled in target.rglob("__pycache__"):
        shutil.rmtree(compiled)
    if python == f"{sys.version_info.major}.{sys.version_info.minor}":
        # Unchecked: layers carry no times, and a read-only file system could not be brought up to date anyway.
        _run(
            sys.executable,
            "-m",
            "compileall",
            "-q",
            "-s",
            str(root),
            "--invalidation-mode=unchecked-hash",
            str(target),
        )
    layer = folder / "weft.tar.gz"
    _pack(root, layer)
    return layer


def bill_of_materials(base: Path, target: Path) -> dict[str, Any]:
    """Debian's packages and Python's, with versions (CycloneDX 1.5)."""
    components = []
    status = _read_member(base, "var/lib/dpkg/status").decode()
    for paragraph in filter(None, status.split("\n\n")):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and line[0] != " ")
        components.append(_component("deb/debian", fields["Package"], fields["Version"]))
    for found in importlib.metadata.distributions(path=[str(target)]):
        components.append(_component("pypi", found.name, found.version))
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": NAME, "version": version()}},
        "components": sorted(components, key=lambda item: item["purl"]),
    }


def write_image(output: Path, layers: list[Path], tag: str) -> int:
    """Write the layers as an OCI archive; their bytes, compressed."""
    packed = [layer.read_bytes() for layer in layers]
    config = {"Env": list(ENVIRONMENT), "Cmd": ["weft", "agent"], "WorkingDir": "/"}
    archives.write(output, f"{NAME}:{tag}", packed, config)
    return sum(map(len, packed))


def _debian() -> tuple[str, str]:
    """This machine's release and mirror."""
    lines = _run(
        "apt-get", "indextargets", "--format", "$(CODENAME) $(REPO_URI)", "Created-By: Packages"
    ).splitlines()
    suite, mirror = lines[0].split()
    return suite, mirror


def _python_of(base: Path) -> str:
    with tarfile.open(base) as archive:
        return next(
            name.rpartition("python")[2] for name in archive.getnames() if name.startswith("usr/bin/python3.")
        )


def _component(kind: str, name: str, version_: str) -> dict[str, str]:
    return {"type": "library", "name": name, "version": version_, "purl": f"pkg:{kind}/{name}@{version_}"}


def _pack(root: Path, layer: Path) -> None:
    """Pack a folder: the same bytes for the same content."""

    def plain(item: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if item.ischr() or item.isblk():
            return None  # a runtime makes /dev by itself
        item.mtime = 0
        item.uname = item.gname = ""
        return item

    with (
        _replaced(layer) as temporary,
        gzip.GzipFile(temporary, "wb", mtime=0, compresslevel=6) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for path in sorted(root.iterdir()):
            archive.add(path, path.name, filter=plain)


def _read_member(layer: Path, name: str) -> bytes:
    with tarfile.open(layer) as archive:
        file = archive.extractfile(name)
        if file is None:
            raise FileNotFoundError(f"{layer} holds no file {name}")
        return file.read()


@contextlib.contextmanager
def _replaced(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of ``path`` when it is whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    sys.exit(main())
