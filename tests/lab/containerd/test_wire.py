"""CRI's messages on the wire, and the image of the pods; without a containerd."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.lab.cluster import images
from weft.lab.pods import new_pod
from weft.lab.runtimes.containerd import image, pod_config
from weft.lab.runtimes.containerd.messages import message
from weft.lab.topology import LabError

names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
texts = st.dictionaries(names, names, max_size=4)


def test_fields_are_where_protobuf_has_them() -> None:
    config = message("PodSandboxConfig")(metadata={"name": "a", "attempt": 1}, labels={"k": "v"})
    wire = b"\x0a\x05\x0a\x01a\x20\x01" + b"\x32\x06\x0a\x01k\x12\x01v"
    assert config.SerializeToString() == wire
    # A peer may say more than we know: field 15 of the sandbox, a number.
    assert message("PodSandboxConfig").FromString(wire + b"\x78\x07").metadata.name == "a"
    context = {"linux": {"security_context": {"namespace_options": {"pid": 1}}}}
    # LinuxPodSandboxConfig has it at 2 and 1, LinuxContainerConfig at 2 and 3.
    assert message("PodSandboxConfig")(**context).SerializeToString() == b"\x42\x06\x12\x04\x0a\x02\x10\x01"
    assert message("ContainerConfig")(**context).SerializeToString() == b"\x7a\x06\x12\x04\x1a\x02\x10\x01"


@given(name=names, labels=texts, annotations=texts, attempt=st.integers(0, 2**32 - 1))
def test_a_pod_is_told_whole(name: str, labels: dict[str, str], annotations: dict[str, str], attempt: int) -> None:
    pod = new_pod(name, "node", labels, annotations=annotations)
    told = pod_config.sandbox(pod, attempt, Path("/pods/a"), "/group")
    heard = (
        message("RunPodSandboxRequest")
        .FromString(message("RunPodSandboxRequest")(config=told).SerializeToString())
        .config
    )
    assert (heard.metadata.name, heard.metadata.uid, heard.metadata.attempt) == (name, pod.uid, attempt)
    assert dict(heard.annotations) == annotations
    # A label of the user's is never in the way of those by which a pod's sandboxes are found.
    assert dict(heard.labels).items() >= pod_config.labels(pod).items()
    assert {key: value for key, value in heard.labels.items() if key in labels}.keys() == labels.keys()


@pytest.mark.parametrize("name", ["PodSandboxConfigs", "", "Nothing"])
def test_a_message_that_is_none(name: str) -> None:
    with pytest.raises(KeyError):
        message(name)


def test_the_image_holds_a_program_for_an_empty_root(tmp_path: Path) -> None:
    archive = tmp_path / "pod.tar"
    image.write(archive)
    assert images.load(archive, tmp_path) == image.NAME
    root = images.find(image.NAME, tmp_path).root
    assert images.find(image.NAME, tmp_path).entrypoint[1:] == ("sleep", "infinity")
    assert (root / "busybox").read_bytes() == Path(shutil.which("busybox") or "").read_bytes()
    # Every place that is bound in is a folder or file of this machine, or a link in the image as here.
    container: dict[str, Any] = pod_config.container(
        new_pod("a", "node", {}), Path("/pods/a"), Path(sys.executable)
    )
    for mount in container["mounts"][:-1]:
        assert Path(mount["host_path"]).exists() and mount["readonly"]
    for name in ("bin", "lib"):
        if Path(f"/{name}").is_symlink():
            assert (root / name).readlink() == Path(f"/{name}").readlink()


def test_a_busybox_that_is_linked_dynamically_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image.require()
    (tmp_path / "busybox").symlink_to(Path(sys.executable).resolve())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LabError, match=r"a static busybox .* is not installed: run 'make setup-containerd'"):
        image.require()
