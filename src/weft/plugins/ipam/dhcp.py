"""``dhcp``: addresses that a DHCP server leases, got and kept by a daemon.

The plugin asks the daemon, ours (``weft.plugins.dhcp_daemon``) or the reference's. It keeps nothing itself.
"""

import os
import threading

import msgspec

from weft.cni import CniError, ErrorCode, Result
from weft.plugins.dhcp_daemon import rpc
from weft.plugins.dhcp_daemon.gob import GobError
from weft.plugins.dhcp_daemon.keys import DEFAULT_SOCKET, DhcpIpam, DhcpSettings, parse_wishes
from weft.plugins.dhcp_daemon.results import decode_result
from weft.plugins.plugin import PluginRequest
from weft.plugins.settings import read, refused

#: Seconds for an answer: somewhat more than a daemon tries to get a lease, unless it is told otherwise.
WAIT = 220.0
_STATUS_WAIT = 2.0
#: What a daemon that has no such method says, the reference's for one.
_UNKNOWN_METHOD = "can't find"


class Dhcp:
    """``weft.plugins.Plugin`` for ``dhcp``."""

    def __init__(self, socket_path: str = DEFAULT_SOCKET, wait: float = WAIT, at_once: int = 0) -> None:
        """``socket_path`` is where the daemon of a network is that names none; ``wait`` in seconds.

        At most ``at_once`` ADDs wait for a server at the same time, 0 for any number; others fail with code 11.
        """
        self._socket_path = socket_path
        self._wait = wait
        self._places = threading.BoundedSemaphore(at_once) if at_once else None

    def add(self, request: PluginRequest) -> Result:
        """Get a lease."""
        if self._places is None:
            return self._allocate(request)
        if not self._places.acquire(blocking=False):
            raise CniError(ErrorCode.TRY_AGAIN_LATER, "too many ADDs wait for a DHCP server already")
        try:
            return self._allocate(request)
        finally:
            self._places.release()

    def delete(self, request: PluginRequest) -> None:
        """Give the lease back."""
        self._call(rpc.RELEASE, request)

    def check(self, request: PluginRequest) -> None:
        """The daemon holds the lease; one that restarted without it gets it again, as with the reference."""
        self._allocate(request)

    def gc(self, request: PluginRequest) -> None:
        """Give back what belongs to no valid attachment, where the daemon is ours."""
        try:
            self._call(rpc.COLLECT, request)
        except CniError as error:
            if _UNKNOWN_METHOD not in error.message:
                raise

    def status(self, request: PluginRequest) -> None:
        """A daemon answers."""
        path = self._daemon(_ipam(request))
        try:
            rpc.probe(path, _STATUS_WAIT)
        except (OSError, GobError) as error:
            raise CniError(ErrorCode.NOT_AVAILABLE, _unreachable(path, error)) from None

    def _allocate(self, request: PluginRequest) -> Result:
        try:
            return decode_result(self._call(rpc.ALLOCATE, request))
        except GobError as error:
            raise refused(f"error calling {rpc.ALLOCATE}: {error}") from None

    def _call(self, method: str, request: PluginRequest) -> dict[str, object]:
        """Call the daemon. Raises CniError."""
        ipam, call = _ipam(request), request.invocation
        parse_wishes(ipam, call.args)
        path = self._daemon(ipam)
        # The daemon has another working directory, perhaps.
        netns = os.path.abspath(call.netns) if call.netns else ""  # noqa: PTH100  # Path.absolute keeps "..".
        configuration = msgspec.json.encode(request.configuration.raw)
        arguments = rpc.Arguments(call.container_id, netns, call.ifname, call.args, configuration)
        namespace = None if request.namespace is None else request.namespace.fd
        try:
            return rpc.call(path, method, arguments, self._wait, namespace)
        except rpc.RpcError as error:
            raise refused(f"error calling {method}: {error}") from None
        except TimeoutError:
            raise CniError(
                ErrorCode.TRY_AGAIN_LATER, f"the DHCP daemon at {path} gave no answer in {self._wait:g} s"
            ) from None
        except (OSError, GobError) as error:
            raise refused(_unreachable(path, error)) from None

    def _daemon(self, ipam: DhcpIpam) -> str:
        return ipam.daemon_socket_path or self._socket_path


def _ipam(request: PluginRequest) -> DhcpIpam:
    ipam = read(DhcpSettings, request.configuration).ipam
    if ipam is None:
        raise refused("IPAM config missing 'ipam' key")
    return ipam


def _unreachable(path: str, error: Exception) -> str:
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"no DHCP daemon answers at {path}: {said}; start one with 'dhcp daemon', or set ipam.daemonSocketPath"
