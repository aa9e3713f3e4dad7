"""What a server granted, and until when."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Self, TypeVar

from weft.dhcp import options as opt
from weft.dhcp.message import Message
from weft.dhcp.options import Option

Value = TypeVar("Value")

#: Seconds of a lease whose server says nothing of time.
DEFAULT_DURATION = 3600
#: "For ever" (RFC 2131 section 3.3).
_INFINITE = 0xFFFFFFFF
#: Where T1 and T2 lie when the server does not say (RFC 2131 section 4.4.5).
_T1, _T2 = 0.5, 0.875

_EVERYWHERE = IPv4Network("0.0.0.0/0")


class LeaseError(ValueError):
    """A grant that cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A grant. Times are seconds of the clock that ``obtained`` was read from, infinite for a lease for ever."""

    acknowledgement: Message
    obtained: float
    renew_at: float
    rebind_at: float
    expires_at: float

    @classmethod
    def granted(cls, acknowledgement: Message, now: float) -> Self:
        """The lease that an ACK, or an OFFER, tells of. T1 and T2 that are in no order are the usual ones."""
        duration = _seconds(acknowledgement, Option.LEASE_TIME)
        if duration == _INFINITE:
            return cls(acknowledgement, now, math.inf, math.inf, math.inf)
        if duration is None:
            duration = DEFAULT_DURATION
        renewal = _seconds(acknowledgement, Option.RENEWAL_TIME)
        rebinding = _seconds(acknowledgement, Option.REBINDING_TIME)
        first = duration * _T1 if renewal is None else float(renewal)
        second = duration * _T2 if rebinding is None else float(rebinding)
        if not 0 < first <= second <= duration or first == duration:
            first, second = duration * _T1, duration * _T2
        return cls(acknowledgement, now, now + first, now + second, now + duration)

    @property
    def address(self) -> IPv4Address:
        """The address alone."""
        return self.acknowledgement.yours

    @property
    def interface(self) -> IPv4Interface:
        """The address with its prefix. Raises LeaseError where the server gave no usable mask."""
        value = self.acknowledgement.options.get(Option.SUBNET_MASK)
        if value is None:
            raise LeaseError("the DHCP server gave no subnet mask (option 1); request it, or let it be sent")
        return IPv4Interface((self.address, self._parsed(Option.SUBNET_MASK, opt.parse_prefix_length) or 0))

    @property
    def server(self) -> IPv4Address:
        """The server's identifier; 0.0.0.0 where it gave none."""
        found = self._parsed(Option.SERVER_IDENTIFIER, opt.parse_addresses) or ()
        return found[0] if found else IPv4Address(0)

    @property
    def gateway(self) -> IPv4Address | None:
        """The first router. Raises LeaseError."""
        routers = self._parsed(Option.ROUTER, opt.parse_addresses) or ()
        return routers[0] if routers else None

    @property
    def routes(self) -> tuple[tuple[IPv4Network, IPv4Address], ...]:
        """Destinations and gateways, 0.0.0.0 for a destination on the link. Raises LeaseError.

        Classless routes are all there are where the server sent any (RFC 3442); else the old ones, and a default
        route to the gateway.
        """
        classless = self._parsed(Option.CLASSLESS_ROUTE, opt.parse_classless_routes) or ()
        if classless:
            return classless
        routes = self._parsed(Option.STATIC_ROUTE, opt.parse_static_routes) or ()
        return routes if self.gateway is None else (*routes, (_EVERYWHERE, self.gateway))

    @property
    def name_servers(self) -> tuple[IPv4Address, ...]:
        """Where to ask. Raises LeaseError."""
        return self._parsed(Option.NAME_SERVER, opt.parse_addresses) or ()

    @property
    def domain(self) -> str:
        """The client's own domain, empty where the server names none. Raises LeaseError."""
        return self._parsed(Option.DOMAIN_NAME, opt.parse_text) or ""

    @property
    def search(self) -> tuple[str, ...]:
        """Domains in which names are looked up. Raises LeaseError."""
        return self._parsed(Option.DOMAIN_SEARCH, opt.parse_domains) or ()

    def _parsed(self, code: Option, parse: Callable[[bytes], Value]) -> Value | None:
        """What an option holds; None where the server did not send it."""
        value = self.acknowledgement.options.get(code)
        if not value:
            return None
        try:
            return parse(value)
        except ValueError as error:
            name = code.name.lower().replace("_", " ")
            raise LeaseError(f"the DHCP server's {name} (option {code.value}): {error}") from None


def _seconds(message: Message, code: Option) -> int | None:
    """A time; None for one that is not there or unreadable, since a lease needs none of them."""
    try:
        return opt.parse_seconds(message.options[code])
    except (KeyError, ValueError):
        return None
