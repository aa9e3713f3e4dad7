"""A node, or a cluster, that is not as an agent needs it: one clear line, and nothing broken that worked."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.agent.places import Deaf, ended, lines, page, read_only, untouched, with_database, without
from tests.agent.test_agent import address_of, eventually, links, reaches
from tests.agent.test_in_a_cluster import serve_with_rights
from tests.agent.test_takeover import kernel_state, site
from tests.namespaces import path
from tests.nodes import cluster, pod
from weft import privileges
from weft.agent.cni_configuration import CONFIG_FILE, write_configuration

RANGE = ("--range", "10.244.0.0/16")
CILIUM = {"cniVersion": "1.0.0", "name": "cilium", "plugins": [{"type": "cilium-cni"}]}


# Rights
@pytest.mark.parametrize(
    ("resource", "verb"), [("nodes", "get"), ("nodes/status", "patch"), ("leases", "create"), ("leases", "list")]
)
def test_a_node_without_a_right_waits_for_it_and_says_which(tmp_path: Path, resource: str, verb: str) -> None:
    refusal = f'cannot {verb} resource "{resource}"'
    with serve_with_rights(tmp_path, ("controlplane",), late=("node01",)) as made, pod() as a, pod() as b:
        first, late = made.nodes
        near, far = first.add("a", str(path(a))), first.add("b", str(path(b)))
        with without(made, resource, verb):
            agent, asked = late.spawn(), len(made.server.requests)
            assert eventually(lambda: refusal in page(late)[1], 30), late.log.read_text()
            assert page(late)[0] == 503
            # It asks again and again, and says so once, with the mend.
            assert eventually(lambda: len(made.server.requests) > asked + 12, 60)
            (line,) = lines(late, "WARNING")
            assert refusal in line
            assert "apply the ServiceAccount, ClusterRole and Role of the manifest" in line
            assert page(late, "/healthz") == (200, "ok\n")
            assert json.loads(page(late, "/report")[1])["ready"] is False
            assert "weave" not in links(late.namespace)
            # Who runs goes on.
            assert reaches(a, address_of(far))
            assert reaches(b, address_of(near))
        assert eventually(lambda: page(late)[0] == 200, 60), late.log.read_text()
        assert agent.poll() is None


@pytest.mark.parametrize(("resource", "verb"), [("pods", "list"), ("namespaces", "watch")])
def test_a_node_that_lacks_a_right_serves_and_is_not_ready(tmp_path: Path, resource: str, verb: str) -> None:
    refusal = f'cannot {verb} resource "{resource}"'
    with serve_with_rights(tmp_path, ("controlplane",)) as made, pod() as a:
        (node,) = made.nodes
        node.kill()
        node.log.write_text("")
        with without(made, resource, verb):
            node.spawn()
            assert eventually(lambda: refusal in page(node)[1], 30), node.log.read_text()
            assert page(node)[0] == 503
            assert reaches(node.namespace, address_of(node.add("a", str(path(a)))))
            asked = len(made.server.requests)
            assert eventually(lambda: len(made.server.requests) > asked + 2, 60)
            assert len(lines(node, refusal)) == 1
        assert eventually(lambda: page(node)[0] == 200, 120), page(node)[1]
        assert "Trouble" not in page(node)[1]


def test_a_node_whose_rights_are_taken_away_goes_on(tmp_path: Path) -> None:
    with serve_with_rights(tmp_path, ("controlplane", "node01")) as made, pod() as a, pod() as b:
        first, second = made.nodes
        assert eventually(lambda: [peer for peer in first.report()["peers"] if peer["blocks"]])
        far = second.add("b", str(path(b)))
        with without(made, "leases", "watch"):
            asked = len(made.server.requests)
            made.server.faults.cuts += 1
            refusal = 'cannot watch resource "leases"'
            assert eventually(lambda: refusal in page(first)[1], 30), first.log.read_text()
            # The streams that were cut first were back.
            back = len(lines(first, "the store is back"))
            assert eventually(lambda: len(made.server.requests) > asked + 20, 60)
            assert page(first)[0] == 503
            near = first.add("a", str(path(a)))
            assert reaches(a, address_of(far))
            assert reaches(b, address_of(near))
            assert len(lines(first, refusal)) == 1
            assert len(lines(first, "the store is back")) == back
        assert eventually(lambda: page(first)[0] == 200, 120), page(first)[1]
        assert len(lines(first, "the store is back")) == back + 1


# An API server that is away


def test_without_an_api_server_a_new_node_waits_and_says_so_once(tmp_path: Path) -> None:
    with serve_with_rights(tmp_path, ("controlplane",), late=("node01",)) as made:
        late = made.nodes[1]
        made.server.stop()
        deaf = Deaf(late.wire)
        deaf.start()
        try:
            agent = late.spawn()
            assert eventually(lambda: page(late)[0] == 503 and "the store is away" in page(late)[1], 30)
            # Those of the other node are among them.
            assert eventually(lambda: deaf.callers > 20, 60)
            (line,) = late.log.read_text().splitlines()
            assert "the store is away (API server http://172.25.1.1:6443: " in line
            assert line.endswith("; waiting for it")
            status = subprocess.run(
                [sys.executable, "-m", "weft", "status", "--run-dir", str(late.folder / "run")],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert status.returncode == 1
            assert status.stdout.startswith("not ready: the store is away: API server http://172.25.1.1:6443: ")
            assert page(late, "/healthz")[0] == 200
        finally:
            deaf.close()
        made.restart()
        assert eventually(lambda: page(late)[0] == 200, 60), late.log.read_text()
        assert agent.poll() is None
        assert len(lines(late, "the store is back")) == 1


def test_without_an_api_server_a_known_node_starts_as_it_was_and_says_so_once(tmp_path: Path) -> None:
    with serve_with_rights(tmp_path, ("controlplane",)) as made, pod() as a, pod() as b:
        (node,) = made.nodes
        near = node.add("a", str(path(a)))
        node.kill()
        made.server.stop()
        node.log.write_text("")
        node.start()
        assert reaches(b, address_of(near)) is False
        node.add("b", str(path(b)))
        assert reaches(b, address_of(near))
        # All who ask the server have been refused by now.
        said = ("the store is away", "namespaces are not told", "pods this node has", "conditions are not told")
        assert eventually(lambda: all(part in page(node)[1] for part in said), 30), page(node)[1]
        assert page(node)[0] == 200
        assert len(lines(node, "WARNING")) == 1, node.log.read_text()
        assert "going on with the blocks and peers known before" in lines(node, "WARNING")[0]
        made.restart()
        assert eventually(lambda: "Trouble" not in page(node)[1], 120), page(node)[1]


# Folders of the host


@pytest.mark.parametrize(
    ("name", "option"), [("state", "--state-dir"), ("run", "--run-dir"), ("net.d", "--cni-conf-dir")]
)
@pytest.mark.parametrize("missing", [False, True])
def test_a_folder_that_cannot_be_written_ends_the_agent_before_it_touches_anything(
    tmp_path: Path, name: str, option: str, missing: bool
) -> None:
    with cluster(tmp_path, ("worker",), *RANGE) as (node,):
        host = tmp_path / "host"
        folder = host / name / "within" if missing else host / name
        (host / name).mkdir(parents=True)
        node.options += (option, str(folder))
        node.entering = read_only(host)
        node.spawn()
        said = ended(node, 1)
        mend = f"mount it without readOnly (ro), or give another {option}"
        assert f"{folder} cannot be written (Read-only file system): {mend}" in said
        assert untouched(node)
        assert [item for item in host.rglob("*") if item != host / name] == []
        # The one that is named first is the first that would be written, so there is nothing at all.
        assert not (node.folder / "state").exists()


def test_a_configuration_that_is_there_need_not_be_written(tmp_path: Path) -> None:
    with cluster(tmp_path, ("worker",), *RANGE) as (node,):
        write_configuration(node.folder / "net.d", hairpin=True)
        before = (node.folder / "net.d" / CONFIG_FILE).read_bytes()
        node.entering = read_only(node.folder / "net.d")
        node.start()
        assert (node.folder / "net.d" / CONFIG_FILE).read_bytes() == before


def install(folder: Path, *entering: str) -> "subprocess.CompletedProcess[str]":
    command = [*entering, sys.executable, "-m", "weft", "cni", "install", "--bin-dir", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_plugins_are_installed_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    done = install(folder, *read_only(folder))
    assert (done.returncode, done.stderr) == (
        1,
        f"weft cni install: {folder} cannot be written (Read-only file system): mount it without readOnly (ro), "
        "or give another --bin-dir\n",
    )
    assert list(folder.iterdir()) == []
    # No room for the launcher, but for its beginning.
    small = f'mount -t tmpfs -o size=16k none {folder}; "$@"; status=$?; ls -A {folder}; exit $status'
    done = install(folder, "unshare", "--mount", "sh", "-c", small, "sh")
    assert (done.returncode, done.stdout) == (1, "")
    assert "No space left on device" in done.stderr
    assert done.stderr.count("\n") == 1


# Another CNI's configuration


def test_another_configuration_that_sorts_first_is_told_of_and_left_alone(tmp_path: Path) -> None:
    with cluster(tmp_path, ("worker",), *RANGE) as (node,):
        other = node.folder / "net.d" / "05-cilium.conflist"
        other.parent.mkdir()
        other.write_text(json.dumps(CILIUM))
        node.start()
        assert (other.parent / CONFIG_FILE).exists()
        said = f"{other} sorts before {CONFIG_FILE}: remove it, or rename it so that it sorts behind"
        (line,) = lines(node, "WARNING")
        assert said in line
        code, text = page(node)
        assert (code, f"Trouble: runtimes take another CNI's configuration: {said}" in text) == (200, True)
        assert node.report()["troubles"][0]["why"] == said
        other.rename(other.with_name("20-cilium.conflist"))
        assert eventually(lambda: "Trouble" not in page(node)[1])
        assert len(lines(node, f"runtimes take {CONFIG_FILE} again")) == 1
        # While it runs.
        other.write_text(json.dumps(CILIUM))
        assert eventually(lambda: said in page(node)[1])
        assert len(lines(node, said)) == 2
        assert json.loads(other.read_text()) == CILIUM


def test_the_node_has_a_condition_while_another_configuration_sorts_first(tmp_path: Path) -> None:
    with serve_with_rights(tmp_path, ("controlplane",)) as made:
        (node,) = made.nodes

        def condition() -> tuple[Any, ...]:
            listed = made.node("controlplane")["status"]["conditions"]
            found = {item["type"]: item for item in listed}.get("CNIConfigurationShadowed", {})
            return found.get("status"), found.get("reason"), found.get("message"), found.get("lastTransitionTime")

        assert eventually(lambda: condition()[:2] == ("False", "WeaveIsFirst"))
        other = node.folder / "net.d" / "05-cilium.conflist"
        other.write_text(json.dumps(CILIUM))
        assert eventually(lambda: condition()[0] == "True")
        status, reason, message, since = condition()
        assert reason == "OtherConfigurationIsFirst"
        assert message == f"{other} sorts before {CONFIG_FILE}: remove it, or rename it so that it sorts behind"
        # Another one in its place: the message changes, the condition does not.
        first = other.with_name("04-calico.conflist")
        first.write_text(json.dumps(CILIUM))
        assert eventually(lambda: str(first) in condition()[2])
        assert (condition()[0], condition()[3]) == (status, since)
        # One that was left by an agent which is gone is taken back by the next.
        node.kill()
        first.unlink()
        other.unlink()
        node.start()
        assert eventually(lambda: condition()[0] == "False")
        # The kubelet's own, and ours.
        assert {item["type"] for item in made.node("controlplane")["status"]["conditions"]} == {
            "NetworkUnavailable", "CNIConfigurationShadowed",
        }  # fmt: skip


# Weave Net's database


DATABASE = "/var/lib/weave/weave-netdata.db is Weave Net's and is not read; delete it when there is no way back"


def test_a_stale_database_does_not_hinder_a_new_node(tmp_path: Path) -> None:
    with cluster(tmp_path, ("worker",), *RANGE) as (node,), pod() as a:
        node.entering = with_database(tmp_path)
        node.start()
        assert address_of(node.add("a", str(path(a)))) == "10.244.0.2"
        assert len(lines(node, DATABASE)) == 1
        node.kill()
        node.start()
        assert len(lines(node, DATABASE)) == 1


def test_a_stale_database_does_not_hinder_a_take_over(tmp_path: Path) -> None:
    with site(tmp_path, ("10.32.0.1",)) as made:
        (node,) = made.nodes
        node.entering = with_database(tmp_path)
        node.start()
        assert node.report()["ipam"]["attachments"] == len(made.pods)
        assert len(lines(node, DATABASE)) == 1


def test_what_an_older_cluster_left_in_the_kernel_is_refused_with_a_report(tmp_path: Path) -> None:
    """There the database does not matter either: pods run in the range that is another one's."""
    with site(tmp_path, ("10.32.0.1",), "--range", "10.40.0.0/13") as made:
        (node,) = made.nodes
        node.entering = with_database(tmp_path)
        before = kernel_state(node)
        assert node.spawn().wait(60) == 1
        said = node.log.read_text()
        assert "node controlplane cannot be taken over from Weave Net; nothing was touched:" in said
        assert "mend: give the range that Weave had: IPALLOC_RANGE=10.32.0.0/12" in said
        assert kernel_state(node) == before
        assert reaches(made.pods[0].namespace, made.pods[1].address)


