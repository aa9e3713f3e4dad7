"""``weft cni install``: the launcher and its links, put in place so that no caller ever finds half of one."""

import filecmp
import os
import shutil
import sys
import sysconfig
from pathlib import Path

import click

LAUNCHER = "weft-launcher"
#: The plugins that the agent serves; each is a link to the launcher.
PLUGIN_NAMES = ("weave-net",)


class InstallError(Exception):
    """The launcher cannot be found or put in place; the message says why."""


def install(bin_dir: Path, launcher: Path | None = None) -> list[Path]:
    """Put the launcher and a link per plugin into a folder; what was changed. Other files there are kept.

    Raises InstallError.
    """
    source = launcher or find_launcher()
    target = bin_dir / LAUNCHER
    changed = []
    try:
        bin_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        if not target.is_file() or target.is_symlink() or not filecmp.cmp(source, target, shallow=False):
            _copy(source, target)
            changed.append(target)
        for name in PLUGIN_NAMES:
            link = bin_dir / name
            if not link.is_symlink() or os.fspath(link.readlink()) != LAUNCHER:
                temporary = _temporary(link)
                temporary.symlink_to(LAUNCHER)
                temporary.rename(link)
                changed.append(link)
    except OSError as error:
        raise InstallError(f"{error.filename or bin_dir}: {error.strerror}") from None
    return changed


def find_launcher() -> Path:
    """The launcher that came with this installation. Raises InstallError."""
    for folder in (Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))):
        if (folder / LAUNCHER).is_file():
            return folder / LAUNCHER
    raise InstallError(f"{LAUNCHER} is not beside {sys.executable}: install weft from its wheel, or run make lab")


def _copy(source: Path, target: Path) -> None:
    temporary = _temporary(target)
    with source.open("rb") as read, temporary.open("wb") as write:
        shutil.copyfileobj(read, write)
        write.flush()
        os.fsync(write.fileno())
    temporary.chmod(0o755)
    temporary.rename(target)


def _temporary(path: Path) -> Path:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    return temporary


@click.command("install", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--bin-dir", default="/opt/cni/bin", show_default=True, help="Folder of the CNI plugins.")
def command(bin_dir: str) -> None:
    """Install the launcher and its links, in place of files that have their names."""
    try:
        changed = install(Path(bin_dir))
    except InstallError as error:
        click.echo(f"weft cni install: {error}", err=True)
        sys.exit(1)
    for path in changed:
        click.echo(f"installed {path}")
    if not changed:
        click.echo(f"{bin_dir} is up to date")
