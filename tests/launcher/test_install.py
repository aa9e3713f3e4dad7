"""``weft cni install`` and the wheel: the launcher and its links, whole or not at all."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from weft.cli.install import LAUNCHER, PLUGIN_NAMES, InstallError, install

ROOT = Path(__file__).parents[2]


def test_the_launcher_and_a_link_per_plugin(tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    changed = install(folder)
    assert {path.name for path in changed} == {LAUNCHER, *PLUGIN_NAMES}
    assert install(folder) == []
    about = subprocess.run([folder / "weave-net"], capture_output=True, text=True, check=True, env={})
    assert "CNI plugin weave-net" in about.stderr
    assert os.access(folder / LAUNCHER, os.X_OK)


def test_what_has_our_names_is_replaced_and_what_has_not_is_kept(tmp_path: Path) -> None:
    (tmp_path / "weave-net").write_text("Weave's own")
    (tmp_path / LAUNCHER).write_text("an older one")
    (tmp_path / "bridge").write_text("somebody's")
    install(tmp_path)
    assert (tmp_path / "weave-net").is_symlink()
    assert (tmp_path / LAUNCHER).stat().st_size > 1000
    assert (tmp_path / "bridge").read_text() == "somebody's"
    assert {path.name for path in tmp_path.iterdir()} == {LAUNCHER, "bridge", *PLUGIN_NAMES}


def test_a_running_launcher_can_be_replaced(tmp_path: Path) -> None:
    install(tmp_path)
    running = subprocess.Popen(
        [tmp_path / "weave-net"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env={"CNI_COMMAND": "VERSION"}
    )
    other = tmp_path / "other"
    other.write_bytes((tmp_path / LAUNCHER).read_bytes() + b"\0")
    assert install(tmp_path, other) == [tmp_path / LAUNCHER]
    running.communicate(b"{}")
    assert running.returncode == 0


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InstallError, match="file"):
        install(tmp_path / "file" / "bin")


def test_the_wheel_carries_the_launcher(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps"]
    build += ["-w", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("weft-*.whl")
    assert "linux" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        (member,) = [item for item in archive.infolist() if item.filename.endswith("scripts/weft-launcher")]
        assert member.external_attr >> 16 & 0o111
        assert archive.read(member)[:4] == b"\x7fELF"
        assert any(name.endswith("entry_points.txt") for name in archive.namelist())
