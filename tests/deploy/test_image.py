"""The image: built here without an engine, small, complete, and without what a node agent does not need."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import weft
from tests.image import built_image

#: Bytes; what the layers may take compressed.
LARGEST = 120 * 2**20


@pytest.fixture(scope="module")
def image() -> Path:
    return built_image()


@pytest.fixture(scope="module")
def root(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image's root file system, unpacked as a runtime does."""
    folder = tmp_path_factory.mktemp("root")
    with tarfile.open(image) as archive:

        def blob(digest: str) -> bytes:
            file = archive.extractfile("blobs/" + digest.replace(":", "/"))
            assert file is not None
            return file.read()

        index = json.load(archive.extractfile("index.json") or sys.exit("no index.json"))
        manifest = json.loads(blob(index["manifests"][0]["digest"]))
        assert index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"] == weft.__version__
        assert sum(layer["size"] for layer in manifest["layers"]) < LARGEST
        for layer in manifest["layers"]:
            packed = folder / "layer.tar.gz"
            packed.write_bytes(blob(layer["digest"]))
            with tarfile.open(packed) as content:
                content.extractall(folder)  # noqa: S202  # made by this test
            packed.unlink()
    return folder


@pytest.mark.timeout(900)
def test_what_the_manifest_runs_is_there(root: Path) -> None:
    for words in (
        ["weft", "--version"],
        ["weft", "agent", "--help"],
        ["weft", "cni", "install", "--bin-dir=/tmp/bin"],
        ["/home/weave/weave", "--local", "version"],
    ):
        done = subprocess.run(["chroot", root, *words], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
    assert (root / "tmp" / "bin" / "weave-net").is_symlink()
    loading = "import ctypes; ctypes.CDLL('libnftables.so.1')"
    subprocess.run(["chroot", root, "python3", "-c", loading], check=True, timeout=60)


@pytest.mark.timeout(900)
def test_no_compiler_and_a_list_of_what_there_is(root: Path) -> None:
    for name in ("gcc", "cc", "musl-gcc", "pip", "make"):
        assert not (root / "usr" / "bin" / name).exists(), name
    bill = json.loads((root / "usr" / "share" / "weft" / "sbom.json").read_text())
    listed = {item["purl"].partition("@")[0] for item in bill["components"]}
    assert {"pkg:deb/debian/libc6", "pkg:deb/debian/libnftables1", "pkg:pypi/weft", "pkg:pypi/msgspec"} <= listed
