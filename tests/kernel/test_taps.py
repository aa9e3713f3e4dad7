"""TAP devices, as iproute2 sees them."""

import json
from typing import Any

import pytest

from tests.namespaces import inside, ip
from weft.kernel.taps import create_labelled_tap, create_tap


def made(namespace: str, **keys: Any) -> dict[str, Any]:
    inside(namespace, lambda: create_tap("tap0", **keys))
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


def test_names_that_are_taken_or_none(namespace: str) -> None:
    ip("link", "add", "tap0", "type", "bridge", namespace=namespace)
    with pytest.raises(OSError, match="Invalid argument"):
        made(namespace)
    for name in ("", "a" * 16, "a/b"):
        with pytest.raises(ValueError, match="cannot name an interface"):
            create_tap(name)
        with pytest.raises(ValueError, match="cannot name an interface"):
            create_labelled_tap(name, "context")
