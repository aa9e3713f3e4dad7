"""What a table of cases cannot tell: connections that last, nodes, services, starts anew, attaches."""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

from tests.lab.policy.cases import ALL, DENY_BOTH, POD_B, A, Step, allow_from
from tests.lab.policy.conftest import Cluster
from tests.namespaces import inside
from weft.lab import network, nodes, pods, policy_check

DENY_X = Step({"deny": f"x {ALL}"}, {})


@contextlib.contextmanager
def connected(
    cluster: Cluster, server: str, client: str, port: int
) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A TCP connection between two pods: the server's end and the client's."""
    address = cluster.lab.pod(server).ip
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(inside(cluster.namespace(server), lambda: socket.create_server(("", port))))
        near = stack.enter_context(
            inside(cluster.namespace(client), lambda: socket.create_connection((address, port), 5))
        )
        far = stack.enter_context(listener.accept()[0])
        yield far, near


def arrives(sender: socket.socket, receiver: socket.socket, patience: float) -> bool:
    """Whether a byte comes over in time."""
    receiver.settimeout(patience)
    sender.send(b"x")
    try:
        return bool(receiver.recv(64))
    except TimeoutError:
        return False


def until(what: bool, look: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Whether a look comes to be what is wanted."""
    deadline = time.monotonic() + seconds
    while look() is not what:
        if time.monotonic() > deadline:
            return False
    return True


def test_a_connection_that_is_no_longer_allowed_ends(cluster: Cluster) -> None:
    """On one node and between two; what the server sends does not bring it back to life."""
    cluster.put(Step({}, {}))
    for client in ("x-b", "x-c"):
        with connected(cluster, "x-a", client, 7001) as (far, near):
            assert arrives(near, far, 5) and arrives(far, near, 5)
            cluster.put(DENY_X)
            assert until(False, lambda: arrives(near, far, 0.3))
            assert not arrives(far, near, 0.3)
            assert not arrives(near, far, 0.3)
            cluster.put(Step({}, {}))


def test_a_connection_that_is_still_allowed_goes_on(cluster: Cluster) -> None:
    cluster.put(Step({}, {}))
    with connected(cluster, "x-a", "x-b", 7002) as (far, near):
        cluster.put(Step({"p": allow_from(POD_B)}, {}))
        # Long enough for a look through the tracked flows.
        time.sleep(0.3)
        assert arrives(near, far, 5) and arrives(far, near, 5)
        # And now x/b's egress is denied.
        cluster.put(Step({"p": allow_from(POD_B), "deny": DENY_BOTH}, {}))
        assert until(False, lambda: arrives(near, far, 0.3))


def test_replies_come_through_an_isolated_pod(cluster: Cluster) -> None:
    """Neither end may begin anything towards the other, but for one way."""
    deny = f"x {A}\npolicyTypes: [Egress]"
    cluster.put(Step({"server": deny, "client": "x podSelector: {matchLabels: {pod: b}}"}, {}))
    with connected(cluster, "x-a", "x-b", 7003) as (far, near):
        assert arrives(near, far, 5) and arrives(far, near, 5)


def test_a_node_always_reaches_its_own_pods(cluster: Cluster) -> None:
    """The kubelet's probes; another node is an address like any other."""
    cluster.put(Step({"deny": DENY_BOTH}, {}))
    x_a = cluster.lab.pod("x-a")

    def reached(node: str) -> bool:
        try:
            inside(cluster.namespace(node), lambda: socket.create_connection((x_a.ip, 80), 1).close())
        except TimeoutError:
            return False
        return True

    own, other = cluster.lab.nodes
    assert x_a.node == own.name
    assert reached(own.name)
    assert not reached(other.name)
    cluster.put(Step({"p": f"x {A}\ningress: [{{from: [{{ipBlock: {{cidr: 10.32.0.0/12}}}}]}}]"}, {}))
    assert reached(other.name)


