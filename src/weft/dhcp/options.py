"""What options hold (RFC 2132; classless routes RFC 3442; domain search RFC 3397)."""

from enum import IntEnum
from ipaddress import IPv4Address, IPv4Network

Routes = tuple[tuple[IPv4Network, IPv4Address], ...]

_ADDRESS = 4
#: Labels of a domain name at most: 255 bytes, two a label (RFC 1035 section 3.1).
_MOST_LABELS = 128
_POINTER = 0xC0


class Option(IntEnum):
    """Options that a client knows."""

    PAD = 0
    SUBNET_MASK = 1
    ROUTER = 3
    NAME_SERVER = 6
    HOST_NAME = 12
    DOMAIN_NAME = 15
    STATIC_ROUTE = 33
    REQUESTED_ADDRESS = 50
    LEASE_TIME = 51
    OVERLOAD = 52
    MESSAGE_TYPE = 53
    SERVER_IDENTIFIER = 54
    PARAMETER_REQUEST_LIST = 55
    MESSAGE = 56
    MAXIMUM_MESSAGE_SIZE = 57
    RENEWAL_TIME = 58
    REBINDING_TIME = 59
    VENDOR_CLASS = 60
    CLIENT_IDENTIFIER = 61
    USER_CLASS = 77
    DOMAIN_SEARCH = 119
    CLASSLESS_ROUTE = 121
    END = 255


#: Names as in dhcp-options(5), those that the reference plugin knows.
BY_NAME = {
    "dhcp-client-identifier": Option.CLIENT_IDENTIFIER,
    "subnet-mask": Option.SUBNET_MASK,
    "routers": Option.ROUTER,
    "host-name": Option.HOST_NAME,
    "user-class": Option.USER_CLASS,
    "vendor-class-identifier": Option.VENDOR_CLASS,
}


def parse_name(text: str) -> int:
    """The code of an option's name, or of its number as text. Raises ValueError, naming it."""
    if text in BY_NAME:
        return BY_NAME[text]
    if not (text.isascii() and text.isdigit() and int(text) <= Option.END):
        raise ValueError(f"option {text!r}: use a number below 256 or one of {', '.join(BY_NAME)}")
    return int(text)


def parse_addresses(value: bytes) -> tuple[IPv4Address, ...]:
    """A list of addresses. Raises ValueError."""
    if len(value) % _ADDRESS:
        raise ValueError(f"{len(value)} bytes are no list of addresses")
    return tuple(IPv4Address(value[start : start + _ADDRESS]) for start in range(0, len(value), _ADDRESS))


def parse_prefix_length(value: bytes) -> int:
    """The length of a subnet mask. Raises ValueError for one with holes."""
    (mask,) = parse_addresses(value)
    length = int(mask).bit_count()
    if int(mask) != (0xFFFFFFFF << (32 - length)) & 0xFFFFFFFF:
        raise ValueError(f"{mask} is no subnet mask")
    return length


def parse_seconds(value: bytes) -> int:
    """A time. Raises ValueError."""
    if len(value) != 4:
        raise ValueError(f"{len(value)} bytes are no time")
    return int.from_bytes(value, "big")


def parse_classless_routes(value: bytes) -> Routes:
    """Destinations and routers (RFC 3442); the router 0.0.0.0 stands for "on the link". Raises ValueError."""
    routes, place = [], 0
    while place < len(value):
        length = value[place]
        size = (length + 7) // 8
        entry = value[place + 1 : place + 1 + size + _ADDRESS]
        if length > 32 or len(entry) != size + _ADDRESS:
            raise ValueError(f"no classless route at byte {place}")
        # Bits beyond the prefix must not count (RFC 3442, "Local Subnet Routes").
        destination = IPv4Network((entry[:size].ljust(_ADDRESS, b"\0"), length), strict=False)
        routes.append((destination, IPv4Address(entry[size:])))
        place += 1 + size + _ADDRESS
    return tuple(routes)


def parse_static_routes(value: bytes) -> Routes:
    """Destinations of the old classes A, B and C, and routers (RFC 2132 section 5.8). Raises ValueError."""
    addresses = parse_addresses(value)
    if len(addresses) % 2:
        raise ValueError("a destination without its router")
    pairs = zip(addresses[::2], addresses[1::2], strict=True)
    return tuple((IPv4Network((destination, _class(destination)), strict=False), to) for destination, to in pairs)


def _class(destination: IPv4Address) -> int:
    first = destination.packed[0]
    return 8 if first < 128 else 16 if first < 192 else 24 if first < 224 else 32


def parse_text(value: bytes) -> str:
    """Text, which some servers end with a NUL. Raises ValueError for what is not ASCII or not printable."""
    text = value.rstrip(b"\0").decode("ascii")
    if not text.isprintable():
        raise ValueError(f"{text!r} is not printable")
    return text


def parse_domains(value: bytes) -> tuple[str, ...]:
    """Domain names, compressed as in DNS (RFC 3397, RFC 1035 section 4.1.4). Raises ValueError."""
    names, place = [], 0
    while place < len(value):
        labels, place = _domain(value, place)
        names.append(".".join(labels))
    return tuple(filter(None, names))


def _domain(value: bytes, place: int) -> tuple[list[str], int]:
    """The labels of the name at a place, and where the next name begins."""
    labels: list[str] = []
    after = None
    for _ in range(_MOST_LABELS):
        if place >= len(value):
            raise ValueError("a domain name without its end")
        length = value[place]
        if length == 0:
            return labels, place + 1 if after is None else after
        if length & _POINTER == _POINTER:
            if place + 1 >= len(value):
                raise ValueError("half a pointer")
            after = place + 2 if after is None else after
            place = (length & ~_POINTER) << 8 | value[place + 1]
            continue
        label = value[place + 1 : place + 1 + length]
        if length & _POINTER or len(label) != length:
            raise ValueError("no label of a domain name")
        labels.append(parse_text(label))
        place += 1 + length
    raise ValueError("a domain name without an end")
