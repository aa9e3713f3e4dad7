"""Which addresses a call asks for, beside those that come next."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_interface

from weft.plugins.main.weave_settings import invalid
from weft.plugins.plugin import PluginRequest


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for of one family: this address, or any within these networks.

    ``origin`` says who asks, for messages.
    """

    origin: str
    address: IPv4Address | IPv6Address | None = None
    within: tuple[IPv4Network | IPv6Network, ...] = ()


#: What a pod's addresses are to be, by IP version; a family that is not named gets the next free address.
AddressRequest = Mapping[int, Wanted]
#: Tells what a call asks for. Raises CniError.
Requests = Callable[[PluginRequest], AddressRequest]


def requested_by_runtime(request: PluginRequest) -> AddressRequest:
    """The addresses that a runtime asks for, in the place that counts: ``runtimeConfig.ips``, then
    ``args.cni.ips``, then IP of CNI_ARGS; CIDR notation is fine, its prefix is the range's.

    Raises CniError.
    """
    cni = (request.configuration.raw.get("args") or {}).get("cni") or {}
    for key, given in (
        ("runtimeConfig.ips", list(request.configuration.runtime.ips)),
        ("args.cni.ips", cni.get("ips") if isinstance(cni, dict) else cni),
        ("IP of CNI_ARGS", request.invocation.arguments.get("IP", "").split(",")),
    ):
        if not isinstance(given, list | None) or not all(isinstance(text, str) for text in given or ()):
            raise invalid(key, given, "give a list of addresses")
        if texts := [text.strip() for text in given or () if text.strip()]:
            return _addresses(key, texts)
    return {}


def _addresses(key: str, texts: Sequence[str]) -> dict[int, Wanted]:
    found: dict[int, Wanted] = {}
    for text in texts:
        try:
            address = ip_interface(text).ip
        except ValueError:
            raise invalid(key, text, "give an address, such as 10.32.0.7") from None
        if address.version in found:
            raise invalid(key, ",".join(texts), "a pod has one of each family")
        found[address.version] = Wanted(key, address)
    return found
