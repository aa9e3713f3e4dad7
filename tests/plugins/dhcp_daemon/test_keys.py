"""Options by configuration, and the daemon's command line."""

from typing import Any

import pytest

from weft.cni import CniError
from weft.dhcp.options import Option
from weft.plugins.dhcp_daemon.command import main, parse_duration
from weft.plugins.dhcp_daemon.keys import DhcpIpam, Wishes, parse_wishes
from weft.plugins.settings import convert

USUAL = (3, 1, 6, 15, 119)


def wishes(args: str = "", **ipam: Any) -> Wishes:
    return parse_wishes(convert(DhcpIpam, ipam), args)


def test_requested() -> None:
    assert wishes().requested == USUAL
    assert wishes(request=[{"option": "121"}, {"option": "routers"}]).requested == (121, 3, 1, 6, 15, 119)
    assert wishes(request=[{"skipDefault": True, "option": "subnet-mask"}]).requested == (1,)
    assert wishes(request=[{"skipDefault": True}]).requested == ()
    assert wishes(request=None).requested == USUAL


def test_provided() -> None:
    assert wishes(provide=[{"option": "12", "value": "pod"}]).provided == {Option.HOST_NAME: b"pod"}
    by_name = [{"option": "host-name", "fromArg": "K8S_POD_NAME", "value": "otherwise"}]
    assert wishes("IgnoreUnknown=1;K8S_POD_NAME=web=1", provide=by_name).provided == {Option.HOST_NAME: b"web=1"}
    assert wishes("IgnoreUnknown=1", provide=by_name).provided == {Option.HOST_NAME: b"otherwise"}
    assert wishes(provide=[{"option": "12"}]).provided == {}


@pytest.mark.parametrize(
    ("args", "ipam", "named"),
    [
        ("", {"provide": [{"option": "hostname", "value": "a"}]}, "hostname"),
        ("", {"provide": [{"option": "12", "value": "a" * 256}]}, "256 bytes"),
        ("A=" + "a" * 256, {"provide": [{"option": "12", "fromArg": "A"}]}, "from A of CNI_ARGS"),
        ("", {"provide": [{"option": "53", "value": "a"}]}, "53"),
        ("", {"provide": [{"option": 12}]}, "12"),
        ("", {"request": [{"option": "256"}]}, "256"),
        ("", {"request": [{"skipDefault": "yes"}]}, "skipDefault"),
        ("", {"request": {"option": "3"}}, "request"),
        ("", {"priority": "high"}, "priority"),
    ],
)
def test_refused(args: str, ipam: dict[str, Any], named: str) -> None:
    with pytest.raises(CniError, match=named):
        wishes(args, **ipam)


@pytest.mark.parametrize(
    ("text", "seconds"), [("10s", 10), ("1m2s", 62), ("500ms", 0.5), ("1.5h", 5400), (".5s", 0.5), ("3m28s", 208)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "5 s", "-5s", "0s", "5sm", "1d"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="write it as"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["-timeout", "5"], "-timeout"),
        (["--socket", "/x"], "--socket"),
        (["extra"], "extra"),
        (["-broadcast=true", "-resendmax=1d"], "-resendmax"),
    ],
)
def test_command_lines_refused(arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert named in capsys.readouterr().err
