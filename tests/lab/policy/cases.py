"""Kubernetes' end-to-end cases of NetworkPolicy (test/e2e/network/netpol), told anew: policies and what is denied.

A case has the pods that it speaks of, and steps: what is applied, and on which ports who cannot reach whom. All
else is allowed. ``x>ya except yb`` says that no pod of namespace x reaches y/a, but for those after ``except``, on
either end. ``{xb}`` in a policy is that pod's address, ``{xb/4}`` the block of that size around it.
"""

from dataclasses import dataclass, field

Port = tuple[str, int]
T80, T81, U80, U81, S80, S81 = (("tcp", 80), ("tcp", 81), ("udp", 80), ("udp", 81), ("sctp", 80), ("sctp", 81))


@dataclass(frozen=True)
class Step:
    """Policies in force, by name, as YAML of their spec with the namespace before it; labels that are set."""

    policies: dict[str, str]
    denied: dict[Port, list[str]]
    labels: dict[str, dict[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """``pods`` as ``xa xb ya``."""

    name: str
    pods: str
    steps: list[Step]


def one(name: str, pods: str, policies: dict[str, str], denied: dict[Port, list[str]]) -> Case:
    """A case of one step."""
    return Case(name, pods, [Step(policies, denied)])


A = "podSelector: {matchLabels: {pod: a}}"
ALL = "podSelector: {}"
IN_Y = "{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: y}}}"
NAME = "kubernetes.io/metadata.name"
DENY_IN = f"x {ALL}"
DENY_BOTH = f"x {ALL}\npolicyTypes: [Ingress, Egress]"
FROM_Y_81 = f"x {A}\ningress: [{{from: [{IN_Y}], ports: [{{port: 81}}]}}]"
NOT_X = f"{{key: {NAME}, operator: NotIn, values: [x]}}"


def allow_from(*peers: str, ports: str = "") -> str:
    """x/a is reached by these peers."""
    return f"x {A}\ningress: [{{from: [{', '.join(peers)}]{ports}}}]"


def allow_to(*peers: str) -> str:
    """x/a reaches these peers."""
    return f"x {A}\npolicyTypes: [Egress]\negress: [{{to: [{', '.join(peers)}]}}]"


POD_A = "{podSelector: {matchLabels: {pod: a}}}"
POD_B = "{podSelector: {matchLabels: {pod: b}}}"
POD_C = "{podSelector: {matchLabels: {pod: c}}}"
Y_AND_A = (
    "{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: y}}, podSelector: {matchLabels: {pod: a}}}"
)
X_AND_A = Y_AND_A.replace(": y}", ": x}")

CASES = [
    one("default deny ingress", "xa xb ya yb", {"p": DENY_IN}, {T80: ["*>x"]}),
    one("default deny all", "xa xb ya za", {"p": DENY_BOTH}, {T80: ["*>x", "x>*"]}),
    one("from pods of the namespace", "xa xb xc ya", {"p": allow_from(POD_B)}, {T80: ["*>xa except xb"]}),
    one(
        "allow ingress for one target",
        "xa xb ya",
        {"deny": DENY_IN, "allow": allow_from("{podSelector: {}, namespaceSelector: {}}")},
        {T80: ["*>xb"]},
    ),
    one("from all namespaces", "xa xb ya za", {"p": allow_from("{namespaceSelector: {}}")}, {T80: []}),
    one("from another namespace only", "xa xb ya za", {"p": allow_from(IN_Y)}, {T80: ["x>xa", "z>xa"]}),
    one(
        "pods by expression",
        "xa xb xc ya",
        {"p": allow_from("{podSelector: {matchExpressions: [{key: pod, operator: In, values: [b]}]}}")},
        {T80: ["*>xa except xb"]},
    ),
    one(
        "namespaces by expression",
        "xa xb ya za",
        {
            "p": allow_from(
                f"{{namespaceSelector: {{matchExpressions: [{{key: {NAME}, operator: In, values: [y]}}]}}}}"
            )
        },
        {T80: ["x>xa", "z>xa"]},
    ),
    one(
        "pods or namespaces",
        "xa xb xc ya",
        {"p": allow_from(f"{{namespaceSelector: {{matchExpressions: [{NOT_X}]}}}}", POD_B)},
        {T80: ["xc>xa"]},
    ),
    one(
        "pods and namespaces",
        "xa xb ya yb zb",
        {"p": allow_from(f"{{namespaceSelector: {{matchExpressions: [{NOT_X}]}}, {POD_B[1:-1]}}}")},
        {T80: ["*>xa except yb zb"]},
    ),
    one(
        "several pods and namespaces",
        "xa xb ya yb yc",
        {
            "p": allow_from(
                f"{{namespaceSelector: {{matchExpressions: [{NOT_X}]}}, "
                "podSelector: {matchExpressions: [{key: pod, operator: In, values: [b, c]}]}}"
            )
        },
        {T80: ["x>xa", "ya>xa"]},
    ),
    one("any of several pods", "xa xb xc ya", {"p": allow_from(POD_B, POD_C)}, {T80: ["*>xa except xb xc"]}),
    one("a pod in another namespace", "xa xb ya yb za", {"p": allow_from(Y_AND_A)}, {T80: ["*>xa except ya"]}),
    one("by port", "xa xb ya yb za", {"p": FROM_Y_81}, {T81: ["x>xa", "z>xa"], T80: ["*>xa"]}),
    Case(
        "stacked policies",
        "xa xb ya yb za",
        [
            Step({"one": FROM_Y_81}, {T81: ["x>xa", "z>xa"], T80: ["*>xa"]}),
            Step(
                {"one": FROM_Y_81, "two": FROM_Y_81.replace("81", "80")},
                {T81: ["x>xa", "z>xa"], T80: ["x>xa", "z>xa"]},
            ),
        ],
    ),
    one("allow all", "xa xb ya", {"p": f"x {ALL}\ningress: [{{}}]"}, {T80: [], T81: []}),
    one(
        "ingress on a named port",
        "xa xb ya",
        {"p": f"x {ALL}\ningress: [{{ports: [{{port: serve-81-tcp}}]}}]"},
        {T81: [], T80: ["*>x"]},
    ),
    one(
        "from a namespace on a named port",
        "xa xb ya za",
        {"p": allow_from(IN_Y, ports=", ports: [{port: serve-80-tcp}]")},
        {T80: ["*>xa except ya"], T81: ["*>xa"]},
    ),
    one(
        "egress on a named port",
        "xa ya",
        {"p": f"x {ALL}\npolicyTypes: [Egress]\negress: [{{ports: [{{port: serve-80-tcp}}]}}]"},
        {T80: [], T81: ["x>*"]},
    ),
    Case(
        "an updated policy",
        "xa xb ya",
        [
            Step({"p": f"x {ALL}\ningress: [{{}}]"}, {T81: []}),
            Step({"p": f"x {ALL}\ningress: []"}, {T81: ["*>x"]}),
        ],
    ),
    Case(
        "an updated namespace label",
        "xa ya za",
        [
            Step({"p": allow_from("{namespaceSelector: {matchLabels: {ns2: updated}}}")}, {T80: ["*>xa"]}),
            Step(
                {"p": allow_from("{namespaceSelector: {matchLabels: {ns2: updated}}}")},
                {T80: ["*>xa except ya"]},
                {"y": {"ns2": "updated"}},
            ),
        ],
    ),
    Case(
        "an updated label of the client",
        "xa xb ya",
        [
            Step({"p": allow_from("{podSelector: {matchLabels: {pod: b, pod2: updated}}}")}, {T80: ["*>xa"]}),
            Step(
                {"p": allow_from("{podSelector: {matchLabels: {pod: b, pod2: updated}}}")},
                {T80: ["*>xa except xb"]},
                {"xb": {"pod2": "updated"}},
            ),
        ],
    ),
    one(
        "deny from other namespaces",
        "xa xb ya za",
        {"p": f"x {ALL}\ningress: [{{from: [{{{ALL}}}]}}]"},
        {T80: ["y>x", "z>x"]},
    ),
    Case(
        "an updated label of the target",
        "xa xb ya",
        [
            Step({"p": "x podSelector: {matchLabels: {target: isolated}}"}, {T80: []}),
            Step(
                {"p": "x podSelector: {matchLabels: {target: isolated}}"},
                {T80: ["*>xa"]},
                {"xa": {"target": "isolated"}},
            ),
        ],
    ),
    one("deny egress of a pod", "xa xb ya", {"p": f"x {A}\npolicyTypes: [Egress]"}, {T80: ["xa>*"]}),
    one("deny egress of a namespace", "xa xb ya yb", {"p": f"x {ALL}\npolicyTypes: [Egress]"}, {T80: ["x>*"]}),
    one(
        "ingress and egress together",
        "xa xb xc ya",
        {
            "p": f"x {A}\npolicyTypes: [Ingress, Egress]\ningress: [{{from: [{POD_B}]}}]\n"
            "egress: [{ports: [{port: 80}]}]"
        },
        {T80: ["*>xa except xb"], T81: ["*>xa except xb", "xa>*"]},
    ),
    one(
        "denied at the client, allowed at the server",
        "xa xb ya yb",
        {
            "client": allow_to(Y_AND_A),
            "a": f"y {A}\ningress: [{{from: [{X_AND_A}]}}]",
            "b": f"y podSelector: {{matchLabels: {{pod: b}}}}\ningress: [{{from: [{X_AND_A}]}}]",
        },
        {T80: ["xa>* except ya", "*>ya except xa", "*>yb"]},
    ),
    one("egress to a server elsewhere", "xa xb ya yb", {"p": allow_to(Y_AND_A)}, {T80: ["xa>* except ya"]}),
    one(
        "any port of one protocol",
        "xa xb ya",
        {"p": f"x {A}\ningress: [{{ports: [{{protocol: TCP}}]}}]"},
        {T80: [], T81: [], U80: ["*>xa"]},
    ),
    Case(
        "allow all ingress prevails",
        "xa xb ya",
        [
            Step({"one": f"x {ALL}\ningress: [{{ports: [{{port: 80}}]}}]"}, {T81: ["*>x"], T80: []}),
            Step(
                {"one": f"x {ALL}\ningress: [{{ports: [{{port: 80}}]}}]", "two": f"x {ALL}\ningress: [{{}}]"},
                {T81: [], T80: []},
            ),
        ],
    ),
    Case(
        "allow all egress prevails",
        "xa xb ya",
        [
            Step(
                {"one": f"x {ALL}\npolicyTypes: [Egress]\negress: [{{ports: [{{port: 80}}]}}]"},
                {T81: ["x>*"], T80: []},
            ),
            Step(
                {
                    "one": f"x {ALL}\npolicyTypes: [Egress]\negress: [{{ports: [{{port: 80}}]}}]",
                    "two": f"x {ALL}\npolicyTypes: [Egress]\negress: [{{}}]",
                },
                {T81: [], T80: []},
            ),
        ],
    ),
    Case(
        "a deleted policy",
        "xa xb ya",
        [Step({"p": DENY_BOTH}, {T80: ["*>x", "x>*"]}), Step({}, {T80: []})],
    ),
    one(
        "egress to a block",
        "xa xb ya yb",
        {"p": allow_to("{ipBlock: {cidr: '{yb/32}'}}")},
        {T80: ["xa>* except yb"]},
    ),
    one(
        "egress but for a part of a block",
        "xa xb xc",
        {"p": allow_to("{ipBlock: {cidr: '{xb/4}', except: ['{xb/32}']}}")},
        {T80: ["xa>xb"]},
    ),
    Case(
        "a block that overlaps an exception",
        "xa xb xc",
        [
            Step({"p": allow_to("{ipBlock: {cidr: '{xb/4}', except: ['{xb/32}']}}")}, {T80: ["xa>xb"]}),
            Step(
                {
                    "p": allow_to("{ipBlock: {cidr: '{xb/4}', except: ['{xb/32}']}}"),
                    "q": allow_to("{ipBlock: {cidr: '{xb/32}'}}"),
                },
                {T80: []},
            ),
            Step({"p": allow_to("{ipBlock: {cidr: '{xb/32}'}}")}, {T80: ["xa>* except xb"]}),
        ],
    ),
    Case(
        "ingress and egress do not touch each other",
        "xa xb ya",
        [
            Step({"out": f"x {A}\npolicyTypes: [Egress]\negress: [{{}}]"}, {T80: []}),
            Step({"out": f"x {A}\npolicyTypes: [Egress]\negress: [{{}}]", "in": f"x {A}"}, {T80: ["*>xa"]}),
        ],
    ),
    one(
        "a rule for SCTP is none for TCP",
        "xa xb ya",
        {"deny": DENY_IN, "p": f"x {A}\ningress: [{{ports: [{{protocol: SCTP, port: 81}}]}}]"},
        {T81: ["*>x"]},
    ),
    one(
        "a policy for SCTP alone isolates",
        "xa xb ya",
        {"p": f"x {A}\ningress: [{{ports: [{{protocol: SCTP, port: 80}}]}}]"},
        {T81: ["*>xa"], S80: [], S81: ["*>xa"]},
    ),
    one(
        "a policy for UDP alone isolates",
        "xa xb ya",
        {"p": f"x {A}\ningress: [{{ports: [{{protocol: UDP, port: 81}}]}}]"},
        {T81: ["*>xa"], U81: [], U80: ["*>xa"]},
    ),
    one("a namespace by its own label", "xa xb ya za", {"p": allow_from(IN_Y)}, {T80: ["*>xa except ya"]}),
    one(
        "egress to namespaces by expression",
        "xa xb ya za",
        {
            "p": allow_to(
                f"{{namespaceSelector: {{matchExpressions: [{{key: {NAME}, operator: NotIn, values: [y]}}]}}}}"
            )
        },
        {T80: ["xa>y"]},
    ),
    *(
        case
        for protocol, p80, p81 in (("UDP", U80, U81), ("SCTP", S80, S81))
        for case in (
            one(f"{protocol}: default deny ingress", "xa xb ya yb", {"p": DENY_IN}, {p80: ["*>x"]}),
            one(
                f"{protocol}: by port",
                "xa xb ya za",
                {"p": FROM_Y_81.replace("port: 81", f"port: 81, protocol: {protocol}")},
                {p81: ["*>xa except ya"], p80: ["*>xa"]},
            ),
            one(
                f"{protocol}: a pod in another namespace",
                "xa ya yb",
                {"p": allow_from(Y_AND_A)},
                {p80: ["*>xa except ya"]},
            ),
        )
    ),
    # Not among Kubernetes' own: ranges of ports, blocks for ingress, ports by name and protocol.
    one(
        "a range of ports",
        "xa xb ya",
        {
            "p": f"x {A}\n"
            "ingress: [{ports: [{port: 79, endPort: 80}, {port: 81, endPort: 90, protocol: UDP}]}]"
        },
        {T80: [], T81: ["*>xa"], U80: ["*>xa"], U81: []},
    ),
    one(
        "ingress from a block",
        "xa xb xc ya",
        {"p": allow_from("{ipBlock: {cidr: '{xb/32}'}}")},
        {T80: ["*>xa except xb"]},
    ),
    one(
        "a named port of another protocol",
        "xa xb ya",
        {"p": f"x {A}\ningress: [{{ports: [{{port: serve-80-tcp, protocol: UDP}}]}}]"},
        {T80: ["*>xa"], U80: ["*>xa"]},
    ),
]
