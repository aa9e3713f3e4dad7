"""``weft cni install`` and ``uninstall``: the plugins' names, so that no caller ever finds half of one.

Every name is a link to a program of this package: to the launcher, or, without an agent, to ``weft-plugin``. A
name changes by one rename(2); what was there before and is not ours is kept for ``uninstall`` to put back.
"""

import filecmp
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from weft.plugins.registry import AGENT_PLUGIN, BY_NAME, LAUNCHER, PROGRAM, own_program
from weft.privileges import NotPermitted, require_writable

#: The names that lead to a program of this package.
PLUGIN_NAMES = (AGENT_PLUGIN, *BY_NAME)
#: Where executables of others that had one of the names are kept, in the folder of the plugins.
REPLACED = ".replaced-by-weft"


class InstallError(Exception):
    """A program cannot be found or put in place; the message says why."""


def install(bin_dir: Path, launcher: Path | None = None, *, without_agent: bool = False) -> list[Path]:
    """Put the programs and a link per plugin into a folder; what was changed. Other files there are kept.

    ``without_agent`` lets all names but weave-net, which is the agent's own, lead to ``weft-plugin``. Raises
    InstallError.
    """
    source = launcher or find_program(LAUNCHER)
    changed = []
    with _failing(bin_dir):
        require_writable(bin_dir, "--bin-dir")
        bin_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        target = bin_dir / LAUNCHER
        if not target.is_file() or target.is_symlink() or not filecmp.cmp(source, target, shallow=False):
            _copy(source, target)
            changed.append(target)
        if without_agent and _link(bin_dir / PROGRAM, str(find_program(PROGRAM))):
            changed.append(bin_dir / PROGRAM)
        for name in PLUGIN_NAMES:
            program = PROGRAM if without_agent and name != AGENT_PLUGIN else LAUNCHER
            if _link(bin_dir / name, program):
                changed.append(bin_dir / name)
    return changed


def uninstall(bin_dir: Path) -> list[Path]:
    """Take the links and programs away, and put back what they had replaced; what was changed.

    Raises InstallError.
    """
    changed = []
    with _failing(bin_dir):
        for name in PLUGIN_NAMES:
            link, kept = bin_dir / name, bin_dir / REPLACED / name
            if not link.is_symlink() or own_program(link) is None:
                continue
            if kept.is_symlink() or kept.exists():
                kept.rename(link)
            else:
                link.unlink()
            changed.append(link)
        for path in (bin_dir / PROGRAM, bin_dir / LAUNCHER):
            if path.is_symlink() or path.exists():
                path.unlink()
                changed.append(path)
        if (bin_dir / REPLACED).is_dir() and not any((bin_dir / REPLACED).iterdir()):
            (bin_dir / REPLACED).rmdir()
    return changed


def find_program(name: str) -> Path:
    """A program that came with this installation. Raises InstallError."""
    for folder in (Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))):
        if (folder / name).is_file():
            return folder / name
    raise InstallError(f"{name} is not beside {sys.executable}: install weft from its wheel, or run make lab")


def _link(link: Path, target: str) -> bool:
    """Let a name lead to a program; whether it did not already."""
    if link.is_symlink() and os.fspath(link.readlink()) == target:
        return False
    if (link.is_symlink() or link.exists()) and own_program(link) is None:
        folder = link.parent / REPLACED
        folder.mkdir(mode=0o755, exist_ok=True)
        temporary = _temporary(folder / link.name)
        os.link(link, temporary, follow_symlinks=False)
        temporary.rename(folder / link.name)
    temporary = _temporary(link)
    temporary.symlink_to(target)
    temporary.rename(link)
    return True


def _copy(source: Path, target: Path) -> None:
    temporary = _temporary(target)
    try:
        with source.open("rb") as read, temporary.open("wb") as write:
            shutil.copyfileobj(read, write)
            write.flush()
            os.fsync(write.fileno())
        temporary.chmod(0o755)
        temporary.rename(target)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _temporary(path: Path) -> Path:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    return temporary


@contextmanager
def _failing(bin_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InstallError(f"{error.filename or bin_dir}: {error.strerror}") from None
    except NotPermitted as error:
        raise InstallError(str(error)) from None


_bin_dir = click.option("--bin-dir", default="/opt/cni/bin", show_default=True, help="Folder of the CNI plugins.")
_SETTINGS = {"help_option_names": ["-h", "--help"]}


@click.command("install", context_settings=_SETTINGS)
@_bin_dir
@click.option(
    "--without-agent",
    is_flag=True,
    help="Let the plugins run as Python processes of their own; only weave-net asks the agent.",
)
def command(bin_dir: str, without_agent: bool) -> None:
    """Install all plugins: a link of each name to the launcher, which asks the agent.

    What has a plugin's name already is kept in the folder .replaced-by-weft, for uninstall.
    """
    try:
        changed = install(Path(bin_dir), without_agent=without_agent)
    except InstallError as error:
        click.echo(f"weft cni install: {error}", err=True)
        sys.exit(1)
    for path in changed:
        click.echo(f"installed {path}")
    if not changed:
        click.echo(f"{bin_dir} is up to date")


@click.command("uninstall", context_settings=_SETTINGS)
@_bin_dir
def uninstall_command(bin_dir: str) -> None:
    """Take the plugins away, and put back what install had replaced."""
    try:
        changed = uninstall(Path(bin_dir))
    except InstallError as error:
        click.echo(f"weft cni uninstall: {error}", err=True)
        sys.exit(1)
    for path in changed:
        click.echo(f"{'restored' if path.exists() else 'removed'} {path}")
    if not changed:
        click.echo(f"nothing of Weft in {bin_dir}")
