"""The client's state machine (RFC 2131 section 4.4): what came and what time it is in, what to do out.

It knows neither sockets nor clocks. Times are seconds of the caller's clock; after every call ``deadline`` says
when ``on_timer`` is due.

A pod cannot be given another address while it runs. So a refusal (NAK) of an address in use leads to asking for
the very same one again, as after a server has lost its memory; only when that fails the lease is lost.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from ipaddress import IPv4Address
from random import Random

from weft.dhcp.lease import Lease
from weft.dhcp.message import NOWHERE, Message, MessageType
from weft.dhcp.options import Option

#: Seconds before a message is sent again: a few times soon, then twice as long each time (RFC 2131 section 4.1).
_SOON, _SOON_TIMES = 2.0, 4
_FIRST = 4.0
_MOST_DOUBLINGS = 16
_JITTER = 1.0
_LEAST = 0.5
#: Least seconds between two attempts to renew. RFC 2131's 60 would leave leases of minutes a single one.
_RENEWAL_LEAST = 10.0
#: No message has this one.
_NO_TRANSACTION = -1
#: Options that tell of one grant only, not of the network.
_TIMES = (Option.LEASE_TIME, Option.RENEWAL_TIME, Option.REBINDING_TIME)


class State(StrEnum):
    """RFC 2131, figure 5; ``ended`` when the client has no lease and wants none."""

    SELECTING = "selecting"
    REQUESTING = "requesting"
    BOUND = "bound"
    RENEWING = "renewing"
    REBINDING = "rebinding"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds: of one exchange, between two sendings at most, and until an acquisition is given up."""

    timeout: float = 10.0
    resend_max: float = 62.0
    resend_timeout: float = 208.0


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks, and for what: the same in every message, so that a server knows the client again."""

    hardware_address: bytes
    client_identifier: bytes
    requested: Sequence[int] = ()
    provided: Mapping[int, bytes] = field(default_factory=dict)
    broadcast: bool = False
    largest_message: int = 1500


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message: to the server ``to``, or to everybody where that is None."""

    message: Message
    to: IPv4Address | None = None


@dataclass(frozen=True, slots=True)
class Offered:
    """A server offers this; the client requests it next. To be written down first."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class Bound:
    """The lease is granted, or granted anew."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class Lost:
    """There is no lease, or no more; why."""

    reason: str


Action = Send | Offered | Bound | Lost


