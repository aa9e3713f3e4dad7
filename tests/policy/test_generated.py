"""Every generated policy: the compiled table against the definition."""

from tests.policy.generated import cases
from tests.policy.test_compiler import load, passes
from weft.policy.compiler import Compiler
from weft.policy.evaluation import Evaluator
from weft.policy.oracle import Cluster, Flow, allows

PODS = [
    {
        "metadata": {"name": f"{namespace}-{name}", "namespace": namespace, "labels": {"pod": name}},
        "spec": {
            "nodeName": "one" if place % 3 else "two",
            "containers": [
                {
                    "ports": [
                        {"name": f"serve-{port}-{protocol}", "containerPort": port, "protocol": protocol.upper()}
                        for port in (80, 81)
                        for protocol in ("tcp", "udp", "sctp")
                    ]
                }
            ],
        },
        "status": {"podIP": f"10.32.0.{place + 2}"},
    }
    for place, (namespace, name) in enumerate((namespace, name) for namespace in "xyz" for name in "abc")
]
NAMESPACES = [{"metadata": {"name": name}} for name in "xyz"]
ADDRESSES = [f"10.32.0.{place + 2}" for place in range(9)]
#: x/a and everybody, y/a and everybody.
PAIRS = [
    pair
    for place in range(1, 9)
    for one in (ADDRESSES[0], ADDRESSES[3])
    for pair in ((one, ADDRESSES[place]), (ADDRESSES[place], one))
]
WAYS = [("TCP", 80), ("TCP", 81), ("UDP", 81), ("SCTP", 80), ("ICMP", None)]


def test_every_generated_policy() -> None:
    seen = set()
    for name, manifests in cases("10.32.0.0/29", "10.32.0.4/31"):
        seen.add(name)
        cluster = Cluster(PODS, NAMESPACES, manifests)
        evaluators = [Evaluator(load(Compiler(node), cluster)) for node in ("one", "two")]
        # Policies about peers are tried between the ends that they speak of and everybody, others on every port.
        by_port = " ports: " in name
        for source, destination in PAIRS[:6] if by_port else PAIRS:
            for protocol, port in WAYS if by_port else WAYS[:1]:
                flow = Flow(source, destination, protocol, port)
                assert passes(evaluators, flow) == allows(cluster, flow), (name, flow)
    assert len(seen) > 600
