"""Hardware in sysfs: in a folder that looks like it, and the machine's own."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.kernel.sysfs import Sysfs, driver, network_device

ADDRESS = "0000:01:00.0"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A sysfs with one PCI device, which has a driver and nothing else."""
    folder = tmp_path / "bus/pci/devices" / ADDRESS
    folder.mkdir(parents=True)
    (tmp_path / "bus/pci/drivers/mlx5_core").mkdir(parents=True)
    (folder / "driver").symlink_to("../../drivers/mlx5_core")
    return tmp_path


def pci(root: Path) -> Path:
    folder = Sysfs(root).pci_device(ADDRESS)
    assert folder is not None
    return folder


def test_devices_by_bus(root: Path) -> None:
    assert pci(root) == root / "bus/pci/devices" / ADDRESS
    assert Sysfs(root).pci_device("0000:02:00.0") is None
    assert Sysfs(root).auxiliary_device(ADDRESS) is None
    assert driver(pci(root)) == "mlx5_core"


@pytest.mark.parametrize("name", ["", ".", "..", "../devices", f"../devices/{ADDRESS}", "a\0b", "a" * 300])
def test_names_that_lead_elsewhere_are_no_devices(root: Path, name: str) -> None:
    assert Sysfs(root).pci_device(name) is None


@settings(max_examples=50)
@given(st.text("./\0a:"))
def test_no_text_leads_out_of_the_bus(name: str) -> None:
    found = Sysfs(Path("/")).pci_device(name)
    assert found is None or found.parent == Path("/bus/pci/devices")


def test_the_first_network_device(root: Path) -> None:
    with pytest.raises(FileNotFoundError):
        network_device(pci(root))
    (pci(root) / "virtio3/net/eth7").mkdir(parents=True)
    assert network_device(pci(root)) == "eth7"
    (pci(root) / "net").mkdir()
    with pytest.raises(FileNotFoundError, match="No network device"):
        network_device(pci(root))
    for name in ("ens2", "ens1"):
        (pci(root) / "net" / name).mkdir()
    assert network_device(pci(root)) == "ens1"


def test_kernel_paths(root: Path) -> None:
    (root / "devices/virtual/net/br0").mkdir(parents=True)
    assert network_device(Sysfs(root).kernel_device("/sys/devices/virtual")) == "br0"


@pytest.mark.parametrize("path", ["", "virtual", "/etc", "/sys/devices", "/sys/devices/../class", "/sys/class"])
def test_paths_that_are_none_of_a_device(root: Path, path: str) -> None:
    with pytest.raises(ValueError, match="/sys/devices/"):
        Sysfs(root).kernel_device(path)


def test_the_machines_own() -> None:
    assert network_device(Sysfs().kernel_device("/sys/devices/virtual"))