def test_services_are_judged_by_the_pod_behind(cluster: Cluster) -> None:
    """A virtual address, translated as kube-proxy does it, to a pod of this node or of the other."""
    near, far = cluster.lab.pod("x-b"), cluster.lab.pod("x-c")
    table = (
        "table ip services {\n chain prerouting { type nat hook prerouting priority dstnat;\n"
        f"  ip daddr 192.0.2.1 tcp dport 80 dnat to {near.ip}:81\n"
        f"  ip daddr 192.0.2.2 tcp dport 80 dnat to {far.ip}:81\n"
        f"  ip daddr 192.0.2.3 tcp dport 80 dnat to {cluster.address('ya')}:81\n"
        f"  ip daddr 192.0.2.4 tcp dport 80 dnat to {cluster.address('xa')}:81\n }}\n"
        " chain postrouting { type nat hook postrouting priority srcnat;\n"
        f"  ip saddr {cluster.address('xa')} ip daddr {cluster.address('xa')} masquerade\n }}\n}}\n"
    )
    policy_check.prove(cluster.lab, [("tcp", 81)])  # every pod answers on 81
    network.run(*nodes.enter(cluster.lab, near.node), "nft", "-f", "-", stdin=table)
    try:
        egress = "policyTypes: [Egress]\negress: [{to: [{podSelector: {}}], ports: [{port: 81}]}]"
        cluster.put(Step({"p": f"x {A}\n{egress}"}, {}))
        x_a = cluster.lab.pod("x-a")

        def reached(number: int) -> bool:
            order = {"reach": [["tcp", f"192.0.2.{number}", 80]], "timeout": 1.0}
            return bool(policy_check.order(cluster.lab, x_a, order)[0])

        assert [reached(number) for number in (1, 2, 3)] == [True, True, False]
        # A pod reaches itself through its service, whatever the policies say.
        cluster.put(Step({"p": DENY_BOTH}, {}))
        assert [reached(number) for number in (1, 2, 3, 4)] == [False, False, False, True]
    finally:
        network.run(*nodes.enter(cluster.lab, near.node), "nft", "delete", "table", "ip", "services")


def test_policies_outlive_the_agent(cluster: Cluster) -> None:
    """While it is dead, while it starts, and with what changed meanwhile."""
    cluster.put(DENY_X)
    tried: list[bool] = []
    stopping = threading.Event()
    y_a, target = cluster.lab.pod("y-a"), cluster.lab.pod("x-a")

    def hammer() -> None:
        while not stopping.is_set():
            tried.extend(
                policy_check.order(cluster.lab, y_a, {"reach": [["tcp", target.ip, 80]] * 8, "timeout": 0.05})
            )

    thread = threading.Thread(target=hammer)
    thread.start()
    try:
        for _ in range(2):
            os.kill(int(agent_of(cluster, 0)), signal.SIGKILL)
            cluster.put(Step({"deny": f"x {ALL}", "more": f"y {ALL}"}, {}))
            cluster.put(DENY_X)
    finally:
        stopping.set()
        thread.join()
    assert len(tried) > 20 and not any(tried)


def agent_of(cluster: Cluster, number: int) -> str:
    """The process ID of a node's agent."""
    namespace = cluster.namespace(cluster.lab.nodes[number].name)
    listed = network.run("ip", "netns", "pids", namespace).split()
    for pid in listed:
        words = network.run("cat", f"/proc/{pid}/cmdline").split("\0")
        if words[1:4] == ["-m", "weft", "agent"] and words[0] == sys.executable:
            return pid
    raise AssertionError(listed)


def test_no_pod_is_there_before_its_policies(cluster: Cluster) -> None:
    """A new pod that policies select is tried all the while from before its ADD: nothing ever comes back."""
    cluster.put(DENY_X)
    lab = cluster.lab
    y_a = lab.pod("y-a")
    first = int(y_a.ip.rpartition(".")[2])
    head = y_a.ip.rpartition(".")[0]
    candidates = [f"{head}.{number}" for number in range(first, first + 40)]
    known = {pod.ip for pod in lab.pods}
    stopping = threading.Event()
    reached: set[str] = set()

    def hammer() -> None:
        targets = [["tcp", address, 80] for address in candidates if address not in known]
        while not stopping.is_set():
            answers = policy_check.order(lab, y_a, {"reach": targets, "timeout": 0.1})
            reached.update(str(target[1]) for target, answer in zip(targets, answers, strict=True) if answer)

    thread = threading.Thread(target=hammer)
    thread.start()
    made = []
    try:
        for number in range(3):
            new = pods.new_pod(f"x-new{number}", y_a.node, {"pod": "new"}, "x")
            lab.pods.append(new)
            lab.write()
            pods.make(lab, [new])
            made.append(new)
        time.sleep(0.3)
        assert not reached
        cluster.put(Step({}, {}))
        # Their addresses were among those that were tried.
        assert until(True, lambda: {pod.ip for pod in made} <= reached)
        assert {pod.ip for pod in made} <= set(candidates)
    finally:
        stopping.set()
        thread.join()
        for pod in made:
            pods.remove(lab, pod)
