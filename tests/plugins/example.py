"""Runs one example of the documentation; see ``test_documentation``.

Executed in the host's network namespace, in mount and process namespaces of its own:
``python -m tests.plugins.example HOST POD``, with what to run on standard input.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.plugins.twins import Host, add_chain, delete_chain, link_plugins, shell, with_runtime
from weft.cni.versions import at_least

_LINES = ("ip link set lo up", "echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad")


def main() -> int:
    """Prepare, ADD, CHECK, DEL; the exit status."""
    _isolate({"host": Path(sys.argv[1]), "pod": Path(sys.argv[2])})
    call: dict[str, Any] = json.load(sys.stdin)
    # The pages say "weft", as on a host where it is installed.
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    folder = Path("/run/weft-example")
    folder.mkdir()
    host = Host("host", folder, go=False, pods={"pod": "pod"})
    link_plugins(host.executables)
    for name in ("host", "pod"):
        _run("nsenter", f"--net=/run/netns/{name}", "sh", "-ec", "\n".join(_LINES))
    _run("sh", "-ec", call["script"])
    chain, runtime = call["chain"], call["runtime"]
    before = _devices("pod")
    answer = add_chain(host, chain, runtime)
    assert answer.status == 0, f"ADD: {answer.body}"
    if at_least(chain[0]["cniVersion"], "0.4.0"):
        for plugin in chain:
            told = host.call("CHECK", with_runtime(plugin, runtime) | {"prevResult": answer.body})
            assert told.status == 0, f"CHECK of {plugin['type']}: {told.body}"
    delete_chain(host, chain, answer.body, runtime)
    assert _devices("pod") == before, f"devices after DEL: {_devices('pod')}, before ADD: {before}"
    return 0


def _devices(name: str) -> list[str]:
    return sorted(item["ifname"] for item in json.loads(shell(name, "ip -j link")))


def _isolate(namespaces: dict[str, Path]) -> None:
    """Put temporary file systems over what plugins write to; what is in /etc and /var stays readable."""
    held = {name: os.open(file, os.O_RDONLY) for name, file in namespaces.items()}
    _run("mount", "--make-rprivate", "/")
    _run("mount", "-t", "tmpfs", "tmpfs", "/run")
    for lower in ("/etc", "/var"):
        upper, work = (Path(f"/run/layers{lower}/{part}") for part in ("upper", "work"))
        upper.mkdir(parents=True)
        work.mkdir()
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        _run("mount", "-t", "overlay", "overlay", "-o", options, lower)
    Path("/run/netns").mkdir()
    for name, descriptor in held.items():
        (Path("/run/netns") / name).touch()
        _run("mount", "--bind", f"/proc/{os.getpid()}/fd/{descriptor}", f"/run/netns/{name}")


def _run(*command: str) -> None:
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert done.returncode == 0, f"{command}: {done.stderr}"


if __name__ == "__main__":
    sys.exit(main())
