"""What the kernel's tests share: a namespace of their own, and netlink in it."""

import errno
from collections.abc import Iterator

import pytest

from tests.namespaces import ip, network_namespace, path
from weft.kernel.namespace import NetworkNamespace
from weft.kernel.netlink import Message, NetlinkError, RouteSocket


def make_or_skip(host: RouteSocket, message: Message) -> None:
    """Make a device, or skip the test where this kernel has no such type."""
    try:
        host.execute([message])
    except NetlinkError as error:
        if error.errno == errno.EOPNOTSUPP:
            pytest.skip(f"this kernel lacks the type of device: {error}")
        raise


@pytest.fixture
def namespace() -> Iterator[str]:
    """The name of a namespace with its loopback up, which plays the node."""
    with network_namespace() as name:
        ip("link", "set", "lo", "up", namespace=name)
        yield name


@pytest.fixture
def pod() -> Iterator[str]:
    """The name of a second namespace, which plays the pod."""
    with network_namespace() as name:
        yield name


@pytest.fixture
def host(namespace: str) -> Iterator[RouteSocket]:
    """A socket in the node's namespace."""
    with NetworkNamespace.open(path(namespace)) as opened, RouteSocket.open_in(opened) as opened_socket:
        yield opened_socket


@pytest.fixture
def inner(pod: str) -> Iterator[RouteSocket]:
    """A socket in the pod's namespace."""
    with NetworkNamespace.open(path(pod)) as opened, RouteSocket.open_in(opened) as opened_socket:
        yield opened_socket


@pytest.fixture
def pod_descriptor(pod: str) -> Iterator[int]:
    """The pod's namespace as an open descriptor."""
    with NetworkNamespace.open(path(pod)) as opened:
        yield opened.fd
