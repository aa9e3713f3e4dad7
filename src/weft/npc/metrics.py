"""What policies allowed and dropped on this node, for Prometheus."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from weft.npc.table import Table
from weft.policy.chains import chain_name
from weft.policy.compiler import Compiler
from weft.policy.objects import Direction

_KINDS = {Direction.INGRESS: "ingress", Direction.EGRESS: "egress"}

#: Asks compiler and table while nothing changes.
Inspect = Callable[[Callable[[Compiler, Table], list[Metric]]], list[Metric]]


class PolicyCollector(Collector):
    """Reads the kernel's counters whenever somebody asks."""

    def __init__(self, inspect: Inspect) -> None:
        self._inspect = inspect

    def collect(self) -> Iterator[Metric]:
        """The families. Raises NftablesError."""
        yield from self._inspect(families)


def families(compiler: Compiler, table: Table) -> list[Metric]:
    """Connections allowed by policy, packets dropped by those that isolate, and how many policies there are."""
    counters = table.counters()
    allowed = CounterMetricFamily(
        "weft_policy_allowed_connections",
        "Connections to or from pods of this node that a policy allowed.",
        labels=["namespace", "policy", "direction"],
    )
    for key in sorted(compiler.policies):
        for direction, kind in _KINDS.items():
            found = counters.get(chain_name(direction, key))
            if found is not None:
                allowed.add_metric([*key, kind], found[0])
    dropped = CounterMetricFamily(
        "weft_policy_dropped_packets",
        "Packets that none of these policies allowed.",
        labels=["policies", "direction"],
    )
    for chain, (packets, _) in sorted(counters.items()):
        if chain.startswith("deny/"):
            keys = sorted(compiler.policies_of_class(chain))
            kind = _KINDS[Direction(chain.split("/")[1])]
            dropped.add_metric([",".join("/".join(key) for key in keys), kind], packets)
    known = GaugeMetricFamily("weft_policies", "Policies that are known.", labels=["condition"])
    invalid = sum(bool(policy.problems) for policy in compiler.policies.values())
    known.add_metric(["enforced"], len(compiler.policies) - invalid)
    known.add_metric(["invalid"], invalid)
    return [allowed, dropped, known]


def serve(address: tuple[str, int], inspect: Inspect) -> Callable[[], None]:
    """Serve /metrics from a thread of its own; what is returned ends it. Raises OSError."""
    registry = CollectorRegistry()
    registry.register(PolicyCollector(inspect))
    server, thread = start_http_server(address[1], address[0], registry)

    def close() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return close
