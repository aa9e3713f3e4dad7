"""Compiles the launcher and ships it beside the ``weft`` command (also in editable installs)."""

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class LauncherHook(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        target = root / "build" / "weft-launcher"
        target.parent.mkdir(exist_ok=True)
        # musl gives a static executable of a few kilobytes that starts in 0.2 ms; glibc's takes 0.6 ms.
        compiler = os.environ.get("CC") or shutil.which("musl-gcc") or "cc"
        subprocess.run(
            [compiler, "-std=c11", "-Os", "-static", "-s", "-Wall", "-Wextra", "-Werror",
             "-o", str(target), str(root / "launcher" / "launcher.c")],
            check=True,
        )  # fmt: skip
        build_data["shared_scripts"] = {str(target): "weft-launcher"}
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"
