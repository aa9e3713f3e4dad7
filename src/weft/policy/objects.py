"""Pods, namespaces and policies as the compiler takes them: checked, hashable, addresses as canonical text."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network

Labels = Mapping[str, str]
#: Namespace and name.
Key = tuple[str, str]

#: The label that the API server gives every namespace.
NAMESPACE_NAME_LABEL = "kubernetes.io/metadata.name"


class Protocol(StrEnum):
    """The protocols that have ports, as nftables spells them."""

    TCP = "tcp"
    UDP = "udp"
    SCTP = "sctp"


class Direction(StrEnum):
    """The side of a policy; the values begin the names of its chains."""

    INGRESS = "in"
    EGRESS = "out"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One entry of matchExpressions. ``operator`` is In, NotIn, Exists or DoesNotExist."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def matches(self, labels: Labels) -> bool:
        """NotIn and DoesNotExist hold where the key is missing."""
        value = labels.get(self.key)
        if self.operator == "In":
            return value in self.values
        if self.operator == "NotIn":
            return value not in self.values
        return (value is not None) == (self.operator == "Exists")


@dataclass(frozen=True, slots=True)
class Selector:
    """A label selector; one that asks for nothing selects everything."""

    labels: tuple[tuple[str, str], ...] = ()
    expressions: tuple[Requirement, ...] = ()

    def matches(self, labels: Labels) -> bool:
        """Whether all that is asked for holds."""
        for key, value in self.labels:
            if labels.get(key) != value:
                return False
        return all(requirement.matches(labels) for requirement in self.expressions)


EVERYTHING = Selector()


@dataclass(frozen=True, slots=True)
class Block:
    """An ipBlock: a network and the parts of it that do not count."""

    network: IPv4Network | IPv6Network
    excepted: tuple[IPv4Network | IPv6Network, ...] = ()


@dataclass(frozen=True, slots=True)
class PodPeer:
    """Pods by selector: of the namespaces selected or, where those are None, of the policy's own."""

    pods: Selector
    namespaces: Selector | None


@dataclass(frozen=True, slots=True)
class Port:
    """A port by number or name; without one, every port of the protocol. ``end`` is inclusive."""

    protocol: Protocol
    port: int | str | None = None
    end: int | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """What one entry of ``ingress`` or ``egress`` allows: any of the peers on any of the ports; none is all."""

    peers: tuple[PodPeer | Block, ...] = ()
    ports: tuple[Port, ...] = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """A NetworkPolicy. Rules are None for a direction that it does not isolate.

    ``problems`` say why the API would refuse it: it then isolates what it selects and allows nothing.
    """

    namespace: str
    name: str
    selector: Selector
    ingress: tuple[Rule, ...] | None
    egress: tuple[Rule, ...] | None
    problems: tuple[str, ...] = ()

    @property
    def key(self) -> Key:
        """Namespace and name."""
        return self.namespace, self.name

    def rules(self, direction: Direction) -> tuple[Rule, ...] | None:
        """The rules of a direction; None where the policy does not isolate it."""
        return self.ingress if direction is Direction.INGRESS else self.egress


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace, whose labels always hold its name."""

    name: str
    labels: Labels

    @property
    def key(self) -> Key:
        """Itself, without a name in it."""
        return self.name, ""


@dataclass(frozen=True, slots=True)
class ContainerPort:
    """A named port of a pod's containers."""

    name: str
    protocol: Protocol
    number: int


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod. ``addresses`` are canonical text; ``created`` is in seconds since the epoch.

    ``unknown``: it was attached here and nobody has told its labels yet.
    """

    uid: str
    namespace: str
    name: str
    labels: Labels = field(hash=False)
    addresses: tuple[str, ...] = ()
    ports: tuple[ContainerPort, ...] = ()
    node: str = ""
    host_network: bool = False
    ended: bool = False
    unknown: bool = False
    created: float = 0.0

    @property
    def key(self) -> Key:
        """Namespace and name."""
        return self.namespace, self.name

    @property
    def counts(self) -> bool:
        """Whether its addresses are its own: not the node's, and not another pod's by now."""
        return not self.host_network and not self.ended
