"""Values below /proc/sys, in namespaces of the test."""

import errno

import pytest

from tests.namespaces import inside, ip
from weft.kernel import sysctl

FORWARD = ("net", "ipv4", "ip_forward")


def test_a_value_is_set_where_the_thread_is(namespace: str, pod: str) -> None:
    inside(namespace, lambda: sysctl.write(FORWARD, 1))
    assert inside(namespace, lambda: sysctl.read(FORWARD)) == "1"
    assert inside(pod, lambda: sysctl.read(FORWARD)) == "0"


def test_names_with_dots(namespace: str) -> None:
    ip("link", "add", "eth0.100", "type", "bridge", namespace=namespace)
    key = ("net", "ipv4", "conf", "eth0.100", "proxy_arp")
    inside(namespace, lambda: sysctl.write(key, 1))
    assert inside(namespace, lambda: sysctl.read(key)) == "1"


def test_several_numbers(namespace: str) -> None:
    key = ("net", "ipv4", "ip_local_port_range")
    inside(namespace, lambda: sysctl.write(key, "20000 30000"))
    assert inside(namespace, lambda: sysctl.read(key)).split() == ["20000", "30000"]


def test_nothing_is_written_where_it_is_so_already(namespace: str) -> None:
    # This one cannot be written, not even by root.
    key = ("kernel", "ostype")
    sysctl.write(key, "Linux")
    with pytest.raises(OSError, match="cannot set sysctl kernel/ostype to 'Other': Permission denied"):
        sysctl.write(key, "Other")


def test_errors_name_the_key(namespace: str) -> None:
    with pytest.raises(OSError, match="cannot read sysctl net/ipv4/conf/absent/proxy_arp") as raised:
        inside(namespace, lambda: sysctl.write(("net", "ipv4", "conf", "absent", "proxy_arp"), 1))
    assert raised.value.errno == errno.ENOENT
    with pytest.raises(OSError, match="cannot set sysctl net/ipv4/ip_forward to 'maybe': Invalid argument"):
        inside(namespace, lambda: sysctl.write(FORWARD, "maybe"))


@pytest.mark.parametrize("key", ["net.ipv4.ip_forward", (), ("net", "..", "x"), ("net/ipv4",), ("net", "")])
def test_what_is_no_key_is_refused(key: tuple[str, ...] | str) -> None:
    with pytest.raises(ValueError, match="is not a sysctl key"):
        sysctl.read(key)
