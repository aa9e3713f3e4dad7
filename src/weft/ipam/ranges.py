"""Pod ranges, the blocks they are divided into, and what in them no pod gets."""

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

#: Prefix length of the largest and of the smallest block that may be asked for, and of a block where nothing is
#: said: 64 addresses for IPv4, so that 5,000 nodes with 110 pods and a spare block each fit into a /12; IPv6 has
#: room for larger ones. A smallest block of eight holds hardly a pod beside the bridge's address.
LARGEST_BLOCK = {4: 20, 6: 116}
SMALLEST_BLOCK = {4: 29, 6: 125}
USUAL_BLOCK = {4: 26, 6: 120}
_EXAMPLE = {4: "10.32.0.0/12", 6: "fd00:10:32::/48"}


@dataclass(frozen=True, slots=True)
class PodRange:
    """A range that pods get addresses from, divided into blocks of ``block_prefix``.

    ``excluded`` are parts of it that no pod and no bridge gets.
    """

    network: IPNetwork
    block_prefix: int
    excluded: tuple[IPNetwork, ...] = ()

    @classmethod
    def of(cls, network: IPNetwork | str) -> "PodRange":
        """A range with blocks of the usual size."""
        network = ip_network(network)
        return cls(network, usual_block_prefix(network))

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.network.version

    @property
    def block_size(self) -> int:
        """Addresses of a block."""
        return 1 << (self.network.max_prefixlen - self.block_prefix)

    @property
    def block_count(self) -> int:
        """Into how many blocks the range is divided."""
        return 1 << (self.block_prefix - self.network.prefixlen)

    def __str__(self) -> str:
        return str(self.network)

    def address(self, number: int) -> IPAddress:
        """The address that an integer stands for."""
        return IPv4Address(number) if self.version == 4 else IPv6Address(number)

    def block(self, index: int) -> IPNetwork:
        """The block of that number, counted from 0."""
        start = int(self.network.network_address) + index * self.block_size
        return (
            IPv4Network((start, self.block_prefix))
            if self.version == 4
            else IPv6Network((start, self.block_prefix))
        )

    def block_at(self, address: IPAddress) -> IPNetwork:
        """The block that holds the address."""
        return ip_network((address, self.block_prefix), strict=False)

    @property
    def closed(self) -> bool:
        """Whether all of it is excluded: nobody gets anything of it any more."""
        return any(_is_inside(self.network, part) for part in self.excluded)

    def holds(self, block: IPNetwork) -> bool:
        """Whether it is one of the range's blocks."""
        return (
            block.version == self.version
            and block.prefixlen == self.block_prefix
            and block.network_address in self.network
        )

    def usable(self, address: IPAddress) -> bool:
        """Whether a pod may have the address.

        Beside what is excluded only the whole range's first and last addresses are out: pods see the range's
        prefix length, so a block's first and last addresses are ordinary ones (10.244.192.0/16 is legal).
        """
        return (
            address in self.network
            and address not in (self.network.network_address, self.network.broadcast_address)
            and not any(address in part for part in self.excluded)
        )


def usual_block_prefix(network: IPNetwork) -> int:
    """The prefix length of a range's blocks where nothing is said: small ranges have 64 blocks, if they can."""
    return min(max(USUAL_BLOCK[network.version], network.prefixlen + 6), SMALLEST_BLOCK[network.version])


def parse_range(text: str) -> IPNetwork:
    """The pod range written as CIDR, such as ``10.32.0.0/12``.

    Raises ValueError, naming the value and the mend, for anything else, for host bits that are set, for
    addresses that no pod can have, and for ranges too small to be shared by two nodes.
    """
    if "/" not in text:
        raise ValueError(f"{text!r} is not a range: write it as CIDR, such as {_EXAMPLE[4]}")
    try:
        network = ipaddress.ip_network(text, strict=False)
        given = ipaddress.ip_address(text.partition("/")[0])
    except ValueError as error:
        raise ValueError(f"{text!r} is not a range: {error}; write it as CIDR, such as {_EXAMPLE[4]}") from None
    if network.network_address != given:
        raise ValueError(f"{text!r} has host bits set: did you mean {network}?")
    smallest = SMALLEST_BLOCK[network.version]
    if network.prefixlen >= smallest:
        raise ValueError(f"{text!r} is too small for two nodes: give a /{smallest - 1} or larger")
    if network.prefixlen < 8:
        raise ValueError(f"{text!r} is larger than any private range: give a /8 or smaller")
    if network.is_multicast or network.is_loopback or network.is_link_local or network.is_unspecified:
        example = _EXAMPLE[network.version]
        raise ValueError(f"{text!r} cannot hold pods: it is reserved; give a private range such as {example}")
    return network


def parse_ranges(ranges: str, block_sizes: str = "", excluded: str = "") -> tuple[PodRange, ...]:
    """The ranges of a cluster, IPv4 first: of each family as many as are given, in the order in which nodes draw
    on them. Pods have an address of each family that there is.

    ``block_sizes`` as for ``parse_block_sizes``, ``excluded`` as for ``parse_excluded``; separated by commas, as
    everything here. Raises ValueError naming the value and the mend.
    """
    networks = [parse_range(text) for text in _separated(ranges)]
    if not any(network.version == 4 for network in networks):
        raise ValueError(
            f"{ranges!r}: give an IPv4 range, and IPv6 beside it where pods are to have both: {_both()}"
        )
    check_overlap(networks)
    networks.sort(key=lambda network: network.version)
    sizes = parse_block_sizes(block_sizes, networks)
    left_out = parse_excluded(excluded, networks)
    return tuple(
        PodRange(network, sizes.get(network, usual_block_prefix(network)), collapsed(inside(left_out, network)))
        for network in networks
    )


