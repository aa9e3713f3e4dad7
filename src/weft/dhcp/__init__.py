"""The DHCP client's protocol (RFC 2131), without any input or output.

``message`` is the wire, ``options`` what the options hold, ``datagram`` the packet around a message, ``lease``
what a server granted, ``client`` the state machine. Who owns sockets and clocks hands in what came and what time
it is.
"""

from weft.dhcp.client import Bound, Client, Identity, Lost, Offered, Send, State, Timing
from weft.dhcp.lease import Lease, LeaseError
from weft.dhcp.message import MalformedMessage, Message, MessageType

__all__ = [
    "Bound",
    "Client",
    "Identity",
    "Lease",
    "LeaseError",
    "Lost",
    "MalformedMessage",
    "Message",
    "MessageType",
    "Offered",
    "Send",
    "State",
    "Timing",
]
