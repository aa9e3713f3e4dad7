"""The only place that speaks to the kernel: netlink, nftables, sysctl, namespaces, packet sockets.

``namespace``   a network namespace as an open descriptor, and entering it for a moment
``netlink``     the rtnetlink socket: batches, single questions, dumps; ``attributes`` is its codec
``links``       devices: veth, bridge, VXLAN; ``kinds`` and ``taps``: other ones
``addresses``, ``routes``, ``neighbours``: what belongs to devices
``sysctl``      values below /proc/sys; ``sysfs`` hardware and its drivers
``nftables``    rulesets, as text, each applied as one transaction
``announce``    telling neighbours that an address has moved

Builders return messages and touch nothing; a ``RouteSocket`` sends them. Whatever is sent acts in the network
namespace that the socket was opened in.
"""
