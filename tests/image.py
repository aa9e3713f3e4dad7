"""The manifest's image, built once for all tests that need it and kept until its sources change."""

import fcntl
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
_SOURCES = ("src", "launcher", "deploy/build_image.py", "requirements.lock", "pyproject.toml")


def built_image() -> Path:
    """The archive. The first time takes minutes: Debian's packages are fetched."""
    folder = ROOT / "build" / "image"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tests.tar"
    with (folder / "tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists() or path.stat().st_mtime < _newest():
            subprocess.run([sys.executable, ROOT / "deploy" / "build_image.py", path], check=True, timeout=900)
    return path


def _newest() -> float:
    """When the sources last changed, in seconds."""
    files = [ROOT / name for name in _SOURCES]
    files += [*(ROOT / "src").rglob("*.py"), *(ROOT / "launcher").rglob("*.c")]
    return max(path.stat().st_mtime for path in files if path.is_file())