# Capabilities


def bits(*names: str) -> int:
    numbers = {each.name: each.number for each in (*privileges.AGENT, *privileges.POLICY, *privileges.INSTALL)}
    return sum(1 << numbers[name] for name in names)


@pytest.mark.parametrize(
    ("held", "lacking"),
    [
        (("NET_ADMIN", "NET_RAW", "SYS_ADMIN", "DAC_OVERRIDE"), []),
        (("NET_ADMIN", "NET_RAW", "SYS_ADMIN"), []),
        (("NET_ADMIN", "SYS_ADMIN"), ["NET_RAW"]),
        (("DAC_OVERRIDE", "NET_RAW"), ["NET_ADMIN", "SYS_ADMIN"]),
        ((), ["NET_ADMIN", "NET_RAW", "SYS_ADMIN"]),
    ],
)
def test_which_capabilities_an_agent_lacks(held: tuple[str, ...], lacking: list[str]) -> None:
    assert [each.name for each in privileges.missing(bits(*held), privileges.AGENT)] == lacking
    assert privileges.missing((1 << 41) - 1, privileges.AGENT) == []


@pytest.mark.parametrize(
    ("dropped", "use"),
    [
        ("net_admin", "links, addresses, routes, nftables"),
        ("net_raw", "gratuitous ARP"),
        ("sys_admin", "entering pods' network namespaces"),
    ],
)
def test_without_a_capability_that_it_needs_an_agent_says_which(tmp_path: Path, dropped: str, use: str) -> None:
    """At its start, before anything is touched, not at the first ADD."""
    with cluster(tmp_path, ("worker",), *RANGE) as (node,):
        node.entering = ("setpriv", "--bounding-set", f"-{dropped}", "--")
        node.spawn()
        name = f"CAP_{dropped.upper()}"
        assert ended(node, 1) == (
            f"weft agent: {name} is missing, for {use}: give the agent {name} (in a manifest: "
            "securityContext.capabilities.add)"
        )
        assert untouched(node)
        assert [item.name for item in node.folder.iterdir()] == ["agent.log"]


