"""The ranges of ``host-local``: pure, from the configuration to the order in which addresses are tried."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)

from weft.plugins.settings import Settings, refused

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class RangeSettings(Settings, frozen=True, kw_only=True):
    """One range as it is configured."""

    subnet: str = ""
    range_start: str = ""
    range_end: str = ""
    gateway: str = ""


@dataclass(frozen=True, slots=True)
class Range:
    """Addresses from ``start`` to ``end``, both included; the gateway is never given out."""

    subnet: Network
    start: Address
    end: Address
    gateway: Address

    def __contains__(self, address: object) -> bool:
        return (
            isinstance(address, (IPv4Address, IPv6Address))
            and address.version == self.subnet.version
            and int(self.start) <= int(address) <= int(self.end)
        )

    def __str__(self) -> str:
        return f"{self.start}-{self.end}"

    @property
    def size(self) -> int:
        """How many addresses can be given out."""
        return int(self.end) - int(self.start) + 1 - (self.gateway in self)

    def interface(self, address: Address) -> IPv4Interface | IPv6Interface:
        """An address of the range with the subnet's prefix."""
        return ip_interface(f"{address}/{self.subnet.prefixlen}")


@dataclass(frozen=True, slots=True)
class RangeSet:
    """Ranges of one family, out of which one address is given."""

    ranges: tuple[Range, ...]

    def __str__(self) -> str:
        return ",".join(map(str, self.ranges))

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.ranges[0].subnet.version

    @property
    def size(self) -> int:
        """How many addresses can be given out."""
        return sum(item.size for item in self.ranges)

    def find(self, address: Address) -> Range | None:
        """The range that holds an address."""
        return next((item for item in self.ranges if address in item), None)

    def overlaps(self, other: "RangeSet") -> bool:
        """Whether an address could come out of both."""
        return any(_overlap(one, two) for one in self.ranges for two in other.ranges)

    def candidates(self, last: Address | None) -> Iterator[tuple[Address, Range]]:
        """Every address once, from the one after the ``last`` given out, going round."""
        ranges = self.ranges
        place = next((number for number, item in enumerate(ranges) if last in item), None)
        if place is None or last is None:
            for item in ranges:
                yield from _between(item, int(item.start), int(item.end))
            return
        yield from _between(ranges[place], int(last) + 1, int(ranges[place].end))
        for item in (*ranges[place + 1 :], *ranges[:place]):
            yield from _between(item, int(item.start), int(item.end))
        yield from _between(ranges[place], int(ranges[place].start), int(last))


def parse_address(text: str, what: str) -> Address:
    """An address; an IPv4 one in IPv6 clothes is IPv4. Raises CniError."""
    try:
        address = ip_address(text)
    except ValueError:
        raise refused(f"{what} {text!r} is not an IP address") from None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def parse_range(settings: RangeSettings) -> Range:
    """A range with what is left out filled in. Raises CniError, naming the value."""
    if not settings.subnet:
        raise refused("subnet is missing: give one such as 10.22.0.0/16")
    try:
        subnet = ip_network(settings.subnet)
    except ValueError:
        try:
            mend = f"the network is {ip_network(settings.subnet, strict=False)}"
        except ValueError:
            mend = "give a network such as 10.22.0.0/16"
        raise refused(f"subnet {settings.subnet!r}: {mend}") from None
    if subnet.prefixlen > subnet.max_prefixlen - 2:
        raise refused(f"subnet {subnet}: too small to allocate from; use at most /{subnet.max_prefixlen - 2}")
    first, last = int(subnet.network_address) + 1, int(subnet.broadcast_address) - (subnet.version == 4)
    gateway = _inside(settings.gateway, "gateway", subnet, first, must=False)
    start = _inside(settings.range_start, "rangeStart", subnet, first)
    end = _inside(settings.range_end, "rangeEnd", subnet, last)
    if int(end) < int(start):
        raise refused(f"rangeEnd {end} lies before rangeStart {start}")
    return Range(subnet, start, end, gateway)


def parse_set(settings: Sequence[RangeSettings]) -> RangeSet:
    """A set of ranges. Raises CniError for an empty one, mixed families, overlaps."""
    if not settings:
        raise refused("empty range set")
    ranges = tuple(map(parse_range, settings))
    if len({item.subnet.version for item in ranges}) > 1:
        raise refused("mixed address families in one range set; IPv4 and IPv6 go into sets of their own")
    for number, one in enumerate(ranges):
        for two in ranges[number + 1 :]:
            if _overlap(one, two):
                raise refused(f"ranges {one} and {two} overlap")
    return RangeSet(ranges)


def _inside(text: str, what: str, subnet: Network, default: int, *, must: bool = True) -> Address:
    if not text:
        return subnet.network_address + (default - int(subnet.network_address))
    address = parse_address(text, what)
    if must and address not in subnet:
        raise refused(f"{what} {address} not in network {subnet}")
    return address


def _overlap(one: Range, two: Range) -> bool:
    return (
        one.subnet.version == two.subnet.version
        and int(one.start) <= int(two.end)
        and int(two.start) <= int(one.end)
    )


def _between(item: Range, first: int, last: int) -> Iterator[tuple[Address, Range]]:
    base, zero = item.subnet.network_address, int(item.subnet.network_address)
    gateway = int(item.gateway)
    for number in range(first, last + 1):
        if number != gateway:
            yield base + (number - zero), item
