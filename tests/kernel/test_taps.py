"""TAP devices, as iproute2 sees them."""

import json
from typing import Any

import pytest

from tests.namespaces import inside, ip, run
from weft.kernel.taps import create_labelled_tap, create_tap, creating_command


def made(namespace: str, **keys: Any) -> dict[str, Any]:
    inside(namespace, lambda: create_tap("tap0", **keys))
    return shown(namespace)


def shown(namespace: str) -> dict[str, Any]:
    (link,) = json.loads(ip("-j", "-d", "link", "show", "dev", "tap0", namespace=namespace))
    return {**link, **link["linkinfo"]["info_data"]}


def test_what_is_asked_for(namespace: str) -> None:
    link = made(namespace, owner=4294967294, group=0, multi_queue=True, virtio_header=True)
    assert (link["type"], link["persist"], link["multi_queue"], link["vnet_hdr"]) == ("tap", True, True, True)
    assert "UP" not in link["flags"]
    assert "user 4294967294 group root" in ip("-d", "link", "show", "tap0", namespace=namespace)


def test_what_is_usual(namespace: str) -> None:
    link = made(namespace)
    assert (link["pi"], link["multi_queue"], link["vnet_hdr"]) == (False, False, False)
    assert "user" not in link


@pytest.mark.parametrize(
    "keys", [{}, {"multi_queue": True}, {"owner": 1001, "group": 1002}, {"owner": 4294967294, "multi_queue": True}]
)
def test_ip_makes_the_same(namespace: str, keys: dict[str, Any]) -> None:
    """With an SELinux context it is ip(8) that makes the device."""
    ours = made(namespace, **keys)
    ip("link", "delete", "tap0", namespace=namespace)
    run(*creating_command("tap0", **keys), namespace=namespace)
    theirs = shown(namespace)
    for link in (ours, theirs):
        for name in ("ifindex", "address"):
            link.pop(name)
    assert ours == theirs


def test_names_that_are_taken_or_none(namespace: str) -> None:
    ip("link", "add", "tap0", "type", "bridge", namespace=namespace)
    with pytest.raises(OSError, match="Invalid argument"):
        made(namespace)
    for name in ("", "a" * 16, "a/b"):
        with pytest.raises(ValueError, match="cannot name an interface"):
            create_tap(name)
        with pytest.raises(ValueError, match="cannot name an interface"):
            create_labelled_tap(name, "context")