class Client:
    """One client of one interface."""

    def __init__(self, identity: Identity, timing: Timing, random: Random) -> None:
        self.state = State.ENDED
        self.lease: Lease | None = None
        self.deadline = math.inf
        self._identity = identity
        self._timing = timing
        self._random = random
        self._transaction = _NO_TRANSACTION
        self._offered: Lease | None = None
        self._message: Message | None = None
        self._began = 0.0
        self._exchange_ends = math.inf
        self._gives_up = math.inf
        self._sent = 0

    def acquire(self, now: float) -> list[Action]:
        """Ask for a lease."""
        self._began, self._sent = now, 0
        self._gives_up = now + self._timing.resend_timeout
        return self._discover(now)

    def resume(self, lease: Lease, now: float) -> list[Action]:
        """Go on with a lease from before; one that has expired meanwhile is asked for once more."""
        self._bind(lease)
        return self._reacquire(now, math.inf) if now >= lease.expires_at else self.on_timer(now)

    def release(self, now: float) -> list[Action]:
        """Give the lease back, also one that is requested only; nothing is sent where there is none."""
        lease, self.lease = self.lease or self._offered, None
        self._end()
        if lease is None:
            return []
        self._began = now
        options: dict[int, bytes] = {Option.SERVER_IDENTIFIER: lease.server.packed}
        return [Send(self._compose(MessageType.RELEASE, now, options, client=lease.address), lease.server)]

    def on_timer(self, now: float) -> list[Action]:
        """What is to be done now. Does nothing before ``deadline``."""
        if now < self.deadline:
            return []
        match self.state:
            case State.SELECTING | State.REQUESTING:
                return self._acquire_further(now)
            case State.BOUND | State.RENEWING | State.REBINDING:
                return self._keep(now)
        return []

    def on_message(self, message: Message, now: float) -> list[Action]:
        """Take what a server sent; what is not for this client, or comes too late, does nothing."""
        if (
            not message.is_reply
            or message.transaction != self._transaction
            or message.hardware_address != self._identity.hardware_address
        ):
            return []
        match self.state, message.kind:
            case State.SELECTING, MessageType.OFFER:
                return self._request(message, now)
            case State.REQUESTING | State.RENEWING | State.REBINDING, MessageType.ACK:
                return self._acknowledged(message, now)
            case State.REQUESTING, MessageType.NAK if self._is_of_server(message):
                # Not at once: a server that offers and refuses would be asked without end.
                self.state, self._transaction = State.SELECTING, _NO_TRANSACTION
                self.deadline = self._exchange_ends = min(now + self._pause(), self._gives_up)
            case State.RENEWING | State.REBINDING, MessageType.NAK:
                return self._reacquire(now, self._expires_at)
        return []

    # ---- Getting a lease

    def _discover(self, now: float) -> list[Action]:
        self.state = State.SELECTING
        options: dict[int, bytes] = {}
        if self.lease is not None:
            options[Option.REQUESTED_ADDRESS] = self.lease.address.packed
        self._exchange_ends = now + self._timing.timeout
        self._begin(MessageType.DISCOVER, now, options)
        return self._send(now)

    def _reacquire(self, now: float, until: float) -> list[Action]:
        """Ask for the address that the pod has."""
        self._began, self._sent = now, 0
        self._gives_up = min(now + 2 * self._timing.timeout, until)
        return self._discover(now)

    def _request(self, offer: Message, now: float) -> list[Action]:
        server = offer.options.get(Option.SERVER_IDENTIFIER, b"")
        if len(server) != 4 or offer.yours == NOWHERE:
            return []
        if self.lease is not None and offer.yours != self.lease.address:
            return []  # another server, perhaps
        self.state = State.REQUESTING
        options: dict[int, bytes] = {
            Option.REQUESTED_ADDRESS: offer.yours.packed,
            Option.SERVER_IDENTIFIER: server,
        }
        self._message = self._compose(MessageType.REQUEST, now, options)
        self._offered = Lease.granted(offer, now)
        return [Offered(self._offered), *self._send(now)]

    def _acquire_further(self, now: float) -> list[Action]:
        if now >= self._gives_up:
            reason = f"no DHCP server gave a lease within {now - self._began:.0f} s"
            if self.lease is not None:
                reason = f"the DHCP server does not give {self.lease.address} again"
            return self._lose(reason)
        if now >= self._exchange_ends:
            return self._discover(now)
        return self._send(now)

    # ---- Keeping it

    def _keep(self, now: float) -> list[Action]:
        lease = self.lease
        if lease is None:
            return []
        if now >= lease.expires_at:
            return self._lose(f"the lease of {lease.address} expired")
        wanted = State.REBINDING if now >= lease.rebind_at else State.RENEWING
        if now < lease.renew_at:
            return []
        if self.state != wanted:
            if self.state is State.BOUND:
                self._began = now
            self.state = wanted
            self._begin(MessageType.REQUEST, now, {}, client=lease.address)
        return self._send(now)

    def _acknowledged(self, message: Message, now: float) -> list[Action]:
        if self.state is State.REQUESTING and not self._is_of_server(message):
            return []
        known = self.lease
        if known is not None:
            if message.yours != known.address:
                return []
            # Some servers leave out of a renewal what they said before.
            kept = {code: value for code, value in known.acknowledgement.options.items() if code not in _TIMES}
            message = replace(message, options={**kept, **message.options})
        lease = Lease.granted(message, now)
        self._bind(lease)
        return [Bound(lease)]

    def _bind(self, lease: Lease) -> None:
        self._end()
        self.state, self.lease, self.deadline = State.BOUND, lease, lease.renew_at

    def _lose(self, reason: str) -> list[Action]:
        self.lease = None
        self._end()
        return [Lost(reason)]

    def _end(self) -> None:
        self.state, self.deadline = State.ENDED, math.inf
        self._message, self._offered, self._transaction = None, None, _NO_TRANSACTION

    @property
    def _expires_at(self) -> float:
        return math.inf if self.lease is None else self.lease.expires_at

    # ---- Messages

    def _is_of_server(self, message: Message) -> bool:
        """Whether the server that was asked says so."""
        asked = {} if self._message is None else self._message.options
        return message.options.get(Option.SERVER_IDENTIFIER) == asked.get(Option.SERVER_IDENTIFIER)

    def _begin(
        self, kind: MessageType, now: float, options: Mapping[int, bytes], client: IPv4Address = NOWHERE
    ) -> None:
        """A message of a new exchange."""
        self._transaction = self._random.randrange(1 << 32)
        self._message = self._compose(kind, now, options, client=client)

    def _compose(
        self, kind: MessageType, now: float, options: Mapping[int, bytes], client: IPv4Address = NOWHERE
    ) -> Message:
        who = self._identity
        named: dict[int, bytes] = {Option.CLIENT_IDENTIFIER: who.client_identifier}
        if kind is not MessageType.RELEASE:
            named[Option.MAXIMUM_MESSAGE_SIZE] = who.largest_message.to_bytes(2, "big")
            named.update(who.provided)
            if who.requested:
                named[Option.PARAMETER_REQUEST_LIST] = bytes(who.requested)
        elif Option.CLIENT_IDENTIFIER in who.provided:
            named[Option.CLIENT_IDENTIFIER] = who.provided[Option.CLIENT_IDENTIFIER]
        return Message(
            kind,
            self._random.randrange(1 << 32) if self._transaction == _NO_TRANSACTION else self._transaction,
            who.hardware_address,
            {**named, **options},
            seconds=int(now - self._began),
            # A client with an address can be answered there.
            broadcast=who.broadcast and client == NOWHERE,
            client=client,
        )

    def _send(self, now: float) -> list[Action]:
        """The present message, once more; and when it is due again."""
        if self._message is None:
            return []
        if self.state in (State.RENEWING, State.REBINDING) and self.lease is not None:
            until = self.lease.rebind_at if self.state is State.RENEWING else self.lease.expires_at
            self.deadline = min(now + max((until - now) / 2, _RENEWAL_LEAST), until)
            to = self.lease.server if self.state is State.RENEWING else None
        else:
            self.deadline = min(now + self._pause(), self._exchange_ends, self._gives_up)
            to = None
        self._message = replace(self._message, seconds=int(now - self._began))
        return [Send(self._message, None if to == NOWHERE else to)]

    def _pause(self) -> float:
        self._sent += 1
        base = _SOON
        if self._sent > _SOON_TIMES:
            base = min(_FIRST * 2 ** min(self._sent - _SOON_TIMES - 1, _MOST_DOUBLINGS), self._timing.resend_max)
        return max(base + self._random.uniform(-_JITTER, _JITTER), _LEAST)
