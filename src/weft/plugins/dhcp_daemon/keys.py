"""The keys below ``ipam`` of a network whose addresses come from a DHCP server."""

import msgspec

from weft.cni import CniError
from weft.dhcp.options import Option, parse_name
from weft.plugins.settings import IpamSettings, Settings, refused

DEFAULT_SOCKET = "/run/cni/dhcp.sock"
_LONGEST_VALUE = 255
#: Asked for unless ``skipDefault`` is set. The reference asks for the first two.
_REQUESTED = (Option.ROUTER, Option.SUBNET_MASK, Option.NAME_SERVER, Option.DOMAIN_NAME, Option.DOMAIN_SEARCH)
#: What makes a message what it is; a configuration cannot provide it.
_RESERVED = (Option.PAD, Option.OVERLOAD, Option.MESSAGE_TYPE, Option.END)


class ProvideSettings(Settings, frozen=True, kw_only=True):
    """An option that the client sends: ``value`` as text, or what the key ``fromArg`` of CNI_ARGS holds."""

    option: str = ""
    value: str = ""
    from_arg: str = ""


class RequestSettings(Settings, frozen=True, kw_only=True):
    """An option that the client asks for, and whether those are left out that it asks for by itself."""

    skip_default: bool = False
    option: str = ""


class DhcpIpam(IpamSettings, frozen=True, kw_only=True):
    """``ipam``."""

    daemon_socket_path: str = ""
    provide: tuple[ProvideSettings, ...] = ()
    request: tuple[RequestSettings, ...] = ()
    priority: int = 0


class DhcpSettings(Settings, frozen=True, kw_only=True):
    """The configuration of the plugin that delegates."""

    ipam: DhcpIpam | None = None


class Wishes(msgspec.Struct, frozen=True):
    """What the client's messages ask for and tell, by option."""

    requested: tuple[int, ...] = ()
    provided: dict[int, bytes] = {}


def parse_wishes(ipam: DhcpIpam, args: str) -> Wishes:
    """The options of a configuration and of CNI_ARGS. Raises CniError."""
    named = dict(part.split("=", 1) for part in args.split(";") if "=" in part)
    provided: dict[int, bytes] = {}
    for item in ipam.provide:
        code = _code(item.option, "provide")
        if code in _RESERVED:
            raise refused(f"ipam.provide: option {item.option!r} cannot be provided, messages need it")
        for text in (item.value, named.get(item.from_arg, "") if item.from_arg else ""):
            if text:
                provided[code] = _value(text, item)
    requested = [_code(item.option, "request") for item in ipam.request if item.option]
    if not any(item.skip_default for item in ipam.request):
        requested += _REQUESTED
    return Wishes(tuple(dict.fromkeys(requested)), provided)


def _code(text: str, key: str) -> int:
    try:
        return parse_name(text)
    except ValueError as error:
        raise _refusal(key, str(error)) from None


def _value(text: str, item: ProvideSettings) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    if len(data) > _LONGEST_VALUE:
        where = f" from {item.from_arg} of CNI_ARGS" if text != item.value else ""
        raise _refusal("provide", f"option {item.option!r}: a value of {len(data)} bytes{where}; at most 255 fit")
    return data


def _refusal(key: str, message: str) -> CniError:
    return refused(f"ipam.{key}: {message}")
