"""Configurations, environments and errors: the specification's rules, and CniError for all else."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import weft.cni
from weft.cni import CniError, Invocation, NetworkList, PluginConfiguration, find_network, load_directory


def test_the_public_face() -> None:
    assert sorted(weft.cni.__all__) == [
        "Attachment", "Bandwidth", "Call", "CapabilityArgs", "CniError", "Command", "Dns", "ErrorCode",
        "IPConfiguration", "IPRange", "Interface", "Invocation", "NetworkList", "PluginConfiguration",
        "PodArguments", "PortMapping", "Result", "Route", "Runtime", "RuntimeDns", "delegate", "find_network",
        "find_plugin", "format_arguments", "load_directory", "plugin_main",
    ]  # fmt: skip
    assert all(hasattr(weft.cni, name) for name in weft.cni.__all__)


ENVIRONMENT = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "a-1._b",
    "CNI_NETNS": "/run/netns/a",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/a:/b",
    "CNI_ARGS": "A=1",
}


def test_an_environment() -> None:
    call = Invocation.from_environment(ENVIRONMENT)
    assert (call.container_id, call.path) == ("a-1._b", ("/a", "/b"))
    assert call.to_environment() == ENVIRONMENT


@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK"])
@pytest.mark.parametrize("variable", ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH", "CNI_NETNS"])
def test_what_is_missing_is_named(command: str, variable: str) -> None:
    environment = {**ENVIRONMENT, "CNI_COMMAND": command, variable: ""}
    if (command, variable) == ("DEL", "CNI_NETNS"):
        assert Invocation.from_environment(environment).netns == ""
        return
    with pytest.raises(CniError, match=variable) as raised:
        Invocation.from_environment(environment)
    assert raised.value.code == 4


def test_gc_and_status_need_only_a_path() -> None:
    for command in ("GC", "STATUS"):
        assert Invocation.from_environment({"CNI_COMMAND": command, "CNI_PATH": "/a"}).command == command


@given(st.dictionaries(st.sampled_from(list(ENVIRONMENT)), st.text(max_size=20)))
def test_any_environment_is_an_invocation_or_code_4(environment: dict[str, str]) -> None:
    try:
        Invocation.from_environment(environment)
    except CniError as error:
        assert error.code == 4


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(
    ["cniVersion", "cniVersions", "name", "type", "plugins", "ipam", "dns", "args", "prevResult", "runtimeConfig",
     "capabilities", "disableCheck", "cni.dev/valid-attachments"]
)  # fmt: skip


@given(st.dictionaries(keys, json_values, max_size=6) | json_values)
def test_any_json_is_a_configuration_or_a_cni_error(body: Any) -> None:
    data = json.dumps(body).encode()
    for read in (PluginConfiguration.from_json, NetworkList.from_json, CniError.from_json):
        try:
            made: Any = read(data)
            if isinstance(made, PluginConfiguration):
                assert made.previous_result is None or made.previous_result
                assert isinstance(made.valid_attachments, frozenset)
        except (CniError, ValueError) as error:
            assert isinstance(error, CniError) or read == CniError.from_json


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", 6),
        (b"[" * 100_000, 6),
        (b'{"a":' * 50_000, 6),
        (b" " * ((1 << 20) + 1), 6),
        (b"\xff\xfe", 6),
        (b'{"cniVersion": "2.0.0"}', 1),
        (b'{"cniVersion": 1}', 6),
        (b'{"name": "../x"}', 7),
    ],
)
def test_codes_of_bad_configurations(data: bytes, code: int) -> None:
    with pytest.raises(CniError) as raised:
        PluginConfiguration.from_json(data)
    assert raised.value.code == code


def write(folder: Path, name: str, body: Any) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(body if isinstance(body, str) else json.dumps(body))


def network(name: str, *types: str, **more: Any) -> dict[str, Any]:
    return {"cniVersion": "1.0.0", "name": name, "plugins": [{"type": kind} for kind in types], **more}


def test_a_folder_is_read_in_lexical_order_and_bad_files_hide_nothing(tmp_path: Path) -> None:
    write(tmp_path, "20-b.conf", {"cniVersion": "0.4.0", "name": "b", "type": "bridge"})
    write(tmp_path, "10-c.conflist", network("c", "bridge", "portmap"))
    write(tmp_path, "05-bad.json", "{")
    write(tmp_path, "30-typeless.conflist", network("d", ""))
    write(tmp_path, "00-readme.txt", "not a network")
    networks, errors = load_directory(tmp_path)
    assert [item.name for item in networks] == ["c", "b"]
    assert [str(tmp_path / name) in str(error) for name, error in zip(("05-bad.json", "30-typeless.conflist"), errors, strict=True)] == [True, True]  # noqa: E501  # fmt: skip
    assert find_network(tmp_path, "b").plugins == ({"cniVersion": "0.4.0", "name": "b", "type": "bridge"},)
    with pytest.raises(CniError, match="there are: c, b"):
        find_network(tmp_path, "z")
    with pytest.raises(CniError, match="nowhere"):
        load_directory(tmp_path / "nowhere")


def test_the_newest_common_version_is_chosen(tmp_path: Path) -> None:
    write(tmp_path, "a.conflist", network("a", "x", cniVersions=["0.4.0", "1.1.0", "9.0.0"]))
    assert find_network(tmp_path, "a").cni_version == "1.1.0"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"cniVersions": ["newest"]}, "'newest'"),
        ({"cniVersions": "1.0.0"}, "cniVersions"),
        ({"disableCheck": 1}, "disableCheck"),
        ({"disableGC": "perhaps"}, "disableGC"),
        ({"loadOnlyInlinedPlugins": []}, "loadOnlyInlinedPlugins"),
        ({"plugins": []}, "plugins"),
        ({"plugins": [{"type": "x", "capabilities": ["mac"]}]}, "capabilities"),
        ({"plugins": [{"type": "x", "capabilities": {"mac": "yes"}}]}, "capabilities"),
        ({"plugins": [{"type": "../x"}]}, "executable's name"),
    ],
)
def test_lists_that_are_refused(tmp_path: Path, more: dict[str, Any], said: str) -> None:
    write(tmp_path, "a.conflist", network("a", "x", **more))
    with pytest.raises(CniError, match=said) as raised:
        NetworkList.from_file(tmp_path / "a.conflist")
    assert raised.value.code == 7
    assert "a.conflist" in raised.value.message


def test_flags_are_taken_as_words_too(tmp_path: Path) -> None:
    write(tmp_path, "a.conflist", network("a", "x", disableCheck="True", disableGC=True))
    found = find_network(tmp_path, "a")
    assert (found.disable_check, found.disable_gc) == (True, True)
    assert found.source == (tmp_path / "a.conflist").read_bytes()


def test_a_list_is_found_before_a_single_plugin_of_the_same_name(tmp_path: Path) -> None:
    write(tmp_path, "10-a.conf", {"name": "a", "type": "single"})
    write(tmp_path, "20-a.conflist", network("a", "listed"))
    assert find_network(tmp_path, "a").plugins == ({"type": "listed"},)
    assert [item.plugins[0]["type"] for item in load_directory(tmp_path)[0]] == ["single", "listed"]


def test_all_plugins_may_be_in_the_networks_folder(tmp_path: Path) -> None:
    write(tmp_path, "a.conflist", {"cniVersion": "1.1.0", "name": "a"})
    with pytest.raises(CniError, match="no plugins"):
        NetworkList.from_file(tmp_path / "a.conflist")
    write(tmp_path, "a/10.conf", {"type": "bridge", "capabilities": {"mac": True, "ips": False}})
    (tmp_path / "a" / "20.conf").mkdir()
    assert find_network(tmp_path, "a").capabilities == {"mac"}
    write(tmp_path, "a/30.conf", {"typ": "bridge"})
    with pytest.raises(CniError, match="30.conf"):
        NetworkList.from_file(tmp_path / "a.conflist")
    write(tmp_path, "a.conflist", {"cniVersion": "1.1.0", "name": "a", "loadOnlyInlinedPlugins": True})
    with pytest.raises(CniError, match="plugins is not a list"):
        NetworkList.from_file(tmp_path / "a.conflist")


def test_plugins_in_the_networks_own_folder_follow_unless_unwanted(tmp_path: Path) -> None:
    write(tmp_path, "a.conflist", network("a", "bridge"))
    write(tmp_path, "b.conflist", network("b", "bridge", loadOnlyInlinedPlugins=True))
    for name in ("a", "b"):
        write(tmp_path, f"{name}/20.conf", {"type": "tuning"})
        write(tmp_path, f"{name}/10.conf", {"type": "portmap"})
    assert [item["type"] for item in find_network(tmp_path, "a").plugins] == ["bridge", "portmap", "tuning"]
    assert [item["type"] for item in find_network(tmp_path, "b").plugins] == ["bridge"]


def test_errors_are_written_and_read() -> None:
    error = CniError(11, "later", "why")
    assert json.loads(error.to_json("1.0.0")) == {
        "cniVersion": "1.0.0",
        "code": 11,
        "msg": "later",
        "details": "why",
    }
    again = CniError.from_json(error.to_json())
    assert (again.code, again.message, again.details) == (11, "later", "why")
