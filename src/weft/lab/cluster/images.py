"""Container images in a lab: an OCI archive unpacked once into the folder that all nodes see."""

import json
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from weft.lab.topology import LabError

#: In the folder that all nodes see.
FOLDER = "images"
_NAME = "io.containerd.image.name"


@dataclass(frozen=True, slots=True)
class Image:
    """An unpacked image: its root file system, and what it says of processes (OCI image-spec, config)."""

    root: Path
    environment: tuple[str, ...]
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    folder: str


def load(archive: Path, store: Path) -> str:
    """Unpack an OCI archive; the image's name. One of the same name is replaced. Raises LabError."""
    try:
        with tarfile.open(archive) as content:
            index = json.loads(_member(content, "index.json"))
            pointer = index["manifests"][0]
            name = pointer["annotations"][_NAME]
            manifest = json.loads(_blob(content, pointer["digest"]))
            config = _blob(content, manifest["config"]["digest"])
            images = store / FOLDER
            images.mkdir(mode=0o755, parents=True, exist_ok=True)
            new = images / f".{quote(name, safe='')}"
            shutil.rmtree(new, ignore_errors=True)
            (new / "root").mkdir(parents=True)
            for layer in manifest["layers"]:
                _unpack(_blob(content, layer["digest"]), new / "root")
    except (OSError, tarfile.TarError, KeyError, IndexError, TypeError, ValueError) as error:
        raise LabError(f"{archive} is no OCI archive of one image: {error}; 'make image' writes one") from None
    (new / "config.json").write_bytes(config)
    # A node may run containers of the old one: they keep what they have open.
    folder = images / quote(name, safe="")
    if folder.exists():
        old = images / f".old-{folder.name}"
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        new.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    else:
        new.rename(folder)
    return str(name)


def find(name: str, store: Path) -> Image:
    """The image behind a name in a manifest. Raises LabError where it was not loaded."""
    full = full_name(name)
    folder = store / FOLDER / quote(full, safe="")
    try:
        config = json.loads((folder / "config.json").read_bytes()).get("config") or {}
    except FileNotFoundError:
        raise LabError(f"image {full} is not in this lab: 'weft lab load' takes the archive of it") from None
    return Image(
        folder / "root",
        tuple(config.get("Env") or ()),
        tuple(config.get("Entrypoint") or ()),
        tuple(config.get("Cmd") or ()),
        config.get("WorkingDir") or "/",
    )


def full_name(name: str) -> str:
    """An image's name with its registry and tag, as runtimes complete it."""
    first, slash, _ = name.partition("/")
    if not slash:
        name = f"docker.io/library/{name}"
    elif "." not in first and ":" not in first and first != "localhost":
        name = f"docker.io/{name}"
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _unpack(layer: bytes, root: Path) -> None:
    """Lay a layer over those before it (OCI image-spec, layer)."""
    listing = subprocess.run(["tar", "-tz"], input=layer, check=True, capture_output=True).stdout.decode()
    for name in listing.splitlines():
        path = Path(name)
        if path.name == ".wh..wh..opq":
            shutil.rmtree(root / path.parent, ignore_errors=True)
        elif path.name.startswith(".wh."):
            gone = root / path.parent / path.name.removeprefix(".wh.")
            if gone.is_dir() and not gone.is_symlink():
                shutil.rmtree(gone)
            else:
                gone.unlink(missing_ok=True)
    command = ["tar", "-xz", "--numeric-owner", "--exclude=.wh.*", "-C", str(root)]
    subprocess.run(command, input=layer, check=True, capture_output=True)


def _blob(content: tarfile.TarFile, digest: str) -> bytes:
    return _member(content, "blobs/" + digest.replace(":", "/"))


def _member(content: tarfile.TarFile, name: str) -> bytes:
    file = content.extractfile(name)
    if file is None:
        raise ValueError(f"{name} is no file")
    return file.read()
