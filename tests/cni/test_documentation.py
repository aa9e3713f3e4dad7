"""The examples of docs/cni.md run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "cni.md"


def examples() -> list[str]:
    return re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)


def test_the_plugin_and_the_runtime_of_the_manual(tmp_path: Path) -> None:
    plugin, runtime = examples()
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "fixed").write_text(f"#!{sys.executable}\n{plugin}")
    (folder / "fixed").chmod(0o755)
    network = {"cniVersion": "1.0.0", "name": "weave", "plugins": [{"type": "fixed"}]}
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
