"""Requests to storage, answers in the form that a client accepts: the HTTP of the server."""

import base64
import contextlib
import http.server
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import yaml

from weft.lab.api import discovery, patches, tables
from weft.lab.api.deletion import is_ending
from weft.lab.api.errors import ApiError
from weft.lab.api.kinds import Kind
from weft.lab.api.requests import Target, parse
from weft.lab.api.storage import Object, Storage

_log = logging.getLogger(__name__)

#: Seconds after which a watch without a limit of its own ends; clients begin the next one.
WATCH_LIMIT = 1800.0
#: Requests that are remembered, for tests to look at.
KEPT_REQUESTS = 10_000

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
    faults: Faults = field(default_factory=Faults)
    requests: list[tuple[str, str]] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: Serving
    timeout = 300
    # Head and body are two writes: without this the second waits for the client's acknowledgement of the first.
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._served("get", self._get)

    def do_POST(self) -> None:
        self._served("create", self._create)

    def do_PUT(self) -> None:
        self._served("update", self._update)

    def do_PATCH(self) -> None:
        self._served("patch", self._patch)

    def do_DELETE(self) -> None:
        self._served("delete", self._delete)

    def _served(self, verb: str, work: Callable[[Target], None]) -> None:
        api = self.api
        api.requests.append((self.command, self.path))
        if len(api.requests) > 2 * KEPT_REQUESTS:
            del api.requests[:KEPT_REQUESTS]
        length = int(self.headers.get("Content-Length") or 0)
        self._body = self.rfile.read(length)
        self._warnings: Sequence[str] = ()
        try:
            if api.faults.delay:
                time.sleep(api.faults.delay)
            if api.faults.refusals:
                raise api.faults.refusals.pop(0)
            if self.command == "GET" and self._about_itself():
                return
            target = parse(self.path)
            if verb == "get" and not target.name:
                verb = "watch" if target.watching else "list"
            if api.authorize is not None:
                api.authorize((self.headers.get("Authorization") or "").removeprefix("Bearer "), verb, target)
            work(target)
        except ApiError as error:
            self._answer(error.code, error.status(), retry_after=error.retry_after)
        except (ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
            told = ApiError("BadRequest", f"the request cannot be read: {type(error).__name__}: {error}")
            self._answer(told.code, told.status())

    def _about_itself(self) -> bool:
        path = urlsplit(self.path).path
        if path in ("/healthz", "/livez", "/readyz"):
            self._send(200, b"ok", "text/plain")
            return True
        page = discovery.page(path)
        if page is None:
            return False
        self._answer(200, page)
        return True

    # one object or a collection

    def _get(self, target: Target) -> None:
        if target.watching:
            self._watch(target)
        elif target.name:
            self._answer_object(target, self._storage.get(target.kind, target.namespace, target.name))
        else:
            self._list(target)

    def _list(self, target: Target) -> None:
        wanted = target.version()
        if wanted and wanted > self._storage.version:
            raise ApiError(
                "Timeout", f"Too large resource version: {wanted}, current: {self._storage.version}", retry_after=1
            )
        items, version = self._storage.list(target.selection())
        metadata: dict[str, Any] = {"resourceVersion": str(version)}
        limit = int(target.query.get("limit") or 0)
        if limit and wanted != 0:
            start, version = _continued(target.query.get("continue", ""), version, self._storage)
            metadata["resourceVersion"] = str(version)
            if start + limit < len(items):
                metadata["continue"] = base64.urlsafe_b64encode(f"{start + limit}:{version}".encode()).decode()
                metadata["remainingItemCount"] = len(items) - start - limit
            items = items[start : start + limit]
        form = self._form()
        kind = target.kind
        if form == "Table":
            self._answer(200, tables.table(kind, items, metadata["resourceVersion"]))
        elif form == "PartialObjectMetadataList":
            body = {"kind": form, "apiVersion": "meta.k8s.io/v1", "metadata": metadata}
            self._answer(200, body | {"items": [tables.partial(item) for item in items]})
        else:
            body = {"kind": f"{kind.name}List", "apiVersion": kind.api_version, "metadata": metadata}
            # The real server leaves these out of a list's items.
            for item in items:
                item.pop("kind", None)
                item.pop("apiVersion", None)
            self._answer(200, body | {"items": items})

    def _create(self, target: Target) -> None:
        if target.name:
            raise ApiError("MethodNotAllowed", "the server does not allow this method on the requested resource")
        item = self._parsed()
        self._answer_object(target, self._unless_dry(target, lambda s: self._created(s, target, item)), 201)

    def _created(self, storage: Storage, target: Target, item: Object) -> Object:
        self._warnings = self.api.admit(storage, target.kind, target.namespace, item)
        return storage.create(target.kind, target.namespace, item)

    def _update(self, target: Target) -> None:
        item = self._parsed()
        self._answer_object(target, self._unless_dry(target, lambda s: self._change(s, target, lambda old: item)))

    def _patch(self, target: Target) -> None:
        kind = (self.headers.get("Content-Type") or "").partition(";")[0]
        patch = self._parsed()

        def write(storage: Storage) -> Object:
            try:
                return self._change(storage, target, lambda old: patches.patched(kind, old, patch))
            except ApiError as error:
                if error.reason != "NotFound" or kind != patches.APPLY:
                    raise
                return self._created(storage, target, patch)

        self._answer_object(target, self._unless_dry(target, write))

    def _delete(self, target: Target) -> None:
        options = self._parsed() if self._body else {}
        asked = options.get("gracePeriodSeconds", target.query.get("gracePeriodSeconds"))
        grace = None if asked is None else int(asked)
        if target.name:
            item = self._unless_dry(
                target,
                lambda s: s.delete(
                    target.kind, target.namespace, target.name, options.get("preconditions"), grace=grace
                ),
            )
            if is_ending(item):
                self._answer_object(target, item)
                return
            details = {"name": target.name, "kind": target.kind.plural, "uid": item["metadata"]["uid"]}
            self._answer(200, {"kind": "Status", "apiVersion": "v1", "status": "Success", "details": details})
            return
        for item in self._storage.list(target.selection())[0]:
            with contextlib.suppress(ApiError):
                metadata = item["metadata"]
                self._storage.delete(target.kind, metadata.get("namespace", ""), metadata["name"], grace=grace)
        self._answer(200, {"kind": "Status", "apiVersion": "v1", "status": "Success"})

    def _change(self, storage: Storage, target: Target, edit: Callable[[Object], Object]) -> Object:
        return storage.change(
            target.kind, target.namespace, target.name, edit, status=target.subresource == "status"
        )

    def _unless_dry(self, target: Target, write: Callable[[Storage], Object]) -> Object:
        """What a write gives; with dryRun on a copy that is thrown away."""
        return write(self._storage.copy() if target.query.get("dryRun") else self._storage)

    # watches

    def _watch(self, target: Target) -> None:
        self._form()
        version = target.version()
        events = self._events(target, version)
        # A version that is forgotten is refused before the stream begins, or inside it: clients must take both.
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for kind, item in events:
                self._chunk({"type": kind, "object": item})
        except ApiError as error:
            self._chunk({"type": "ERROR", "object": error.status()})
        except _Cut:
            self.close_connection = True
            return
        self.wfile.write(b"0\r\n\r\n")

    def _events(self, target: Target, version: int | None) -> Iterator[tuple[str, Any]]:
        api, selection = self.api, target.selection()
        bookmarks = target.query.get("allowWatchBookmarks") in ("1", "true")
        limit = float(target.query.get("timeoutSeconds") or WATCH_LIMIT)
        ending, cuts = time.monotonic() + limit, api.faults.cuts
        next_bookmark = time.monotonic() + api.bookmark_interval
        if not version:
            items, version = self._storage.list(selection)
            for item in items:
                yield "ADDED", self._formed(target, item)
        for kind, item in self._storage.watch(
            selection, version, lambda: api.stopping.is_set() or time.monotonic() > ending
        ):
            if api.faults.cuts != cuts:
                raise _Cut
            if kind:
                yield kind, self._formed(target, item)
            elif bookmarks and time.monotonic() > next_bookmark:
                next_bookmark = time.monotonic() + api.bookmark_interval
                metadata = {"resourceVersion": str(self._storage.version), "creationTimestamp": None}
                empty = {"kind": target.kind.name, "apiVersion": target.kind.api_version, "metadata": metadata}
                yield "BOOKMARK", tables.partial(empty) if self._form().startswith("Partial") else empty

    def _formed(self, target: Target, item: Object) -> Any:
        form = self._form()
        if form == "Table":
            return tables.table(target.kind, [item], item["metadata"]["resourceVersion"])
        return tables.partial(item) if form.startswith("Partial") else item

    def _chunk(self, event: dict[str, Any]) -> None:
        line = json.dumps(event).encode() + b"\n"
        self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
        self.wfile.flush()

    # answers

    @property
    def _storage(self) -> Storage:
        return self.api.storage

    def _form(self) -> str:
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

    def _parsed(self) -> Any:
        kind = (self.headers.get("Content-Type") or "").partition(";")[0]
        if kind in ("application/yaml", patches.APPLY):
            return yaml.safe_load(self._body)
        if kind.endswith("json"):
            return json.loads(self._body)
        if kind == "application/vnd.kubernetes.protobuf":
            return _from_protobuf(self._body)
        raise ApiError("UnsupportedMediaType", f"the body of the request was in an unknown format: {kind}")

    def _answer_object(self, target: Target, item: Object, code: int = 200) -> None:
        self._answer(code, self._formed(target, item))

    def _answer(self, code: int, body: Any, *, retry_after: int = 0) -> None:
        self._send(code, json.dumps(body).encode(), "application/json", retry_after)

    def _send(self, code: int, body: bytes, kind: str, retry_after: int = 0) -> None:
        if self.api.faults.lost(self.command, self.path):
            self.close_connection = True
            return
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if retry_after:
            self.send_header("Retry-After", str(retry_after))
        for text in self._warnings:
            self.send_header("Warning", f'299 - "{text}"')
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # the base class's name
        _log.debug(format, *args)


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


class _Cut(Exception):
    """A watch ends in the middle, as when a server dies."""


def _continued(token: str, version: int, storage: Storage) -> tuple[int, int]:
    """Where a list goes on, and at which version it began. Raises ApiError: Expired."""
    if not token:
        return 0, version
    start, _, at = base64.urlsafe_b64decode(token).decode().partition(":")
    if int(at) < storage.forgotten:
        raise ApiError("Expired", "The provided continue parameter is too old to display a consistent list result")
    return int(start), int(at)
