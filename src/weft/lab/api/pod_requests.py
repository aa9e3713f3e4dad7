"""What a kubelet serves of its pods: logs, and commands with their streams."""

import contextlib
import select
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from weft.lab.api import logs
from weft.lab.api.errors import ApiError
from weft.lab.api.exchange import Exchange
from weft.lab.api.pod_access import PodAccess
from weft.lab.api.requests import Target
from weft.lab.api.storage import Object

#: What a lab's logs cannot be asked for.
_UNKNOWN = ("previous", "sinceSeconds", "sinceTime", "timestamps", "limitBytes")


def serve(exchange: Exchange, target: Target) -> None:
    """Answer a request for a subresource of a pod. Raises ApiError."""
    pods, container = exchange.api.pods, target.query.get("container", "")
    if pods is None:
        raise ApiError("NotFound", "the server could not find the requested resource")
    pod = exchange.storage.get(target.kind, target.namespace, target.name)
    if target.subresource == "log":
        _log(exchange, target, pod, pods.log(pod, container))
    elif target.subresource == "portforward":
        raise ApiError(
            "BadRequest",
            "a lab forwards no ports: 'weft lab exec NODE -- curl ADDRESS' asks a pod from its node, "
            "'kubectl exec POD -- curl ADDRESS' from another pod",
        )
    else:
        _run(exchange, target, pod, pods)


def _run(exchange: Exchange, target: Target, pod: Object, pods: PodAccess) -> None:
    """kubectl exec and attach."""
    try:
        from weft.lab.api import remote_command  # noqa: PLC0415  # little else needs WebSockets
    except ModuleNotFoundError as error:
        raise ApiError(
            "BadRequest",
            f"the Python package {error.name} is not installed: run 'make setup', "
            "or use 'weft lab exec POD -- COMMAND'",
        ) from None
    container = target.query.get("container", "")
    attaching = target.subresource == "attach"
    streams = remote_command.Streams.of(target.query, status=not attaching)
    if attaching:
        command = pods.own_command(pod, container, tty=streams.tty)
    else:
        words = parse_qs(urlsplit(exchange.path).query).get("command", [])
        command = pods.command(pod, container, words, tty=streams.tty)
    headers = remote_command.handshake(exchange.headers)
    exchange.send_response(101)
    for key, value in headers.items():
        exchange.send_header(key, value)
    exchange.end_headers()
    exchange.close_connection = True
    status = remote_command.run(exchange.connection, command, pods.environment(), streams)
    if attaching:
        pods.say_ended(pod, status)


def _log(exchange: Exchange, target: Target, pod: Object, path: Path) -> None:
    """kubectl logs."""
    for name in _UNKNOWN:
        if target.query.get(name, "false") != "false":
            raise ApiError("BadRequest", f"{name}: a lab's logs have no times, and nothing of earlier containers")
    tail = target.query.get("tailLines")

    def goes_on() -> bool:
        """Wait a little; whether the client and the pod are still there."""
        if exchange.api.stopping.is_set() or select.select([exchange.connection], [], [], 0.2)[0]:
            return False
        with contextlib.suppress(ApiError):
            present = exchange.storage.get(target.kind, target.namespace, target.name)
            return bool(present["metadata"]["uid"] == pod["metadata"]["uid"])
        return False

    following = goes_on if target.query.get("follow") == "true" else None
    exchange.begin_chunks("text/plain")
    for part in logs.parts(path, None if tail is None else int(tail), follow=following):
        exchange.chunk(part)
    exchange.end_chunks()