def test_pods_of_a_node_go_on_when_its_next_agent_lacks_a_capability(tmp_path: Path) -> None:
    with cluster(tmp_path, ("worker",), *RANGE) as (node,), pod() as a, pod() as b:
        node.start()
        near = node.add("a", str(path(a)))
        node.add("b", str(path(b)))
        node.kill()
        node.log.write_text("")
        node.entering = ("setpriv", "--bounding-set", "-net_raw,-net_admin", "--")
        node.spawn()
        assert "CAP_NET_ADMIN and CAP_NET_RAW are missing, for" in ended(node, 1)
        assert reaches(b, address_of(near))


def test_an_agent_needs_no_capability_but_those_of_the_table(tmp_path: Path) -> None:
    held = ",".join(f"+{each.name.lower()}" for each in privileges.AGENT if each.needed)
    with cluster(tmp_path, ("worker",), *RANGE) as (node,), pod() as a:
        # Its folders are there and are root's, as those of a host are.
        for name in ("state", "run", "net.d"):
            (node.folder / name).mkdir()
        node.entering = ("setpriv", "--bounding-set", f"-all,{held}", "--")
        node.start()
        assert reaches(node.namespace, address_of(node.add("a", str(path(a)))))
        node.delete("a", str(path(a)))
        assert eventually(lambda: node.report()["ipam"]["inUse"] == 1)


def test_a_policy_controller_says_what_it_lacks_too(tmp_path: Path) -> None:
    words = ["--node-name", "a", "--policy-dir", str(tmp_path), "--state-dir", str(tmp_path / "state")]
    done = subprocess.run(
        ["setpriv", "--bounding-set", "-net_admin", "--", sys.executable, "-m", "weft", "npc", *words,
         "--run-dir", str(tmp_path / "run")],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (
        1,
        "weft npc: CAP_NET_ADMIN is missing, for nftables, connection tracking: give the controller CAP_NET_ADMIN "
        "(in a manifest: securityContext.capabilities.add)\n",
    )
    assert not (tmp_path / "state").exists()
