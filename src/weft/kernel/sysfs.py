"""Devices as sysfs shows them: which network device a piece of hardware has, which driver it is bound to.

Names of network devices there are those of the network namespace in which sysfs was mounted.
Source: https://docs.kernel.org/filesystems/sysfs.html, https://docs.kernel.org/admin-guide/sysfs-rules.html
"""

from pathlib import Path

_DEVICES = "/sys/devices/"


class Sysfs:
    """What is below a mounted sysfs."""

    def __init__(self, root: Path = Path("/sys")) -> None:
        self._root = root

    def pci_device(self, address: str) -> Path | None:
        """The folder of a PCI device such as 0000:00:1f.6; None where there is none."""
        return self._on_bus("pci", address)

    def auxiliary_device(self, name: str) -> Path | None:
        """The folder of a device of the auxiliary bus such as mlx5_core.sf.2; None where there is none."""
        return self._on_bus("auxiliary", name)

    def kernel_device(self, path: str) -> Path:
        """The folder of a device given by its path. Raises ValueError where that is none of /sys/devices."""
        if not path.startswith(_DEVICES) or ".." in Path(path).parts:
            raise ValueError(f"{path!r} must be absolute, begin with {_DEVICES} and go straight on")
        return self._root / "devices" / path.removeprefix(_DEVICES)

    def _on_bus(self, bus: str, name: str) -> Path | None:
        if "/" in name or "\0" in name or name in ("", ".", ".."):
            return None
        folder = self._root / "bus" / bus / "devices" / name
        try:
            return folder if folder.exists() else None
        except OSError:  # a name that no file can have
            return None


def driver(folder: Path) -> str:
    """The name of the driver that a device is bound to. Raises OSError where it is bound to none."""
    return (folder / "driver").resolve(strict=True).name


def network_device(folder: Path) -> str:
    """The first network device of a device, or of its virtio device. Raises OSError where there is none."""
    home = folder / "net"
    if not home.exists():
        home = next(iter(sorted(folder.glob("virtio*/net"))), home)
    names = sorted(entry.name for entry in home.iterdir())
    if not names:
        raise FileNotFoundError(2, "No network device", str(home))
    return names[0]
