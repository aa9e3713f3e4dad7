"""Writes container images as OCI archives (OCI image-spec, image layout), which ``ctr image import`` takes."""

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_MEDIA = "application/vnd.oci.image"


def write(path: Path, name: str, layers: Sequence[bytes], config: Mapping[str, Any]) -> None:
    """Write an image of gzipped tars, whole or not at all. ``config``: Env, Entrypoint, Cmd and the like."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with tarfile.open(temporary, "w") as archive:
            _write(archive, name, layers, config)
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write(archive: tarfile.TarFile, name: str, layers: Sequence[bytes], config: Mapping[str, Any]) -> None:
    def blob(kind: str, data: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        add(archive, f"blobs/sha256/{digest}", data)
        return {"mediaType": f"{_MEDIA}.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    described = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine),
        "os": "linux",
        "config": dict(config),
        "rootfs": {
            "type": "layers",
            "diff_ids": [f"sha256:{hashlib.sha256(gzip.decompress(data)).hexdigest()}" for data in layers],
        },
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_MEDIA}.manifest.v1+json",
        "config": blob("config.v1+json", json.dumps(described).encode()),
        "layers": [blob("layer.v1.tar+gzip", data) for data in layers],
    }
    names = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rpartition(":")[2]}
    pointer = {**blob("manifest.v1+json", json.dumps(manifest).encode()), "annotations": names}
    add(archive, "index.json", json.dumps({"schemaVersion": 2, "manifests": [pointer]}).encode())
    add(archive, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')


def add(archive: tarfile.TarFile, name: str, data: bytes, *, mode: int = 0o644) -> None:
    """Add a file without times, so that the same content has the same bytes."""
    item = tarfile.TarInfo(name)
    item.size, item.mode = len(data), mode
    archive.addfile(item, io.BytesIO(data))
