"""What becomes of Weave Net's settings."""

import subprocess
import sys

import pytest

from weft.agent import weave_environment


def agent(name: str = "_", **environment: str) -> subprocess.CompletedProcess[str]:
    """An agent that cannot start, for its name or a setting: what it says."""
    return subprocess.run(
        [sys.executable, "-m", "weft", "agent", "--node-name", name],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": "/usr/bin:/bin", **environment},
    )


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("WEAVE_PASSWORD", "hunter2", "WEAVE_PASSWORD is set: traffic between nodes is not encrypted"),
        ("WEAVE_EXPOSE_IP", "10.32.0.9", "WEAVE_EXPOSE_IP is set: the bridge takes the first address"),
        ("NO_MASQ_LOCAL", "0", "NO_MASQ_LOCAL=0: packets to pods always keep"),
        ("IPTABLES_BACKEND", "legacy", "IPTABLES_BACKEND=legacy"),
        ("EXTRA_ARGS", "--colour=red", "No such option"),
        ("EXTRA_ARGS", "--log-level 'debug", "EXTRA_ARGS"),
        ("IPALLOC_INIT", "observer", "--ipalloc-init"),
        ("IPALLOC_RANGE", "10.32.0.0/33", "--range"),
        ("WEAVE_MTU", "many", "--mtu 'many'"),
    ],
)
def test_what_cannot_be_honoured_is_refused_in_one_line(name: str, value: str, said: str) -> None:
    done = agent("node01", **{name: value})
    assert done.returncode == 2
    assert said in done.stderr
    assert "hunter2" not in done.stderr


def test_what_has_no_effect_is_told_and_does_not_hinder() -> None:
    done = agent(KUBE_PEERS="10.0.0.1", CONN_LIMIT="200", CHECKPOINT_DISABLE="1", NO_MASQ_LOCAL="1")
    assert "KUBE_PEERS has no effect: peers come from the cluster's Node objects" in done.stderr
    assert "CONN_LIMIT has no effect" in done.stderr
    assert "CHECKPOINT" not in done.stderr
    assert "--node-name '_'" in done.stderr


def test_extra_arguments_are_options_and_the_command_line_wins() -> None:
    assert "--node-name '_'" in agent(EXTRA_ARGS="--node-name=node01 --log-level=debug").stderr


def test_nothing_set_is_nothing_said() -> None:
    assert weave_environment.refusals({"WEAVE_PASSWORD": ""}) == []
    assert weave_environment.notes({"CONN_LIMIT": ""}) == []
