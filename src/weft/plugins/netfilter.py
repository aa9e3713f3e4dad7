"""Which of the two ways to the host's packet filter a plugin takes, as the reference plugins choose."""

from weft.kernel import iptables
from weft.plugins.settings import invalid

BACKENDS = ("iptables", "nftables")


def check_backend(key: str, backend: str | None) -> None:
    """Raise CniError for a backend that there is not."""
    if backend is not None and backend not in BACKENDS:
        raise invalid(key, backend, "give iptables or nftables, or leave it out")


def choose_backend(backend: str | None) -> str:
    """The one that is given; else iptables where it works, else nftables."""
    return backend or ("iptables" if iptables.usable() else "nftables")
