"""``weft cni install`` and the wheel: the launcher and its links, whole or not at all."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from weft.cli.install import PLUGIN_NAMES, REPLACED, InstallError, install, uninstall
from weft.cni.execution import supported_versions
from weft.cni.versions import SUPPORTED
from weft.plugins.registry import BY_NAME, LAUNCHER, PROGRAM, own_program

ROOT = Path(__file__).parents[2]


def test_the_launcher_and_a_link_per_plugin(tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    changed = install(folder)
    assert {path.name for path in changed} == {LAUNCHER, *PLUGIN_NAMES}
    assert install(folder) == []
    about = subprocess.run([folder / "weave-net"], capture_output=True, text=True, check=True, env={})
    assert "CNI plugin weave-net" in about.stderr
    assert os.access(folder / LAUNCHER, os.X_OK)


def test_every_plugin_of_the_registry_has_its_name() -> None:
    assert len(BY_NAME) == 19
    assert set(PLUGIN_NAMES) == {"weave-net", *BY_NAME}


def test_what_has_our_names_is_replaced_and_put_back_by_uninstall(tmp_path: Path) -> None:
    (tmp_path / "weave-net").write_text("Weave's own")
    (tmp_path / LAUNCHER).write_text("an older one")
    (tmp_path / "bridge").write_text("somebody's")
    (tmp_path / "ptp").symlink_to("/usr/lib/cni/ptp")
    (tmp_path / "calico").write_text("none of ours")
    install(tmp_path)
    assert (tmp_path / "bridge").readlink() == Path(LAUNCHER)
    assert (tmp_path / LAUNCHER).stat().st_size > 1000
    assert {path.name for path in tmp_path.iterdir()} == {LAUNCHER, "calico", REPLACED, *PLUGIN_NAMES}
    (tmp_path / "vlan").unlink()
    (tmp_path / "vlan").write_text("put there since")
    changed = uninstall(tmp_path)
    assert {path.name for path in changed} == {LAUNCHER, *PLUGIN_NAMES} - {"vlan"}
    left = {path.name: path.read_text() for path in tmp_path.iterdir() if path.name != "ptp"}
    assert left == {
        "weave-net": "Weave's own", "bridge": "somebody's", "calico": "none of ours", "vlan": "put there since",
    }  # fmt: skip
    assert (tmp_path / "ptp").readlink() == Path("/usr/lib/cni/ptp")
    assert uninstall(tmp_path) == []


def test_what_was_replaced_twice_is_the_later_one(tmp_path: Path) -> None:
    for content in ("first", "second"):
        (tmp_path / "bridge").unlink(missing_ok=True)
        (tmp_path / "bridge").write_text(content)
        assert tmp_path / "bridge" in install(tmp_path)
    uninstall(tmp_path)
    assert (tmp_path / "bridge").read_text() == "second"


def test_without_an_agent_by_choice_only(tmp_path: Path) -> None:
    install(tmp_path, without_agent=True)
    assert own_program(tmp_path / "bridge") == PROGRAM
    assert own_program(tmp_path / "weave-net") == LAUNCHER
    assert install(tmp_path, without_agent=True) == []
    changed = install(tmp_path)
    assert {path.name for path in changed} == set(BY_NAME)
    assert own_program(tmp_path / "bridge") == LAUNCHER
    uninstall(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("without_agent", [False, True])
def test_a_killed_install_leaves_every_name_whole(tmp_path: Path, without_agent: bool) -> None:
    """Whenever it ends, each name is what it was or what it is to be; the next one does the rest."""
    for name in PLUGIN_NAMES:
        (tmp_path / name).write_text("old")
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom weft.cli import install\n"
        "left = int(sys.argv[2])\ndef count(*_):\n global left\n left -= 1\n if left < 0: os._exit(9)\n"
        "sys.addaudithook(lambda event, _: count() if event in ('os.rename', 'os.link', 'os.symlink') else None)\n"
        "install.install(Path(sys.argv[1]), without_agent=bool(int(sys.argv[3])))\n"
    )
    for steps in (0, 1, 2, 3, 4, 5, 6, 21):
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path), str(steps), str(int(without_agent))], check=False
        )
        assert done.returncode == 9
        for name in PLUGIN_NAMES:
            path = tmp_path / name
            assert own_program(path) or path.read_text() == "old"
            assert path.exists()
    install(tmp_path, without_agent=without_agent)
    assert all(own_program(tmp_path / name) for name in PLUGIN_NAMES)
    uninstall(tmp_path)
    assert all((tmp_path / name).read_text() == "old" for name in PLUGIN_NAMES)


@pytest.mark.parametrize("name", PLUGIN_NAMES)
def test_versions_are_the_same_whoever_answers(tmp_path: Path, name: str) -> None:
    """The launcher answers VERSION by itself; its table and the registry must not part."""
    wanted = BY_NAME[name].versions if name in BY_NAME else SUPPORTED
    for without_agent in (False, True):
        install(tmp_path, without_agent=without_agent)
        assert tuple(supported_versions(name, [str(tmp_path)])) == wanted
        about = subprocess.run([tmp_path / name], capture_output=True, text=True, check=True, env={})
        assert about.stderr.splitlines()[1] == f"CNI protocol versions supported: {', '.join(wanted)}"


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
