"""``macspoofchk``: drops what a container sends from another MAC than its own, in nftables' bridge family.

Two chains per container below a common base chain, named and commented as the reference plugin does.
"""

from weft.kernel import nftables
from weft.kernel.nftables import NftablesError
from weft.plugins.settings import refused

_TABLE = "bridge nat"
_BASE = "PREROUTING"


def set_up(host_interface: str, mac: str, identifier: str) -> None:
    """Allow only ``mac`` on the host's end of a pair. Raises CniError."""
    own, by_mac, comment = _names(identifier)
    lines = [
        f"add table {_TABLE}",
        f"add chain {_TABLE} {_BASE} {{ type filter hook prerouting priority -300; policy accept; }}",
        f"add chain {_TABLE} {own}",
        f"add chain {_TABLE} {by_mac}",
        f"flush chain {_TABLE} {own}",
        f"flush chain {_TABLE} {by_mac}",
        f'add rule {_TABLE} {_BASE} iifname "{host_interface}" jump {own} comment "{comment}"',
        f'add rule {_TABLE} {own} jump {by_mac} comment "{comment}"',
        f'add rule {_TABLE} {by_mac} ether saddr {mac} return comment "{comment}"',
        f'add rule {_TABLE} {by_mac} drop comment "{comment}"',
    ]
    _apply(lines)


def tear_down(identifier: str) -> None:
    """Take the container's chains away; the base chain stays. Raises CniError."""
    own, by_mac, comment = _names(identifier)
    try:
        chains = nftables.context().chains(_TABLE)
        lines = [
            f"delete rule {_TABLE} {_BASE} handle {handle}"
            for handle, text in chains.get(_BASE, {}).items()
            if f'comment "{comment}"' in text
        ]
        for verb in ("flush", "delete"):
            lines += [f"{verb} chain {_TABLE} {chain}" for chain in (own, by_mac) if chain in chains]
        if lines:
            nftables.apply("\n".join(lines) + "\n")
    except NftablesError as error:
        raise refused(f"macspoofchk: {error}") from None


def _names(identifier: str) -> tuple[str, str, str]:
    own = f"cni-br-iface-{identifier}"
    return own, f"{own}-mac", f"macspoofchk-{identifier}"


def _apply(lines: list[str]) -> None:
    try:
        nftables.apply("\n".join(lines) + "\n")
    except NftablesError as error:
        raise refused(f"macspoofchk: {error}") from None
