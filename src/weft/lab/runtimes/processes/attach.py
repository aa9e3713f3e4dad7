"""Attaches and detaches pods from inside a node, as a container runtime does: the first network of
``/etc/cni/net.d``, executables from ``/opt/cni/bin``.

Started in the node's namespaces as ``python -m weft.lab.runtimes.processes.attach``; reads a list of jobs as
JSON on standard input, prints a line of JSON per job as it is done.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import msgspec

from weft.cni import Attachment, CapabilityArgs, CniError, ErrorCode, NetworkList, Runtime, load_directory

CONFIGURATIONS = Path("/etc/cni/net.d")
BINARIES = "/opt/cni/bin"
#: Pods that are attached at the same time.
AT_ONCE = 8


class Job(msgspec.Struct, frozen=True):
    """One pod: ``verb`` is add or del."""

    verb: str
    pod: str
    container_id: str
    netns: str
    namespace: str = "default"
    uid: str = ""
    annotations: dict[str, str] = {}


class Outcome(msgspec.Struct, frozen=True):
    """A pod's addresses, or what went wrong."""

    pod: str
    ip: str = ""
    error: str = ""
    ip6: str = ""


def perform(runtime: Runtime, network: NetworkList, job: Job) -> Outcome:
    """Do one job."""
    args = f"IgnoreUnknown=1;K8S_POD_NAMESPACE={job.namespace};K8S_POD_NAME={job.pod};K8S_POD_UID={job.uid}"
    # As containerd does, whatever the annotations are.
    told = CapabilityArgs(pod_annotations=job.annotations).to_dict()
    attachment = Attachment(job.container_id, job.netns, args=args, capability_args=told)
    try:
        if job.verb == "del":
            runtime.delete(network, attachment)
            return Outcome(job.pod)
        result = runtime.add(network, attachment)
        by_family = {item.address.version: str(item.address.ip) for item in reversed(result.ips)}
        return Outcome(job.pod, ip=by_family.get(4, ""), ip6=by_family.get(6, ""))
    except CniError as error:
        return Outcome(job.pod, error=f"{error} (code {int(error.code)})")


def first_network() -> NetworkList:
    """The network that a kubelet's runtime would take. Raises CniError."""
    networks, errors = load_directory(CONFIGURATIONS)
    if networks:
        return networks[0]
    raise errors[0] if errors else CniError(ErrorCode.INVALID_CONFIG, f"no network in {CONFIGURATIONS}")


def main() -> None:
    """Do the jobs on standard input."""
    jobs = msgspec.json.decode(sys.stdin.buffer.read(), type=list[Job])
    network, runtime = first_network(), Runtime([BINARIES])
    printing = Lock()

    def work(job: Job) -> None:
        outcome = perform(runtime, network, job)
        with printing:
            sys.stdout.buffer.write(msgspec.json.encode(outcome) + b"\n")
            sys.stdout.flush()

    with ThreadPoolExecutor(AT_ONCE) as threads:
        for done in [threads.submit(work, job) for job in jobs]:
            done.result()


if __name__ == "__main__":
    try:
        main()
    except CniError as error:
        sys.exit(str(error))
