"""The runtime with real executables: small scripts that tell how they were called, and Debian's Go plugins."""

import base64
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.namespaces import inside, ip, network_namespace, path
from weft.cni import Attachment, CniError, NetworkList, Result, Runtime

GO_PLUGINS = Path("/usr/lib/cni")

SCRIPT = """#!{python} -IS
import json, os, sys
configuration = json.load(sys.stdin)
command = os.environ["CNI_COMMAND"]
with open({log!r}, "a") as log:
    log.write(json.dumps([os.path.basename(sys.argv[0]), command, configuration, dict(os.environ)]) + "\\n")
{body}
if command == "ADD":
    previous = configuration.get("prevResult") or {{"interfaces": []}}
    previous["interfaces"] = previous.get("interfaces", []) + [{{"name": os.path.basename(sys.argv[0])}}]
    previous["cniVersion"] = configuration["cniVersion"]
    print(json.dumps(previous))
"""


class Plugins:
    """A folder of plugins that write down how they were called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "bin"
        self.folder.mkdir()
        self.log = folder / "log"
        self.runtime = Runtime([str(self.folder)], folder / "cache", timeout=5)
        self.results = folder / "cache" / "results"

    def add(self, name: str, body: str = "") -> None:
        file = self.folder / name
        file.write_text(SCRIPT.format(python=sys.executable, log=str(self.log), body=body))
        file.chmod(0o755)

    def calls(self) -> list[tuple[str, str]]:
        return [(name, command) for name, command, _, _ in self.all_calls()]

    def all_calls(self) -> list[list[Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []


@pytest.fixture
def plugins(tmp_path: Path) -> Plugins:
    made = Plugins(tmp_path)
    for name in ("one", "two"):
        made.add(name)
    return made


def network(
    *types: str, version: str = "1.0.0", name: str = "net", disable_gc: bool = False, **more: Any
) -> NetworkList:
    body = {
        "cniVersion": version,
        "name": name,
        "disableGC": disable_gc,
        "plugins": [{"type": kind, **more} for kind in types],
    }
    return NetworkList.from_json(json.dumps(body).encode())


CONTAINER = Attachment("c1", "/run/netns/c1", capability_args={"portMappings": [{"hostPort": 80}], "mac": "x"})


def test_add_runs_in_order_and_del_in_reverse_with_what_came_before(plugins: Plugins) -> None:
    both = network("one", "two", capabilities={"portMappings": True, "mac": False})
    result = plugins.runtime.add(both, CONTAINER)
    assert [item.name for item in result.interfaces] == ["one", "two"]
    plugins.runtime.check(both, CONTAINER)
    plugins.runtime.delete(both, CONTAINER)
    assert plugins.calls() == [
        ("one", "ADD"), ("two", "ADD"), ("one", "CHECK"), ("two", "CHECK"), ("two", "DEL"), ("one", "DEL"),
    ]  # fmt: skip
    (_, _, first, environment), (_, _, second, _), *_, (_, _, last, _) = plugins.all_calls()
    assert "prevResult" not in first
    assert [item["name"] for item in second["prevResult"]["interfaces"]] == ["one"]
    assert [item["name"] for item in last["prevResult"]["interfaces"]] == ["one", "two"]
    assert first["runtimeConfig"] == {"portMappings": [{"hostPort": 80}]}
    assert (first["name"], first["cniVersion"], environment["CNI_CONTAINERID"]) == ("net", "1.0.0", "c1")
    assert list(plugins.results.iterdir()) == []


def test_the_cache_has_libcnis_layout(plugins: Plugins) -> None:
    plugins.runtime.add(network("one"), Attachment("c1", "/run/netns/c1", args="A=B;C=D"))
    (file,) = plugins.results.iterdir()
    assert file.name == "net-c1-eth0"
    body = json.loads(file.read_bytes())
    assert {key: body[key] for key in ("kind", "containerId", "ifName", "networkName", "netns", "cniArgs")} == {
        "kind": "cniCacheV1",
        "containerId": "c1",
        "ifName": "eth0",
        "networkName": "net",
        "netns": "/run/netns/c1",
        "cniArgs": [["A", "B"], ["C", "D"]],
    }
    assert json.loads(base64.b64decode(body["config"]))["plugins"] == [{"type": "one"}]
    assert body["result"]["cniVersion"] == "1.0.0"


FIXTURES = Path(__file__).parent / "fixtures"
#: The network of the fixture, which libcni 1.1.2 wrote.
LISTED = FIXTURES / "net-0123abcd-eth0"


def of_libcni(plugins: Plugins) -> NetworkList:
    """Put the fixture into the cache; its network."""
    plugins.results.mkdir(parents=True)
    (plugins.results / LISTED.name).write_bytes(LISTED.read_bytes())
    return NetworkList.from_json(base64.b64decode(json.loads(LISTED.read_bytes())["config"]))


def test_what_libcni_attached_is_checked_and_deleted(plugins: Plugins) -> None:
    listed = of_libcni(plugins)
    attachment = Attachment("0123abcd", "/run/netns/c1")
    plugins.runtime.check(listed, attachment)
    plugins.runtime.delete(listed, attachment)
    assert plugins.calls() == [("one", "CHECK"), ("two", "CHECK"), ("two", "DEL"), ("one", "DEL")]
    for name, _, configuration, environment in plugins.all_calls():
        # What nobody says again is what libcni's caller said.
        assert environment["CNI_ARGS"] == "IgnoreUnknown=1;K8S_POD_NAME=web-1"
        assert configuration.get("runtimeConfig") == (
            {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}
            if name == "two"
            else None
        )
        assert configuration["prevResult"] == json.loads(LISTED.read_bytes())["result"]
    assert list(plugins.results.iterdir()) == []


def test_we_write_what_libcni_writes(plugins: Plugins) -> None:
    """But for the namespace, which libcni keeps since version 1.2, and the order of keys inside the values."""
    wanted = json.loads(LISTED.read_bytes())
    listed = of_libcni(plugins)
    (plugins.results / LISTED.name).unlink()
    plugins.results.rmdir()
    for name in ("one", "two"):
        plugins.add(name, f"if command == 'ADD': print({json.dumps(wanted['result'])!r}); sys.exit(0)")
    attachment = Attachment(
        "0123abcd", "/run/netns/c1", args="IgnoreUnknown=1;K8S_POD_NAME=web-1",
        capability_args=wanted["capabilityArgs"],
    )  # fmt: skip
    plugins.runtime.add(listed, attachment)
    (file,) = plugins.results.iterdir()
    written = json.loads(file.read_bytes())
    assert written.pop("netns") == "/run/netns/c1"
    assert (file.name, written, list(written)) == (LISTED.name, wanted, list(wanted))
    assert (file.stat().st_mode & 0o777, plugins.results.stat().st_mode & 0o777) == (0o600, 0o700)


def test_bare_results_of_old_are_understood(plugins: Plugins) -> None:
    plugins.results.mkdir(parents=True)
    result = {"cniVersion": "0.3.1", "ips": [{"version": "4", "address": "10.1.0.2/24"}], "dns": {}}
    (plugins.results / "net-c1-eth0").write_text(json.dumps(result))
    plugins.runtime.delete(network("one"), CONTAINER)
    ((_, _, configuration, _),) = plugins.all_calls()
    assert configuration["prevResult"] == {"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.2/24"}], "dns": {}}


@pytest.mark.parametrize(
    "content", ["", "{}", "[" * 5000, '{"kind": "cniCacheV1"}', '{"kind": "other"}', "[]", "7"]
)
def test_a_spoilt_cache_is_named_by_check_and_does_not_keep_anybody(plugins: Plugins, content: str) -> None:
    plugins.results.mkdir(parents=True)
    (plugins.results / "net-c1-eth0").write_text(content)
    with pytest.raises(CniError, match="net-c1-eth0") as raised:
        plugins.runtime.check(network("one"), CONTAINER)
    assert raised.value.code == 6
    plugins.runtime.delete(network("one"), CONTAINER)
    assert plugins.calls() == [("one", "DEL")]
    assert list(plugins.results.iterdir()) == []


def test_gc_deletes_what_is_not_valid_and_tells_the_plugins(plugins: Plugins) -> None:
    both = network("one", "two", version="1.1.0")
    for container in ("a", "b"):
        plugins.runtime.add(both, Attachment(container, f"/run/netns/{container}", args="X=1"))
    plugins.runtime.add(network("one", version="1.1.0", name="other"), Attachment("c", "/run/netns/c"))
    (plugins.results / "spoilt").write_text("{")
    plugins.log.unlink()
    plugins.runtime.gc(both, {("b", "eth0")})
    assert plugins.calls() == [("two", "DEL"), ("one", "DEL"), ("one", "GC"), ("two", "GC")]
    deleted, _, collected, _ = plugins.all_calls()
    assert (deleted[3]["CNI_CONTAINERID"], deleted[3]["CNI_NETNS"], deleted[3]["CNI_ARGS"]) == (
        "a",
        "/run/netns/a",
        "X=1",
    )
    for key in ("cni.dev/valid-attachments", "cni.dev/attachments"):
        assert collected[2][key] == [{"containerID": "b", "ifname": "eth0"}]
    assert sorted(file.name for file in plugins.results.iterdir()) == ["net-b-eth0", "other-c-eth0", "spoilt"]


def test_gc_before_1_1_deletes_only_and_disabled_does_nothing(plugins: Plugins) -> None:
    plugins.runtime.add(network("one"), CONTAINER)
    plugins.runtime.gc(network("one", disable_gc=True), [])
    plugins.runtime.gc(network("one"), [])
    assert plugins.calls() == [("one", "ADD"), ("one", "DEL")]


def test_gc_goes_on_after_a_failure(plugins: Plugins) -> None:
    both = network("one", "two", version="1.1.0")
    plugins.runtime.add(both, CONTAINER)
    for name in ("one", "two"):
        plugins.add(name, f'print(json.dumps({{"code": 107, "msg": "{name} fails"}})); sys.exit(1)')
    with pytest.raises(CniError) as raised:
        plugins.runtime.gc(both, [])
    assert raised.value.code == 107
    assert "failed to delete c1 eth0: plugin 'two' failed (del): two fails" in raised.value.message
    assert (
        "plugin 'one' failed (gc)" in raised.value.details and "plugin 'two' failed (gc)" in raised.value.details
    )


def test_status_ends_with_the_first_plugin_that_is_not_ready(plugins: Plugins) -> None:
    plugins.add("one", 'print(json.dumps({"code": 50, "msg": "full"})); sys.exit(1)')
    with pytest.raises(CniError, match=r"plugin 'one' failed \(status\): full") as raised:
        plugins.runtime.status(network("one", "two", version="1.1.0"))
    assert raised.value.code == 50
    assert plugins.calls() == [("one", "STATUS")]


def test_a_network_is_validated_by_what_its_plugins_answer(plugins: Plugins) -> None:
    plugins.add(
        "one", 'print(json.dumps({"cniVersion": "1.0.0", "supportedVersions": ["0.4.0", "1.0.0"]})); sys.exit()'
    )
    plugins.add("old", 'print(json.dumps({"code": 4, "msg": "unknown CNI_COMMAND: VERSION"})); sys.exit(1)')
    plugins.add("older", 'print(json.dumps({"cniVersion": "0.2.0"})); sys.exit()')
    assert plugins.runtime.validate(network("one", capabilities={"mac": True, "ips": False})) == {"mac"}
    assert plugins.runtime.versions("old") == ["0.1.0"]
    assert plugins.runtime.versions("older") == ["0.1.0", "0.2.0"]
    for bad, code in ((network("one", version="1.1.0"), 1), (network("one", "absent"), 5), (network("two"), 6)):
        with pytest.raises(CniError) as raised:
            plugins.runtime.validate(bad)
        assert raised.value.code == code


def test_a_failed_add_is_undone_and_a_second_one_is_refused(plugins: Plugins) -> None:
    plugins.add("bad", 'if command == "ADD": print(json.dumps({"code": 123, "msg": "no"})); sys.exit(1)')
    with pytest.raises(CniError, match=r"plugin 'bad' failed \(add\): no") as raised:
        plugins.runtime.add(network("one", "bad"), CONTAINER)
    assert raised.value.code == 123
    assert plugins.calls() == [("one", "ADD"), ("bad", "ADD"), ("bad", "DEL"), ("one", "DEL")]
    plugins.runtime.add(network("one"), CONTAINER)
    with pytest.raises(CniError, match="already attached"):
        plugins.runtime.add(network("one"), CONTAINER)
    assert plugins.calls()[-1] == ("one", "ADD")


def test_check_needs_a_version_an_attachment_and_leave(plugins: Plugins) -> None:
    with pytest.raises(CniError, match=r"0\.4\.0"):
        plugins.runtime.check(network("one", version="0.3.1"), CONTAINER)
    with pytest.raises(CniError, match="not attached") as raised:
        plugins.runtime.check(network("one"), CONTAINER)
    assert raised.value.code == 3
    disabled = NetworkList.from_json(
        b'{"name":"net","cniVersion":"1.0.0","disableCheck":true,"plugins":[{"type":"one"}]}'
    )
    plugins.runtime.check(disabled, CONTAINER)
    assert plugins.calls() == []


def test_del_of_the_unknown_runs_the_plugins_and_succeeds(plugins: Plugins) -> None:
    plugins.runtime.delete(network("one"), CONTAINER)
    assert plugins.calls() == [("one", "DEL")]


def test_gc_and_status_from_1_1_on(plugins: Plugins) -> None:
    plugins.runtime.gc(network("one", version="1.0.0"), [])
    plugins.runtime.status(network("one", version="1.0.0"))
    assert plugins.calls() == []
    plugins.runtime.gc(network("one", version="1.1.0"), [("c1", "eth0")])
    plugins.runtime.status(network("one", version="1.1.0"))
    (_, _, configuration, _), _ = plugins.all_calls()
    assert configuration["cni.dev/valid-attachments"] == [{"containerID": "c1", "ifname": "eth0"}]


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("import time; time.sleep(30)", 11, "no answer"),
        ("print('garbage'); sys.exit(3)", 999, "status 3"),
        ("print('garbage'); sys.exit(0)", 6, "malformed result"),
        ("sys.stderr.write('reasons'); sys.exit(1)", 999, "reasons"),
        ('print(\'{"msg": "no code"}\'); sys.exit(1)', 999, "no code"),
        ("print('[1, 2]'); sys.exit(0)", 6, "not an object"),
    ],
)
def test_plugins_that_misbehave(plugins: Plugins, body: str, code: int, said: str) -> None:
    plugins.add("bad", f'if command == "ADD":\n    {body}')
    runtime = Runtime([str(plugins.folder)], plugins.folder / "cache", timeout=1)
    with pytest.raises(CniError, match=said) as raised:
        runtime.add(network("bad"), CONTAINER)
    assert raised.value.code == code


def test_an_executable_that_is_being_written_is_waited_for(plugins: Plugins) -> None:
    writing = (plugins.folder / "one").open("ab")
    timer = threading.Timer(0.2, writing.close)
    timer.start()
    plugins.runtime.add(network("one"), CONTAINER)
    timer.join()
    assert plugins.calls() == [("one", "ADD")]


def test_missing_and_unusable_plugins_are_named(plugins: Plugins) -> None:
    (plugins.folder / "plain").write_text("not executable")
    for kind in ("absent", "plain"):
        with pytest.raises(CniError, match=kind) as raised:
            plugins.runtime.delete(network(kind), CONTAINER)
        assert raised.value.code == 5
    with pytest.raises(CniError, match="executable's name"):
        network("../bin/one")


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0"])
def test_the_go_plugins(tmp_path: Path, version: str) -> None:
    body = {
        "cniVersion": version,
        "name": "go",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni-test",
                "isDefaultGateway": True,
                "ipam": {"type": "host-local", "subnet": "10.88.0.0/24", "dataDir": str(tmp_path / "leases")},
            },
            {"type": "tuning", "mtu": 1400, "dataDir": str(tmp_path / "tuning")},
        ],
    }
    go = NetworkList.from_json(json.dumps(body).encode())
    runtime = Runtime([str(GO_PLUGINS)], tmp_path / "cache")
    with network_namespace() as host, network_namespace() as sandbox:
        attachment = Attachment("c1", str(path(sandbox)))
        result: Result = inside(host, lambda: runtime.add(go, attachment))
        assert str(result.ips[0].address) == "10.88.0.2/24"
        shown = ip("address", "show", "dev", "eth0", namespace=sandbox)
        assert "10.88.0.2/24" in shown
        assert "mtu 1400" in shown
        if version != "0.3.1":
            inside(host, lambda: runtime.check(go, attachment))
            ip("address", "flush", "dev", "eth0", namespace=sandbox)
            with pytest.raises(CniError):
                inside(host, lambda: runtime.check(go, attachment))
        inside(host, lambda: runtime.delete(go, attachment))
        inside(host, lambda: runtime.delete(go, attachment))
        assert "eth0" not in ip("link", namespace=sandbox)
    assert not [name for name in os.listdir(tmp_path / "leases" / "go") if name[0].isdigit()]  # noqa: PTH208
    assert list((tmp_path / "cache" / "results").iterdir()) == []
