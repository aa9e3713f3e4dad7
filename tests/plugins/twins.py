"""Twin hosts: on one the reference plugins (Go) run, on the other ours, and what both leave is compared.

A host is a network namespace with its pods and a folder for the plugins' files; ``HERE`` in a configuration stands
for that folder. ``compare`` is the test: ADD, CHECK and DEL of a chain on both, results and kernel state equal
each time, once names and MACs that are random by nature are put in their order of appearance.
"""

import copy
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.namespaces import inside, ip, network_namespace, path
from weft.kernel.namespace import NetworkNamespace
from weft.plugins import calls, registry

#: Another folder serves to compare with another version of the reference.
GO_FOLDER = Path(os.environ.get("WEFT_REFERENCE", "/usr/lib/cni"))
CONTAINER = "5f3d0c9a7b1e4d2f"
#: What the reference's executables get of the tests' own environment.
_PASSED_ON = ("PATH", "DBUS_SYSTEM_BUS_ADDRESS")
Configuration = dict[str, Any]
#: Changes a snapshot of our host where we differ on purpose; its docstring says why.
Difference = Callable[[dict[str, Any]], None]


@dataclass
class Answer:
    """What a call printed, and its exit status."""

    status: int
    body: Any

    @property
    def code(self) -> int:
        """The error's code, 0 for a success."""
        return int(self.body["code"]) if self.status else 0


