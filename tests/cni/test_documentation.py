"""The examples of docs/cni.md run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DOCUMENT = Path(__file__).parents[2] / "docs" / "cni.md"


def examples() -> list[str]:
    return re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of executables with the manual's plugin in it."""
    plugin = examples()[0]
    assert len(plugin.splitlines()) <= 25
    made = tmp_path / "bin"
    made.mkdir()
    (made / "fixed").write_text(f"#!{sys.executable}\n{plugin}")
    (made / "fixed").chmod(0o755)
    return made


def call(folder: Path, command: str, configuration: Any, **more: str) -> tuple[int, Any, str]:
    environment = {"CNI_COMMAND": command, "CNI_CONTAINERID": "c", "CNI_IFNAME": "eth0", "CNI_PATH": str(folder)}
    done = subprocess.run(
        [folder / "fixed"], input=configuration if isinstance(configuration, str) else json.dumps(configuration),
        capture_output=True, text=True, check=False, timeout=30,
        env={**environment, "CNI_NETNS": "/run/netns/c", "PATH": os.environ["PATH"], **more},
    )  # fmt: skip
    return done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr


CONFIGURATION: dict[str, Any] = {"cniVersion": "0.4.0", "name": "n", "ipam": {"address": "10.1.0.2/24"}}


def test_the_plugin_of_the_manual_speaks_the_specification(folder: Path) -> None:
    status, result, _ = call(folder, "ADD", CONFIGURATION)
    assert (status, result["ips"]) == (0, [{"version": "4", "address": "10.1.0.2/24"}])
    for command in ("DEL", "CHECK"):
        assert call(folder, command, CONFIGURATION) == (0, None, "")
    for command in ("GC", "STATUS"):
        assert call(folder, command, CONFIGURATION | {"cniVersion": "1.1.0"}) == (0, None, "")
    assert call(folder, "VERSION", "")[1]["supportedVersions"][-1] == "1.1.0"
    status, result, said = call(folder, "", "")
    assert (status, result) == (0, None)
    assert "CNI plugin fixed" in said


@pytest.mark.parametrize(
    ("command", "configuration", "more", "code"),
    [
        ("ADD", CONFIGURATION | {"ipam": {"address": "everywhere"}}, {}, 7),
        ("ADD", CONFIGURATION | {"ipam": 7}, {}, 999),
        ("ADD", {**CONFIGURATION, "name": ""}, {}, 7),
        ("ADD", {**CONFIGURATION, "name": "../x"}, {}, 7),
        ("ADD", {**CONFIGURATION, "cniVersion": "7.0.0"}, {}, 1),
        ("CHECK", {**CONFIGURATION, "cniVersion": "0.3.1"}, {}, 1),
        ("GC", CONFIGURATION, {}, 1),
        ("STATUS", CONFIGURATION, {}, 1),
        ("ADD", "{", {}, 6),
        ("ADD", "[" * 100_000, {}, 6),
        ("ADD", " " * (2 << 20), {}, 6),
        ("ADD", "{", {"CNI_IFNAME": "a/b"}, 4),
        ("ADD", CONFIGURATION, {"CNI_CONTAINERID": "../x"}, 4),
        ("NONE", CONFIGURATION, {}, 4),
    ],
)
def test_the_plugin_of_the_manual_refuses(
    folder: Path, command: str, configuration: Any, more: dict[str, str], code: int
) -> None:
    status, error, _ = call(folder, command, configuration, **more)
    assert (status, error["code"]) == (1, code)
    assert error["msg"]
    version = configuration.get("cniVersion") if isinstance(configuration, dict) else "1.1.0"
    assert error["cniVersion"] == (version if version != "7.0.0" else "1.1.0")


def test_the_runtime_of_the_manual(folder: Path, tmp_path: Path) -> None:
    _, runtime = examples()
    plugin = {"type": "fixed", "ipam": {"type": "fixed", "address": "10.1.0.2/24"}}
    network = {"cniVersion": "1.1.0", "name": "weave", "plugins": [plugin]}
    (tmp_path / "10.conflist").write_text(json.dumps(network))
    program = (
        runtime.replace("/etc/cni/net.d", str(tmp_path)).replace(
            'Runtime(["/opt/cni/bin"])', f'Runtime(["{folder}"], Path("{tmp_path}/cache"))'
        )
        + "print(result.ips[0].address)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    assert done.stdout.strip() == "10.1.0.2/24", done.stderr
