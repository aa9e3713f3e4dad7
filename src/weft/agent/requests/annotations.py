"""Calico's annotations by which pods and namespaces ask for addresses, as far as they have a meaning here.

Where they differ from Calico's own reading is told in docs/addresses.md. An annotation without a value is none.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from ipaddress import ip_address, ip_network

import msgspec

from weft.ipam.ranges import IPAddress, IPNetwork, PodRange, listed
from weft.plugins.main.weave_requests import AddressRequest, Wanted

_PREFIX = "cni.projectcalico.org/"
ADDRESSES = _PREFIX + "ipAddrs"
WITHOUT_IPAM = _PREFIX + "ipAddrsNoIpam"
POOLS = {4: _PREFIX + "ipv4pools", 6: _PREFIX + "ipv6pools"}
_EXAMPLE = {4: '["10.244.0.9"]', 6: '["fd00:10:244::9"]'}


class BadAnnotation(ValueError):
    """An annotation cannot be honoured; the message names whose, which, its value and the mend."""


def of_pod(pod: str, annotations: Mapping[str, str], ranges: Sequence[PodRange]) -> AddressRequest:
    """What a pod (NAMESPACE/NAME) asks for in a cluster of these ranges. Raises BadAnnotation.

    A family whose list of pools is empty is named, and may be any address: the namespace's pools do not count.
    """
    if text := annotations.get(WITHOUT_IPAM):
        raise _bad(f"pod {pod}", WITHOUT_IPAM, text, f"every address comes from the ranges here; use {ADDRESSES}")
    return {**_pools(f"pod {pod}", annotations, ranges), **_addresses(f"pod {pod}", annotations, ranges)}


def of_namespace(
    namespace: str, annotations: Mapping[str, str], ranges: Sequence[PodRange], families: Collection[int]
) -> AddressRequest:
    """What a namespace asks for its pods, of these families. Raises BadAnnotation."""
    return _pools(
        f"namespace {namespace}",
        {POOLS[family]: annotations.get(POOLS[family], "") for family in families},
        ranges,
    )


def that_ask(annotations: Mapping[str, str]) -> dict[str, str]:
    """Those of a namespace's annotations that are read here and say anything."""
    return {key: annotations[key] for key in POOLS.values() if annotations.get(key)}


def _addresses(whose: str, annotations: Mapping[str, str], ranges: Iterable[PodRange]) -> dict[int, Wanted]:
    text = annotations.get(ADDRESSES)
    if not text:
        return {}
    mend = f"give a JSON list of one address, or one of each family, such as {_EXAMPLE[4]}"
    found: dict[int, Wanted] = {}
    for item in _list(whose, ADDRESSES, text, mend):
        address = _address(whose, text, item, mend)
        if address.version in found:
            raise _bad(whose, ADDRESSES, text, f"a pod has one IPv{address.version} address; name one")
        found[address.version] = Wanted(_origin(whose, ADDRESSES), address)
    if not found:
        raise _bad(whose, ADDRESSES, text, mend)
    return found


def _address(whose: str, text: str, item: str, mend: str) -> IPAddress:
    try:
        return ip_address(item)
    except ValueError:
        raise _bad(whose, ADDRESSES, text, f"{item!r} is not an address; {mend}") from None


def _pools(whose: str, annotations: Mapping[str, str], ranges: Sequence[PodRange]) -> dict[int, Wanted]:
    found = {}
    for family, key in POOLS.items():
        if text := annotations.get(key):
            networks = [pods.network for pods in ranges if pods.version == family]
            items = _list(whose, key, text, f"give a JSON list of CIDRs, such as {_example(networks)}")
            within = tuple(_network(whose, key, text, item, family, networks) for item in items)
            found[family] = Wanted(_origin(whose, key), within=within)
    return found


def _network(whose: str, key: str, text: str, item: str, family: int, networks: Sequence[IPNetwork]) -> IPNetwork:
    if not networks:
        raise _bad(whose, key, text, f"this cluster has no range of IPv{family}; remove the annotation")
    mend = f"give the pod range or a part of it, such as {_example(networks)}"
    try:
        network = ip_network(item, strict=False)
    except ValueError:
        raise _bad(
            whose, key, text, f"{item!r} is not a CIDR, and there are no IPPools with names here; {mend}"
        ) from None
    if network != _strict(item):
        raise _bad(whose, key, text, f"{item!r} has host bits set; did you mean {network}?")
    if network.version != family:
        raise _bad(whose, key, text, f"{item!r} is not of IPv{family}; {mend}")
    if not any(network.subnet_of(whole) for whole in networks):  # type: ignore[arg-type]
        raise _bad(whose, key, text, f"{item!r} is not inside of {listed(networks)}; {mend}")
    return network


def _strict(item: str) -> IPNetwork | None:
    try:
        return ip_network(item)
    except ValueError:
        return None


def _list(whose: str, key: str, text: str, mend: str) -> list[str]:
    try:
        return msgspec.json.decode(text, type=list[str])
    except msgspec.MsgspecError:
        raise _bad(whose, key, text, mend) from None


def _example(networks: Sequence[IPNetwork]) -> str:
    return msgspec.json.encode([str(network) for network in networks[:1]]).decode()


def _origin(whose: str, key: str) -> str:
    return f"{whose}: annotation {key}"


def _bad(whose: str, key: str, text: str, mend: str) -> BadAnnotation:
    return BadAnnotation(f"{_origin(whose, key)} {text!r}: {mend}")
