"""Decides a packet from a model as the kernel would: an nftables of exactly the statements that we use."""

from dataclasses import dataclass
from ipaddress import ip_address

from weft.policy.members import version_of
from weft.policy.model import ENTRY, Action, Dispatch, Field, Match, Model, Rule, Set


@dataclass(frozen=True, slots=True)
class Packet:
    """The first packet of a connection. ``port`` is 0 for protocols that have none; addresses are canonical."""

    source: str
    destination: str
    protocol: str
    port: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the packet passes, and the counters that it moves."""

    passes: bool
    counters: tuple[str, ...]


class Evaluator:
    """Evaluates packets against one model; intervals are prepared when they are met."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._intervals: dict[str, list[tuple[str, int, int]]] = {}

    def __call__(self, packet: Packet) -> Verdict:
        """Whether the packet passes."""
        counters: list[str] = []
        passes = self._walk(ENTRY, packet, counters)
        return Verdict(passes is not False, tuple(counters))

    def _walk(self, chain: str, packet: Packet, counters: list[str]) -> bool | None:
        """True and False are final; None goes back to whoever jumped here."""
        for statement in self._model.chains[chain]:
            if isinstance(statement, Dispatch):
                address = packet.source if statement.field is Field.SOURCE else packet.destination
                target = self._model.maps[statement.map].elements.get(address)
                if version_of(address) == statement.version and target is not None:
                    final = self._walk(target, packet, counters)
                    if final is not None:
                        return final
            elif isinstance(statement, Rule) and all(self._holds(match, packet) for match in statement.matches):
                if statement.counter:
                    counters.append(statement.counter)
                action = statement.verdict.action
                if action in (Action.ACCEPT, Action.DROP):
                    return action is Action.ACCEPT
                final = self._walk(statement.verdict.chain, packet, counters)
                if final is not None or action is Action.GOTO:
                    return final
        return None

    def _holds(self, match: Match, packet: Packet) -> bool:
        if match.version and version_of(packet.source) != match.version:
            return False
        words = {
            Field.SOURCE: packet.source,
            Field.DESTINATION: packet.destination,
            Field.PORT: f"{packet.protocol} . {packet.port}",
        }
        element = " . ".join(words[item] for item in match.fields)
        members: Set = self._model.sets[match.set]
        if not members.intervals:
            return element in members.elements
        if match.set not in self._intervals:
            self._intervals[match.set] = [_interval(each) for each in members.elements]
        protocol, value = _value(element)
        return any(kind == protocol and low <= value <= high for kind, low, high in self._intervals[match.set])


def _value(element: str) -> tuple[str, int]:
    head, _, port = element.rpartition(" . ")
    return (head, int(port)) if head else ("", int(ip_address(port)))


def _interval(element: str) -> tuple[str, int, int]:
    """An element of an interval set: of addresses, or of a protocol's ports."""
    head, _, span = element.rpartition(" . ")
    low, _, high = span.partition("-")
    return (
        head,
        _value(low)[1] if not head else int(low),
        ((_value(high or low)[1]) if not head else int(high or low)),
    )
