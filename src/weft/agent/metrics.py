"""What an agent counts, for Prometheus: Weave's names where Weave had the same, ``weft_`` for the rest."""

from collections import Counter
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from weft.agent.report import ESTABLISHED, FAILED, PENDING, Report

CONTENT_TYPE = "text/plain; version=0.0.4"


def exposition(report: Report) -> bytes:
    """The report in Prometheus' text format, with what the process takes."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_Reported(report))
    return generate_latest(registry)


class _Reported(Collector):
    def __init__(self, report: Report) -> None:
        self._report = report

    def collect(self) -> Iterator[Metric]:
        report = self._report
        states = Counter(item.state for item in report.peers)
        connections = GaugeMetricFamily(
            "weave_connections", "Ways to other nodes.", labels=["state", "type", "encryption"]
        )
        for state in (ESTABLISHED, PENDING, FAILED):
            connections.add_metric([state, "vxlan", ""], states[state])
        yield connections
        in_use = sum(count.in_use for count in report.ranges)
        free = sum(count.free for count in report.ranges)
        used = GaugeMetricFamily("weave_ips", "Addresses of this node.", labels=["state"])
        used.add_metric(["local-used"], in_use)
        used.add_metric(["local-free"], free)
        yield used
        collected = CounterMetricFamily(
            "weft_attachments_collected", "Attachments that were freed without a DEL.", labels=["reason"]
        )
        for reason, count in report.collected.items():
            collected.add_metric([reason], count)
        yield collected
        total = sum(count.pods.network.num_addresses for count in report.ranges)
        lost = sum(
            len(blocks) * count.pods.block_size
            for count in report.ranges
            for owner, blocks in report.shares(count).items()
            if owner in report.unreachable
        )
        for name, help_, value in (
            ("weave_max_ips", "Addresses in the cluster's ranges.", total),
            ("weave_ipam_unreachable_count", "Addresses of nodes that give no sign of life.", lost),
            ("weave_ipam_unreachable_percentage", "The same in per cent of all.", 100 * lost / total),
            ("weft_blocks", "Blocks that this node owns.", sum(len(count.blocks) for count in report.ranges)),
            ("weft_attachments", "Interfaces that are attached on this node.", report.attachments),
            ("weft_peers", "Other nodes that are known.", len(report.peers)),
            ("weft_ready", "Whether /status says that the node is ready.", int(report.ready)),
            ("weft_store_problems", "Entries of the store that cannot be read.", len(report.problems)),
        ):
            yield GaugeMetricFamily(name, help_, value=value)
