"""One request and its answer over HTTP, in the form that the client accepts."""

import http.server
import json
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from weft.lab.api import patches, tables
from weft.lab.api.errors import ApiError
from weft.lab.api.kinds import Kind
from weft.lab.api.pod_access import PodAccess
from weft.lab.api.requests import Target
from weft.lab.api.storage import Object, Storage

_log = logging.getLogger(__name__)

#: Raises ApiError where the bearer of a token may not do this: token, verb, target.
Authorize = Callable[[str, str, Target], None]
#: What a client is to know of an object that it creates: kind, namespace, object. Raises ApiError to refuse it.
Admit = Callable[[Storage, Kind, str, Object], Sequence[str]]


@dataclass
class Faults:
    """What goes wrong on purpose. Set by tests while the server runs."""

    #: Seconds that every answer is late.
    delay: float = 0.0
    #: Refusals for the next requests, in order.
    refusals: list[ApiError] = field(default_factory=list)
    #: Of which requests the answer is lost: they are carried out, and the connection breaks. Method and path.
    lost: Callable[[str, str], bool] = lambda method, path: False
    #: Grows to cut every watch that is under way, in the middle of what it says.
    cuts: int = 0


@dataclass(eq=False)
class Serving:
    """What requests are served from. ``requests``: the newest; ``bookmark_interval``: seconds."""

    storage: Storage
    authorize: Authorize | None
    bookmark_interval: float
    admit: Admit = lambda storage, kind, namespace, item: ()
    pods: PodAccess | None = None
    faults: Faults = field(default_factory=Faults)
    requests: list[tuple[str, str]] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)


class Exchange(http.server.BaseHTTPRequestHandler):
    """What handlers have in common. ``body`` is what came, ``warnings`` what is told with the answer."""

    protocol_version = "HTTP/1.1"
    api: Serving
    timeout = 300
    # Head and body are two writes: without this the second waits for the client's acknowledgement of the first.
    disable_nagle_algorithm = True
    body: bytes = b""
    warnings: Sequence[str] = ()

    @property
    def storage(self) -> Storage:
        """The objects."""
        return self.api.storage

    def form(self) -> str:
        """The first form that the client accepts: empty for the objects themselves. Raises ApiError."""
        for offer in (self.headers.get("Accept") or "*/*").split(","):
            kind, *parameters = (part.strip() for part in offer.split(";"))
            if kind not in ("application/json", "application/*", "*/*"):
                continue
            wanted = dict(part.partition("=")[::2] for part in parameters)
            form = wanted.get("as", "")
            if form in ("", "Table", "PartialObjectMetadata", "PartialObjectMetadataList"):
                return form
        raise ApiError("NotAcceptable", "only the following media types are accepted: application/json")

    def parsed(self) -> Any:
        """What came, read. Raises ApiError."""
        kind = (self.headers.get("Content-Type") or "").partition(";")[0]
        if kind in ("application/yaml", patches.APPLY):
            return yaml.safe_load(self.body)
        if kind.endswith("json"):
            return json.loads(self.body)
        if kind == "application/vnd.kubernetes.protobuf":
            return _from_protobuf(self.body)
        raise ApiError("UnsupportedMediaType", f"the body of the request was in an unknown format: {kind}")

    def begin_chunks(self, kind: str) -> None:
        """Begin an answer whose length is not known."""
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def chunk(self, part: bytes) -> None:
        """Send a part of it."""
        self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        self.wfile.flush()

    def end_chunks(self) -> None:
        """End it."""
        self.wfile.write(b"0\r\n\r\n")

    def answer_object(self, target: Target, item: Object, code: int = 200) -> None:
        """Answer with an object, in the form that is accepted."""
        self.answer(code, self.formed(target, item))

    def answer(self, code: int, body: Any, *, retry_after: int = 0) -> None:
        """Answer with JSON."""
        self.send(code, json.dumps(body).encode(), "application/json", retry_after)

    def send(self, code: int, body: bytes, kind: str, retry_after: int = 0) -> None:
        """Answer with anything."""
        if self.api.faults.lost(self.command, self.path):
            self.close_connection = True
            return
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if retry_after:
            self.send_header("Retry-After", str(retry_after))
        for text in self.warnings:
            self.send_header("Warning", f'299 - "{text}"')
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # the base class's name
        _log.debug(format, *args)

    def formed(self, target: Target, item: Object) -> Any:
        """An object in the form that is accepted. Raises ApiError."""
        form = self.form()
        if form == "Table":
            return tables.table(target.kind, [item], item["metadata"]["resourceVersion"])
        return tables.partial(item) if form.startswith("Partial") else item


def _from_protobuf(body: bytes) -> Object:
    try:
        from weft.lab.api.protobuf import decoded  # noqa: PLC0415  # few clients send it
    except ModuleNotFoundError as error:
        raise ApiError(
            "UnsupportedMediaType",
            f"this client sends protobuf, and the Python package {error.name} is not installed: run 'make setup', "
            "or add '--dry-run=client -o yaml | kubectl apply -f -'",
        ) from None
    return decoded(body)
