"""What people ask of the controller: policies, a pod's policies, and why a connection is allowed or not."""

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

from weft.npc.table import Table
from weft.policy.chains import chain_name
from weft.policy.compiler import Compiler
from weft.policy.explanation import Side, explain, selecting, sides
from weft.policy.objects import Direction, Key, Pod, Policy, Protocol

Answer = dict[str, Any]
_KINDS = {Direction.INGRESS: "Ingress", Direction.EGRESS: "Egress"}


class NoSuchThing(ValueError):
    """What was asked for is not there; the message names what is."""


def policies(compiler: Compiler, table: Table) -> list[Answer]:
    """Every policy: what it isolates, how many pods it selects, what it allowed on this node."""
    counters = table.counters()
    return [_policy(compiler, policy, counters) for _, policy in sorted(compiler.policies.items())]


def pod(compiler: Compiler, name: str) -> Answer:
    """A pod with the policies that isolate it."""
    found = find(compiler, name)
    if isinstance(found, str):
        raise NoSuchThing(f"no pod has the address {found}")
    return {
        "pod": shown(found.key),
        "addresses": found.addresses,
        "node": found.node,
        "labels": found.labels,
        "known": not found.unknown,
        **{
            _KINDS[direction].lower(): [shown(policy.key) for policy in selecting(compiler, found, direction)]
            for direction in Direction
        },
    }


def why(
    compiler: Compiler, table: Table, source: str, destination: str, protocol: str, port: int, live: bool
) -> Answer:
    """Why a connection is allowed or not, with the kernel's counters where ``live``."""
    ends = find(compiler, source), find(compiler, destination)
    pairs = [(one, other) for one in _addresses(ends[0]) for other in _addresses(ends[1])]
    pair = next(((one, other) for one, other in pairs if (":" in one) == (":" in other)), None)
    if pair is None:
        raise NoSuchThing(f"{source} and {destination} have no addresses of one IP version")
    found = explain(compiler, *pair, protocol, port)
    counters = table.counters() if live else {}
    return {
        "source": {"name": source, "address": pair[0]},
        "destination": {"name": destination, "address": pair[1]},
        "protocol": protocol,
        "port": port,
        "allowed": found.allowed,
        "toItself": found.to_itself,
        "sides": [_side(side, counters) for side in sides(found)],
    }


def find(compiler: Compiler, name: str) -> Pod | str:
    """A pod by NAMESPACE/NAME, by a name that only one has, or by address; an address that is no pod's.

    Raises NoSuchThing.
    """
    try:
        address = str(ip_address(name))
    except ValueError:
        pass
    else:
        return compiler.owner(address) or address
    wanted = [pod for pod in compiler.pods.values() if name in (pod.name, shown(pod.key))]
    if len(wanted) == 1:
        return wanted[0]
    if wanted:
        names = ", ".join(sorted(shown(pod.key) for pod in wanted))
        raise NoSuchThing(f"{name!r} may be any of {names}: give NAMESPACE/NAME")
    raise NoSuchThing(f"no pod {name!r}: give NAMESPACE/NAME or an address")


def shown(key: Key) -> str:
    """NAMESPACE/NAME."""
    return "/".join(key)


def parse_port(text: str) -> tuple[str, int]:
    """``tcp/80``, or a protocol alone. Raises NoSuchThing."""
    protocol, _, number = text.lower().partition("/")
    if protocol in tuple(Protocol) and number.isdigit() and 0 < int(number) < 65536:
        return protocol, int(number)
    if protocol in ("icmp", *Protocol) and not number:
        return protocol, 0
    raise NoSuchThing(f"--port {text!r}: write it as tcp/80, udp/53, sctp/5000 or icmp")


def _policy(compiler: Compiler, policy: Policy, counters: Mapping[str, tuple[int, int]]) -> Answer:
    selected = [
        pod
        for pod in compiler.pods.values()
        if pod.namespace == policy.namespace and pod.counts and policy.selector.matches(pod.labels)
    ]
    allowed = [counters.get(chain_name(direction, policy.key), (0, 0)) for direction in Direction]
    return {
        "namespace": policy.namespace,
        "name": policy.name,
        "isolates": [_KINDS[each] for each in Direction if policy.rules(each) is not None],
        "pods": len(selected),
        "podsHere": sum(compiler.is_local(pod) for pod in selected),
        "allowed": sum(packets for packets, _ in allowed),
        "problems": policy.problems,
    }


def _side(side: Side, counters: Mapping[str, tuple[int, int]]) -> Answer:
    answer: Answer = {
        "direction": _KINDS[side.direction],
        "pod": shown(side.pod.key) if side.pod else None,
        "node": side.pod.node if side.pod else "",
        "here": side.here,
        "allows": side.allows,
        "isolatedBy": [shown(key) for key in side.isolating],
        "allowedBy": [{"policy": shown(item.policy), "rule": item.rule} for item in side.allowing],
    }
    if counters and side.here:
        names = {shown(key): chain_name(side.direction, key) for key in side.isolating}
        answer["connections"] = {name: counters.get(chain, (0, 0))[0] for name, chain in names.items()}
    return answer


def _addresses(end: Pod | str) -> tuple[str, ...]:
    return (end,) if isinstance(end, str) else end.addresses
