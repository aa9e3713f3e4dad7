"""CNI_ARGS and capability arguments: what a runtime writes, a plugin reads."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.cni import (
    Bandwidth,
    CapabilityArgs,
    CniError,
    Invocation,
    IPRange,
    PluginConfiguration,
    PodArguments,
    PortMapping,
    RuntimeDns,
    format_arguments,
)
from weft.cni.arguments import known_arguments, parse_arguments
from weft.cni.environment import Command

words = st.text("abcXYZ019_.-/", min_size=1, max_size=8)


@given(st.text(max_size=40))
def test_any_args_are_pairs_or_code_4(text: str) -> None:
    for read in (parse_arguments, known_arguments):
        try:
            read(text)
        except CniError as error:
            assert error.code == 4


@given(st.dictionaries(words, words, max_size=4))
def test_what_is_written_is_read(pairs: dict[str, str]) -> None:
    assert parse_arguments(format_arguments(pairs)) == pairs


@pytest.mark.parametrize("pairs", [{"A": "1;B=2"}, {"A": "x=y"}, {"": "x"}])
def test_what_would_be_read_otherwise_is_refused(pairs: dict[str, str]) -> None:
    with pytest.raises(CniError) as raised:
        format_arguments(pairs)
    assert raised.value.code == 4


@pytest.mark.parametrize("text", ["A", "A=1;", ";", "=1", "A=1=2"])
def test_pairs_that_are_none(text: str) -> None:
    with pytest.raises(CniError, match="invalid pair"):
        parse_arguments(text)


@pytest.mark.parametrize("ignore", ["1", "true", "True", "TRUE"])
def test_unknown_args_are_named_unless_ignored(ignore: str) -> None:
    for text in ("IP=10.0.0.1;K8S_POD_NAME=x", "IgnoreUnknown=0;K8S_POD_NAME=x"):
        with pytest.raises(CniError, match="K8S_POD_NAME"):
            known_arguments(text, "IP")
    call = Invocation(Command.ADD, args=f"IgnoreUnknown={ignore};IP=10.0.0.1;K8S_POD_NAME=x")
    assert call.known_arguments("IP")["IP"] == "10.0.0.1"
    with pytest.raises(CniError, match="IgnoreUnknown=perhaps"):
        known_arguments("IgnoreUnknown=perhaps")


def test_a_pod_is_named_as_containerd_names_it() -> None:
    pod = PodArguments("default", "web-1", "0123", "5f3d")
    text = format_arguments(pod.to_arguments())
    assert text == (
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-1;K8S_POD_INFRA_CONTAINER_ID=0123;K8S_POD_UID=5f3d"
    )
    assert PodArguments.from_arguments(Invocation(Command.ADD, args=text).arguments) == pod
    assert PodArguments(name="x").to_arguments() == {"IgnoreUnknown": "1", "K8S_POD_NAME": "x"}


EVERY_CAPABILITY: dict[str, Any] = {
    "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "127.0.0.1"}],
    "ipRanges": [
        [{"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.3", "rangeEnd": "10.1.2.99", "gateway": "10.1.2.1"}]
    ],
    "bandwidth": {"ingressRate": 2048, "ingressBurst": 1600, "egressRate": 4096, "egressBurst": 1600},
    "dns": {"searches": ["a.example"], "servers": ["8.8.8.8"], "options": ["ndots:5"]},
    "ips": ["192.168.0.1", "fd00::1/64"],
    "mac": "c2:11:22:33:44:55",
    "infinibandGUID": "c2:11:22:33:44:55:66:77",
    "deviceID": "0000:04:00.5",
    "aliases": ["my-container"],
    "cgroupPath": "/kubelet.slice/a.slice",
}


def test_every_capability_of_the_conventions() -> None:
    typed = CapabilityArgs(
        port_mappings=(PortMapping(host_port=8080, container_port=80, protocol="tcp", host_ip="127.0.0.1"),),
        ip_ranges=(
            (IPRange(subnet="10.1.2.0/24", range_start="10.1.2.3", range_end="10.1.2.99", gateway="10.1.2.1"),),
        ),
        bandwidth=Bandwidth(ingress_rate=2048, ingress_burst=1600, egress_rate=4096, egress_burst=1600),
        dns=RuntimeDns(servers=("8.8.8.8",), searches=("a.example",), options=("ndots:5",)),
        ips=("192.168.0.1", "fd00::1/64"),
        mac="c2:11:22:33:44:55",
        infiniband_guid="c2:11:22:33:44:55:66:77",
        device_id="0000:04:00.5",
        aliases=("my-container",),
        cgroup_path="/kubelet.slice/a.slice",
    )
    sent = typed.to_dict()
    assert PluginConfiguration("1.1.0", "n", "t", {"runtimeConfig": sent}).runtime == typed
    assert CapabilityArgs.from_dict({**EVERY_CAPABILITY, "io.example.of-nobody": {}, "mac": None}) == (
        CapabilityArgs.from_dict({key: value for key, value in EVERY_CAPABILITY.items() if key != "mac"})
    )
    assert CapabilityArgs.from_dict(EVERY_CAPABILITY) == typed
    assert CapabilityArgs().to_dict() == {}


@pytest.mark.parametrize(
    ("raw", "place"),
    [
        ({"portMappings": [{"hostPort": 0, "containerPort": 80, "protocol": "tcp"}]}, "portMappings"),
        ({"portMappings": [{"hostPort": 80, "containerPort": 80}]}, "protocol"),
        ({"bandwidth": {"ingressRate": -1}}, "bandwidth.ingressRate"),
        ({"ips": "10.0.0.1"}, "ips"),
        ({"mac": 7}, "mac"),
    ],
)
def test_bad_capability_arguments_name_the_place(raw: dict[str, Any], place: str) -> None:
    with pytest.raises(CniError, match=place) as raised:
        CapabilityArgs.from_dict(raw)
    assert raised.value.code == 7
    with pytest.raises(CniError, match="runtimeConfig"):
        _ = PluginConfiguration("1.1.0", "n", "t", {"runtimeConfig": [raw]}).runtime
