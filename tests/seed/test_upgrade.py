"""A rolling restart of the DaemonSet: connections go on, and every attach succeeds."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from tests.agent.conversation import conversation, listening
from tests.lab.test_lab import WEFT, Lab

pytestmark = [
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl here"),
    pytest.mark.skipif(shutil.which("runc") is None, reason="there is no runc here"),
    pytest.mark.timeout(900),
    pytest.mark.xdist_group("seed"),
]

#: Adds and deletes sandboxes as a runtime does, until standard input ends; then tells what came of it.
_CHURN = """
import json, os, select, subprocess, sys, time, uuid
from pathlib import Path
from weft.cni import Attachment, CniError, Runtime, load_directory
network, runtime = load_directory(Path("/etc/cni/net.d"))[0][0], Runtime(["/opt/cni/bin"])
done, errors, longest = 0, [], 0.0
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    # Of its own each time, as with a runtime: a DEL that the next agent has still to do leaves eth0 in it.
    sandbox = subprocess.Popen(["unshare", "--net", "sleep", "600"])
    try:
        place = f"/proc/{sandbox.pid}/ns/net"
        while os.stat(place).st_ino == os.stat("/proc/self/ns/net").st_ino:
            time.sleep(0.005)
        attachment = Attachment(uuid.uuid4().hex, place)
        for verb in (runtime.add, runtime.delete):
            begun = time.monotonic()
            try:
                verb(network, attachment)
            except CniError as error:
                errors.append(f"{verb.__name__}: {error}")
            longest = max(longest, time.monotonic() - begun)
        done += 1
    finally:
        sandbox.kill()
        sandbox.wait()
print(json.dumps({"done": done, "errors": errors, "longest": longest}))
"""


class Churn:
    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def result(self) -> dict[str, Any]:
        output, _ = self._process.communicate("\n", timeout=60)
        return dict(json.loads(output))


@contextmanager
def churn(lab: Lab, node: str) -> Iterator[Churn]:
    process = subprocess.Popen(
        [*WEFT, "lab", "exec", "--lab", lab.name, node, "--", sys.executable, "-c", _CHURN],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield Churn(process)
    finally:
        if process.poll() is None:
            process.communicate("\n", timeout=60)


def weave_pods(lab: Lab) -> dict[str, Any]:
    listed = json.loads(
        lab.weft("kubectl", "get", "pods", "-n", "kube-system", "-l", "name=weave-net", "-o", "json")
    )
    return {item["metadata"]["name"]: item for item in listed["items"]}


def is_ready(item: dict[str, Any]) -> bool:
    return any(one["type"] == "Ready" and one["status"] == "True" for one in item["status"].get("conditions", ()))


def test_a_rolling_restart_breaks_no_connection_and_fails_no_attach(lab: Lab) -> None:
    before = weave_pods(lab)
    pods = {pod["node"]: pod for pod in lab.pods() if pod["name"].startswith("web-")}
    near, far = pods["controlplane"], pods["node01"]
    with ExitStack() as stack:
        churns = [stack.enter_context(churn(lab, node)) for node in ("controlplane", "node01")]
        stack.enter_context(listening(f"{lab.name}-node01-{far['name']}"))
        talk = stack.enter_context(conversation(f"{lab.name}-controlplane-{near['name']}", far["ip"]))
        talk.goes_on()
        assert "restarted" in lab.weft("kubectl", "rollout", "restart", "daemonset/weave-net", "-n", "kube-system")
        deadline = time.monotonic() + 120
        while True:
            present = weave_pods(lab)
            if len(present) == 2 and not before.keys() & present.keys() and all(map(is_ready, present.values())):
                break
            assert time.monotonic() < deadline, present
            time.sleep(0.2)
        talk.goes_on()
        for one in churns:
            result = one.result()
            assert result["errors"] == []
            assert result["done"] > 10
    assert json.loads(lab.weft("check", "-o", "json"))["good"]