@dataclass
class Host:
    """One of the twins. ``go``: the reference's executables run here."""

    name: str
    folder: Path
    go: bool
    pods: dict[str, str] = field(default_factory=dict)

    @property
    def executables(self) -> Path:
        """The folder that CNI_PATH names."""
        return GO_FOLDER if self.go else self.folder / "bin"

    def call(
        self,
        command: str,
        configuration: Mapping[str, Any],
        container: str = CONTAINER,
        pod: str | None = "pod",
        ifname: str = "eth0",
        args: str = "",
        data: bytes | None = None,
    ) -> Answer:
        """Call the plugin that the configuration names; ``data`` is sent in its place where it is given."""
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": str(path(self.pods[pod])) if pod else "",
            "CNI_IFNAME": ifname,
            "CNI_ARGS": args,
            "CNI_PATH": str(self.executables),
        }
        if data is None:
            data = json.dumps(configuration).replace("HERE", str(self.folder)).encode()
        kind = str(configuration["type"])
        status, output = self._go(kind, environment, data) if self.go else self._ours(kind, environment, data)
        return Answer(status, json.loads(output) if output.strip() else None)

    def _go(self, kind: str, environment: dict[str, str], data: bytes) -> tuple[int, bytes]:
        return self.execute_plugin(GO_FOLDER / kind, environment, data)

    def execute_plugin(self, executable: Path, environment: dict[str, str], data: bytes) -> tuple[int, bytes]:
        """Exit status and output of an executable, called as a runtime does on this host."""
        done = subprocess.run(
            ["nsenter", f"--net={path(self.name)}", executable],
            input=data,
            capture_output=True,
            timeout=60,
            check=False,
            env=environment | {key: os.environ[key] for key in _PASSED_ON if key in os.environ},
        )
        return done.returncode, done.stdout

    def _ours(self, kind: str, environment: dict[str, str], data: bytes) -> tuple[int, bytes]:
        def work() -> tuple[int, bytes]:
            namespace = None
            if netns := environment["CNI_NETNS"]:
                namespace = NetworkNamespace.open(netns)
            return calls.answer(kind, environment, data, namespace, registry.find)

        return inside(self.name, work)

    def shell(self, script: str) -> str:
        """What a script prints in the host's namespace."""
        return shell(self.name, script)

    def execute(self, *command: str) -> str:
        """What a command prints in the host's namespace. Fails with its complaint."""
        done = subprocess.run(
            ["nsenter", f"--net={path(self.name)}", *command],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout


@dataclass
class Twins:
    """Two hosts that were prepared alike."""

    go: Host
    weft: Host

    def __iter__(self) -> Iterator[Host]:
        return iter((self.go, self.weft))

    def prepare(self, *commands: str) -> None:
        """Run ip(8) commands on both hosts."""
        for host in self:
            for command in commands:
                ip(*command.split(), namespace=host.name)

    def compare(
        self,
        *plugins: Configuration,
        runtime: Mapping[str, Any] | None = None,
        version: str = "1.0.0",
        args: str = "",
        ifname: str = "eth0",
        network: str = "net",
        differences: Sequence[Difference] = (),
        check: bool = True,
        reference_checks: bool = True,
        meanwhile: Callable[[Host], None] | None = None,
    ) -> Any:
        """ADD, CHECK and DEL a chain on both; everything must be equal. Our result, before normalising."""
        chain = [{"cniVersion": version, "name": network, **plugin} for plugin in plugins]
        answers = {}
        for host in self:
            answers[host.go] = add_chain(host, chain, runtime or {}, args, ifname)
        go, ours = answers[True], answers[False]
        assert go.status == 0, f"the reference refuses: {go.body}"
        assert ours.status == 0, f"ours refuses: {ours.body}"
        self.equal("ADD", differences, go.body, ours.body)
        if check and version not in ("0.1.0", "0.2.0", "0.3.0", "0.3.1"):
            for host in self if reference_checks else (self.weft,):
                for plugin in chain:
                    sent = with_runtime(plugin, runtime or {}) | {"prevResult": answers[host.go].body}
                    told = host.call("CHECK", sent, args=args, ifname=ifname)
                    assert told.status == 0, f"CHECK on {'go' if host.go else 'weft'}: {told.body}"
        if meanwhile is not None:
            for host in self:
                meanwhile(host)
        for host in self:
            delete_chain(host, chain, answers[host.go].body, runtime or {}, args, ifname)
        self.equal("DEL", differences, None, None)
        return ours.body

    def equal(self, when: str, differences: Sequence[Difference], go: Any, ours: Any) -> None:
        """Both hosts must look alike, and both must have said the same."""
        seen = [snapshot(host, result) for host, result in ((self.go, go), (self.weft, ours))]
        for difference in (*ALWAYS, *differences):
            for item in seen:
                difference(item)
        wanted, found = (normalised(item) for item in seen)
        told = list(unequal(wanted, found))
        assert not told, "\n".join((f"after {when}:", *told))

    def refuse(
        self, configuration: Configuration, args: str = "", *, code: int | None = None, **more: Any
    ) -> Answer:
        """ADD must fail on both with the same code, and change nothing on ours. Our answer."""
        before = lasting(snapshot(self.weft, None))
        sent = {"cniVersion": "1.0.0", "name": "net", **configuration}
        go, ours = (host.call("ADD", sent, args=args, **more) for host in self)
        assert go.status != 0, f"the reference takes it: {go.body}"
        assert ours.status != 0, f"ours takes it: {ours.body}"
        assert ours.code == (go.code if code is None else code), (go.body, ours.body)
        told = list(unequal(before, lasting(snapshot(self.weft, None))))
        assert not told, "\n".join((f"changed by what was refused: {ours.body}", *told))
        return ours


def add_chain(
    host: Host, chain: Sequence[Configuration], runtime: Mapping[str, Any], args: str = "", ifname: str = "eth0"
) -> Answer:
    """ADD plugins in order, each with what the one before gave."""
    answer = Answer(0, None)
    for plugin in chain:
        sent = with_runtime(plugin, runtime)
        if answer.body is not None:
            sent["prevResult"] = answer.body
        answer = host.call("ADD", sent, args=args, ifname=ifname)
        if answer.status:
            return answer
    return answer


def delete_chain(
    host: Host,
    chain: Sequence[Configuration],
    result: Any,
    runtime: Mapping[str, Any],
    args: str = "",
    ifname: str = "eth0",
    pod: str | None = "pod",
) -> None:
    """DEL plugins in reverse order; each must succeed."""
    for plugin in reversed(chain):
        sent = with_runtime(plugin, runtime)
        if result is not None:
            sent["prevResult"] = result
        answer = host.call("DEL", sent, args=args, ifname=ifname, pod=pod)
        assert answer.status == 0, f"DEL on {'go' if host.go else 'weft'}: {answer.body}"


def with_runtime(plugin: Mapping[str, Any], runtime: Mapping[str, Any]) -> Configuration:
    """What a runtime sends: the declared capabilities' arguments only."""
    declared = plugin.get("capabilities") or {}
    chosen = {key: value for key, value in runtime.items() if declared.get(key)}
    return {**plugin, "runtimeConfig": chosen} if chosen else dict(plugin)


_HOST_COMMANDS = {
    "links": "ip -j -d link",
    "addresses": "ip -j address",
    "routes4": "ip -j -d route show table all",
    "routes6": "ip -j -6 -d route show table all",
    "rules4": "ip -j rule",
    "rules6": "ip -j -6 rule",
    "neighbours": "ip -j neighbour",
    "vlans": "bridge -j vlan",
    "queues": "tc -j -d qdisc",
}
_RULES = {"iptables": "iptables-save", "ip6tables": "ip6tables-save", "nftables": "nft list ruleset"}
_SYSCTLS = (
    "net/ipv4/ip_forward net/ipv6/conf/all/forwarding net/ipv4/conf/*/arp_notify net/ipv4/conf/*/route_localnet "
    "net/ipv4/conf/*/proxy_arp net/ipv4/conf/*/rp_filter net/ipv6/conf/*/accept_ra net/ipv6/conf/*/accept_dad "
    "net/ipv6/conf/*/disable_ipv6 net/ipv6/conf/*/ndisc_notify net/ipv6/conf/*/keep_addr_on_down "
    "net/core/somaxconn"
)


def snapshot(host: Host, result: Any) -> dict[str, Any]:
    """What a host, its pods, and its files look like, and what a call printed."""
    commands = dict(_HOST_COMMANDS)
    if _touches_rules(host):
        commands |= _RULES
    seen: dict[str, Any] = {"result": copy.deepcopy(result), "host": _look(host.name, commands)}
    for pod, name in host.pods.items():
        seen[pod] = _look(name, _HOST_COMMANDS)
    seen["files"] = {
        str(file.relative_to(host.folder)): file.read_text()
        for file in sorted(host.folder.rglob("*"))
        if file.is_file() and "bin/" not in str(file)
    }
    whole: dict[str, Any] = json.loads(json.dumps(seen).replace(str(host.folder), "HERE"))
    return whole | {"_names": host.pods}


def _touches_rules(host: Host) -> bool:
    return host.execute("nft", "list", "tables") != ""


def _look(namespace: str, commands: Mapping[str, str]) -> dict[str, Any]:
    script = "\n".join(f"echo '@@{name}'; {command}" for name, command in commands.items())
    script += f"\necho '@@sysctls'; cd /proc/sys; grep -s . {_SYSCTLS}\n"
    parts: dict[str, Any] = {}
    for part in shell(namespace, script).split("@@")[1:]:
        name, _, text = part.partition("\n")
        command = commands.get(name, "")
        parts[name] = json.loads(text or "[]") if " -j" in command else _lines(text)
    devices = [item["ifname"] for item in parts["links"]]
    shown = ("filter show dev {0} parent ffff:", "filter show dev {0}", "class show dev {0}")
    script = "echo '@@{0}'; " + "; ".join(f"tc {words}" for words in shown)
    filters = "\n".join(script.format(name) for name in devices)
    parts["filters"] = {
        name: _lines(text)
        for name, _, text in (part.partition("\n") for part in _split(shell(namespace, filters)))
    }
    return parts


_COUNTER = re.compile(r"counter packets \d+ bytes \d+")


def _split(text: str) -> list[str]:
    return text.split("@@")[1:]


def _lines(text: str) -> list[str]:
    return [
        _COUNTER.sub("counter", re.sub(r"\[\d+:\d+\]", "[0:0]", line.rstrip()))
        for line in text.splitlines()
        if line.strip() and not line.startswith("#")
    ]


#: What of devices is random, counts, or is the same as something else that is compared.
_DROPPED = {
    "links": """
        ifindex stats stats64 num_tx_queues num_rx_queues gso_max_size gso_max_segs tso_max_size tso_max_segs
        gro_max_size gso_ipv4_max_size gro_ipv4_max_size link_netnsid inet6_addr_gen_mode min_mtu max_mtu
        link_index parentbus parentdev operstate max_peer_ifindex allmulti group
    """,
    "addresses": "ifindex link_index link_netnsid qdisc txqlen operstate group",
    "queues": "refcnt",
}
#: What of a bridge and its ports runs on, or is a MAC in another form.
_RUNNING = """
    hello_timer tcn_timer topology_change_timer gc_timer root_id bridge_id designated_bridge designated_port no
    topology_change topology_change_detected root_port root_path_cost message_age_timer forward_delay_timer
    hold_timer config_pending id state designated_root
"""


def normalised(seen: dict[str, Any]) -> dict[str, Any]:
    """A snapshot without what is random or runs on: indices, timers, MACs, names of the host's ends."""
    seen = copy.deepcopy(seen)
    namespaces = seen.pop("_names")
    for parts in _places(seen):
        _drop(parts)
    text = json.dumps(seen)
    for pod, name in namespaces.items():
        text = text.replace(str(path(name)), f"/{pod}").replace(name, pod)
    text = _in_order(text, r"veth[0-9a-f]{8}", "veth-{}")
    text = _in_order(text, r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}", "mac-{}")
    whole: dict[str, Any] = json.loads(re.sub(r"@if\\d+", "@", text))
    for parts in _places(whole):
        parts["sysctls"] = sorted(parts["sysctls"])
        for name in ("routes4", "routes6"):
            parts[name] = sorted(parts[name], key=lambda route: json.dumps(route, sort_keys=True))
        for name in ("links", "addresses"):
            parts[name] = sorted(parts[name], key=lambda item: str(item.get("ifname")))
    return whole


def _places(seen: dict[str, Any]) -> list[dict[str, Any]]:
    return [parts for place, parts in seen.items() if place not in ("result", "files", "_names")]


def _drop(parts: dict[str, Any]) -> None:
    for name, dropped in _DROPPED.items():
        words = dropped.split()
        parts[name] = [{key: value for key, value in item.items() if key not in words} for item in parts[name]]
    for link in parts["links"]:
        for kind in ("info_data", "info_slave_data"):
            for key in _RUNNING.split():
                link.get("linkinfo", {}).get(kind, {}).pop(key, None)
    for item in (*parts["links"], *parts["addresses"]):
        # The kernel tells a bridge of its ports' carrier a little later.
        item["flags"] = [flag for flag in item["flags"] if flag not in ("NO-CARRIER", "LOWER_UP")]
    for item in parts["addresses"]:
        item["addr_info"] = [
            {key: value for key, value in address.items() if key not in ("tentative", "protocol")}
            for address in item["addr_info"]
            if not address["local"].startswith("fe80:")
        ]
    for name in ("routes4", "routes6"):
        parts[name] = [
            {key: value for key, value in route.items() if key not in ("metrics_expires", "pref")}
            | {"flags": [flag for flag in route["flags"] if flag != "linkdown"]}
            for route in parts[name]
            if not route["dst"].startswith(("fe80:", "ff00:"))
        ]
    parts["neighbours"] = [
        {key: value for key, value in item.items() if key in ("dst", "dev", "lladdr")}
        for item in parts["neighbours"]
        if "PERMANENT" in item.get("state", ())
    ]


def lasting(seen: dict[str, Any]) -> dict[str, Any]:
    """A normalised snapshot without what even a refused ADD leaves: a lock, where to search next, a sysctl."""
    whole = normalised(seen)
    whole["files"] = {
        name: text for name, text in whole["files"].items() if "lock" not in name and "last_" not in name
    }
    for parts in _places(whole):
        parts["sysctls"] = [line for line in parts["sysctls"] if "cni0/accept_ra" not in line]
    return whole


def unequal(wanted: Any, found: Any, where: str = "") -> Iterator[str]:
    """Where two snapshots differ, a line each."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        for key in [*wanted, *(key for key in found if key not in wanted)]:
            yield from unequal(wanted.get(key, "(nothing)"), found.get(key, "(nothing)"), f"{where}/{key}")
    elif isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        for number, (one, other) in enumerate(zip(wanted, found, strict=True)):
            name = one.get("ifname", number) if isinstance(one, dict) else number
            yield from unequal(one, other, f"{where}/{name}")
    elif isinstance(wanted, list) and isinstance(found, list):
        yield f"{where}: reference only {[item for item in wanted if item not in found]}"
        yield f"{where}: ours only {[item for item in found if item not in wanted]}"
    elif wanted != found:
        yield f"{where}: reference {wanted!r}, ours {found!r}"


def _in_order(text: str, pattern: str, shape: str) -> str:
    names: dict[str, str] = {"00:00:00:00:00:00": "mac-zero", "ff:ff:ff:ff:ff:ff": "mac-all"}
    return re.sub(pattern, lambda found: names.setdefault(found[0], shape.format(len(names) - 1)), text)


def shell(namespace: str, script: str) -> str:
    """What a shell script prints in a namespace; what it complains of does not matter."""
    done = subprocess.run(
        ["nsenter", f"--net={path(namespace)}", "sh", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout


def queue_length(seen: dict[str, Any]) -> None:
    """Debian's reference (1.1.1) makes pairs with a queue of length 0; later ones, and ours, with the kernel's."""
    for link in (link for parts in _places(seen) for link in parts["links"]):
        if link.get("linkinfo", {}).get("info_kind") in ("veth", "macvlan", "bridge", "ipvlan", "vlan"):
            link.pop("txqlen", None)


def kept_addresses(seen: dict[str, Any]) -> None:
    """Later references, and ours, keep IPv6 addresses while an interface is down; Debian's does not."""
    for parts in _places(seen):
        parts["sysctls"] = [line for line in parts["sysctls"] if "keep_addr_on_down" not in line]


def as_iptables_shows_it(seen: dict[str, Any]) -> None:
    """The tables of iptables are compared as iptables-save has them, and an empty one is as good as none.

    nft shows their chains in the order in which they were made; the reference makes empty tables where it looks.
    """
    host = seen["host"]
    listing = "\n".join(host.pop("nftables", []))
    host["nftables"] = _lines(
        re.sub(r"^table ip6? (nat|filter) \{.*?^\}", "", listing, flags=re.DOTALL | re.MULTILINE)
    )
    for name in ("iptables", "ip6tables"):
        tables = "\n".join(host.pop(name, [])).split("COMMIT")
        host[name] = [line for table in tables if "\n-A " in table or " - " in table for line in _lines(table)]


ALWAYS: tuple[Difference, ...] = (queue_length, kept_addresses)


@contextmanager
def made(folder: Path, *pods: str) -> Iterator[Twins]:
    """Twins with pods of these names, removed with the block."""
    with ExitStack() as stack:
        hosts = []
        for go in (True, False):
            name = stack.enter_context(network_namespace())
            home = folder / ("go" if go else "weft")
            home.mkdir()
            host = Host(
                name, home, go, {pod: stack.enter_context(network_namespace()) for pod in pods or ("pod",)}
            )
            for each in (name, *host.pods.values()):
                # Duplicate address detection would make every look at IPv6 wait for a second.
                shell(each, "ip link set lo up; echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad")
            if not go:
                link_plugins(host.executables)
            hosts.append(host)
        yield Twins(*hosts)


def link_plugins(folder: Path, *names: str) -> None:
    """A folder in which names of plugins lead to our program, as ``weft cni install`` makes it."""
    folder.mkdir(exist_ok=True)
    program = folder / "weft-plugin"
    program.write_text("#!/bin/sh\nexit 99\n")
    program.chmod(0o755)
    for name in names or registry.BY_NAME:
        (folder / name).symlink_to(program)


def lacking(*commands: str) -> str:
    """The kernel's words where it refuses one of these ip(8) commands, run one after the other in a namespace.

    Empty where it takes them all.
    """
    done = subprocess.run(
        ["unshare", "--net", "ip", "-batch", "-"],
        input="\n".join(commands),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    if not done.returncode:
        return ""
    said, _, number = done.stderr.strip().rpartition("\nCommand failed -:")
    return f"this kernel refuses 'ip {commands[int(number) - 1]}': {said}"


needs_reference = pytest.mark.skipif(
    not GO_FOLDER.is_dir(), reason="the reference plugins are not installed (Debian: containernetworking-plugins)"
)