def check_overlap(networks: Sequence[IPNetwork]) -> None:
    """Raise ValueError where two of the ranges have addresses in common."""
    for number, one in enumerate(networks):
        for other in networks[:number]:
            if one == other:
                raise ValueError(f"range {one} is given twice: leave one out")
            if one.version == other.version and one.overlaps(other):
                raise ValueError(f"ranges {other} and {one} overlap: give ranges that have nothing in common")


def parse_block_sizes(text: str, networks: Sequence[IPNetwork]) -> dict[IPNetwork, int]:
    """The block sizes that are asked for: prefix lengths for all ranges of the family that they fit, and
    ``RANGE=LENGTH`` for one range, which counts more.

    Raises ValueError naming the value and the mend.
    """
    every: dict[IPNetwork, int] = {}
    single: dict[IPNetwork, int] = {}
    for part in _separated(text):
        named, equals, size = part.rpartition("=")
        chosen = [network for network in networks if not equals or str(network) == named.strip()]
        if not chosen:
            raise ValueError(f"block size {part!r}: {named} is not among the ranges {_joined(networks)}")
        prefix = _prefix(size)
        fitting = [network for network in chosen if prefix in _sizes(network)]
        version = fitting[0].version if fitting else 0
        refusing = [network for network in chosen if network.version == version and network not in fitting]
        if not fitting or refusing:
            allowed = " or ".join(f"{_told(_sizes(network))} for {network}" for network in refusing or chosen)
            each = f", as {refusing[0]}={_sizes(refusing[0]).start}" if refusing else ""
            raise ValueError(f"block size {part!r}: give a prefix length of {allowed}{each}")
        (single if equals else every).update(dict.fromkeys(fitting, prefix))
    return every | single


def parse_excluded(text: str, networks: Sequence[IPNetwork]) -> tuple[IPNetwork, ...]:
    """Addresses, CIDRs or FIRST-LAST, each inside of a range. Raises ValueError naming the value and the mend."""
    return tuple(part for item in _separated(text) for part in _excluded(item, networks))


def inside(parts: Iterable[IPNetwork], network: IPNetwork) -> tuple[IPNetwork, ...]:
    """Those of the parts that are in a range."""
    return tuple(part for part in parts if _is_inside(part, network))


def common(parts: Iterable[IPNetwork], network: IPNetwork) -> tuple[IPNetwork, ...]:
    """What the parts have in common with a range."""
    return tuple(part if _is_inside(part, network) else network for part in parts if part.overlaps(network))


def collapsed(parts: Iterable[IPNetwork]) -> tuple[IPNetwork, ...]:
    """The same addresses in as few parts as they fit in, IPv4 first."""
    every = list(parts)
    four = ipaddress.collapse_addresses(part for part in every if isinstance(part, IPv4Network))
    six = ipaddress.collapse_addresses(part for part in every if isinstance(part, IPv6Network))
    return (*four, *six)


def listed(networks: Iterable[IPNetwork]) -> str:
    """Networks as a sentence has them."""
    return " or ".join(map(str, networks))


def overlapping(pods: IPNetwork, routes: Iterable[IPNetwork]) -> IPNetwork | None:
    """The first route that overlaps the range; default routes overlap everything and do not count."""
    return next(
        (
            route
            for route in routes
            if route.version == pods.version and route.prefixlen > 0 and route.overlaps(pods)
        ),
        None,
    )


def _sizes(network: IPNetwork) -> range:
    """The prefix lengths that a range's blocks may have."""
    return range(max(LARGEST_BLOCK[network.version], network.prefixlen + 1), SMALLEST_BLOCK[network.version] + 1)


def _told(sizes: range) -> str:
    return f"{sizes.start}" if len(sizes) == 1 else f"{sizes.start} to {sizes.stop - 1}"


def _prefix(text: str) -> int:
    digits = text.strip().removeprefix("/")
    return int(digits) if digits.isascii() and digits.isdigit() else -1


def _excluded(text: str, networks: Sequence[IPNetwork]) -> list[IPNetwork]:
    first, dash, last = text.partition("-")
    try:
        parts: list[IPNetwork] = (
            list(ipaddress.summarize_address_range(ipaddress.ip_address(first), ipaddress.ip_address(last)))
            if dash
            else [ip_network(text)]
        )
    except (ValueError, TypeError) as error:
        raise ValueError(f"excluded {text!r}: {error}; give an address, a CIDR or FIRST-LAST") from None
    for part in parts:
        if not any(_is_inside(part, network) for network in networks):
            raise ValueError(f"excluded {text!r} is not inside of {listed(networks)}: leave it out")
    return parts


def _is_inside(part: IPNetwork, network: IPNetwork) -> bool:
    return (
        part.version == network.version and part.prefixlen >= network.prefixlen and part.network_address in network
    )


def _joined(networks: Sequence[IPNetwork]) -> str:
    return ",".join(map(str, networks))


def _separated(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")] if text else []


def _both() -> str:
    return ",".join(_EXAMPLE.values())
