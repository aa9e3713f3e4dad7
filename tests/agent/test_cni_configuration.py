"""The CNI configuration: which file of a folder runtimes take, and when that is not ours."""

import json
from pathlib import Path

import pytest

from weft.agent.cni_configuration import CONFIG_FILE, shadowing, write_configuration

CILIUM = {"cniVersion": "1.0.0", "name": "cilium", "plugins": [{"type": "cilium-cni"}]}
MULTUS = {"name": "multus-cni-network", "type": "multus"}


@pytest.mark.parametrize(
    ("name", "content", "shadows"),
    [
        ("05-cilium.conflist", CILIUM, True),
        ("00.conf", CILIUM["plugins"][0], True),
        ("10-a.json", CILIUM, True),
        # Dots and capitals sort before letters, bytes before anything else.
        (".05.conflist", CILIUM, True),
        ("10-Weave.conflist", CILIUM, True),
        ("05-broken.conflist", "{half", True),
        ("05-empty.conf", "", True),
        ("20-cilium.conflist", CILIUM, False),
        ("10-weave.conflist.bak", CILIUM, False),
        ("05-cilium.conflist.cilium_bak", CILIUM, False),
        ("05-cilium.yaml", CILIUM, False),
        ("conflist", CILIUM, False),
        # Those lead to this plugin after all.
        ("10-weave.conf", {"name": "weave", "type": "weave-net"}, False),
        ("05-mine.conflist", {"name": "mine", "plugins": [{"type": "weave-net"}, {"type": "bandwidth"}]}, False),
        ("00-multus.conf", MULTUS | {"delegates": [{"name": "w", "plugins": [{"type": "weave-net"}]}]}, False),
        ("00-multus.conf", MULTUS | {"clusterNetwork": "/host/etc/cni/net.d/10-weave.conflist"}, False),
        ("00-multus.conf", MULTUS | {"clusterNetwork": "weave"}, False),
        ("00-multus.conf", MULTUS | {"clusterNetwork": "cilium"}, True),
        ("00-multus.conf", MULTUS | {"delegates": [{"type": "cilium-cni"}]}, True),
    ],
)
def test_which_configurations_shadow_ours(tmp_path: Path, name: str, content: object, shadows: bool) -> None:
    write_configuration(tmp_path, hairpin=True)
    file = tmp_path / name
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    assert shadowing(tmp_path) == (file if shadows else None)


def test_folders_and_links_among_configurations(tmp_path: Path) -> None:
    write_configuration(tmp_path, hairpin=True)
    (tmp_path / "05.conflist").mkdir()
    assert shadowing(tmp_path) is None
    (tmp_path / "06.conflist").symlink_to("10-weave.conflist")
    assert shadowing(tmp_path) is None
    # A link to nothing is what a runtime stumbles over.
    (tmp_path / "04.conflist").symlink_to("nowhere")
    assert shadowing(tmp_path) == tmp_path / "04.conflist"
    with pytest.raises(FileNotFoundError):
        shadowing(tmp_path / "none")


def test_ours_is_written_once_and_whole(tmp_path: Path) -> None:
    folder = tmp_path / "net.d"
    write_configuration(folder, hairpin=False)
    file = folder / CONFIG_FILE
    assert [item.name for item in folder.iterdir()] == [CONFIG_FILE]
    assert (file.stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == (0o644, 0o755)
    assert json.loads(file.read_text())["plugins"][0] == {
        "type": "weave-net",
        "hairpinMode": False,
        "capabilities": {"io.kubernetes.cri.pod-annotations": True},
    }
    file.write_text("an operator's")
    write_configuration(folder, hairpin=True)
    assert file.read_text() == "an operator's"
