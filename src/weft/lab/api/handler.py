"""Requests to storage: the HTTP of the server."""

import base64
import contextlib
import http.server
import json
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import yaml

from weft.lab.api import discovery, patches, pod_requests, tables
from weft.lab.api.deletion import is_ending
from weft.lab.api.errors import ApiError
from weft.lab.api.exchange import Exchange
from weft.lab.api.pod_access import SUBRESOURCES
from weft.lab.api.requests import Target, parse
from weft.lab.api.storage import Object, Storage

_log = logging.getLogger(__name__)

#: Seconds after which a watch without a limit of its own ends; clients begin the next one.
WATCH_LIMIT = 1800.0
#: Requests that are remembered, for tests to look at.
KEPT_REQUESTS = 10_000


class Handler(Exchange, http.server.BaseHTTPRequestHandler):
    """Requests for objects; those for what a kubelet serves of pods are passed on."""

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
        self.body = self.rfile.read(length)
        self.warnings = ()
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
            self.answer(error.code, error.status(), retry_after=error.retry_after)
        except (ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
            told = ApiError("BadRequest", f"the request cannot be read: {type(error).__name__}: {error}")
            self.answer(told.code, told.status())

    def _about_itself(self) -> bool:
        path = urlsplit(self.path).path
        if path in ("/healthz", "/livez", "/readyz"):
            self.send(200, b"ok", "text/plain")
            return True
        page = discovery.page(path)
        if page is None:
            return False
        self.answer(200, page)
        return True

    # one object or a collection

    def _get(self, target: Target) -> None:
        if target.subresource in SUBRESOURCES:
            pod_requests.serve(self, target)
        elif target.watching:
            self._watch(target)
        elif target.name:
            self.answer_object(target, self.storage.get(target.kind, target.namespace, target.name))
        else:
            self._list(target)

    def _list(self, target: Target) -> None:
        wanted = target.version()
        if wanted and wanted > self.storage.version:
            raise ApiError(
                "Timeout", f"Too large resource version: {wanted}, current: {self.storage.version}", retry_after=1
            )
        items, version = self.storage.list(target.selection())
        metadata: dict[str, Any] = {"resourceVersion": str(version)}
        limit = int(target.query.get("limit") or 0)
        if limit and wanted != 0:
            start, version = _continued(target.query.get("continue", ""), version, self.storage)
            metadata["resourceVersion"] = str(version)
            if start + limit < len(items):
                metadata["continue"] = base64.urlsafe_b64encode(f"{start + limit}:{version}".encode()).decode()
                metadata["remainingItemCount"] = len(items) - start - limit
            items = items[start : start + limit]
        form = self.form()
        kind = target.kind
        if form == "Table":
            self.answer(200, tables.table(kind, items, metadata["resourceVersion"]))
        elif form == "PartialObjectMetadataList":
            body = {"kind": form, "apiVersion": "meta.k8s.io/v1", "metadata": metadata}
            self.answer(200, body | {"items": [tables.partial(item) for item in items]})
        else:
            body = {"kind": f"{kind.name}List", "apiVersion": kind.api_version, "metadata": metadata}
            # The real server leaves these out of a list's items.
            for item in items:
                item.pop("kind", None)
                item.pop("apiVersion", None)
            self.answer(200, body | {"items": items})

    def _create(self, target: Target) -> None:
        if target.subresource in SUBRESOURCES:
            pod_requests.serve(self, target)
            return
        if target.name:
            raise ApiError("MethodNotAllowed", "the server does not allow this method on the requested resource")
        item = self.parsed()
        self.answer_object(target, self._unless_dry(target, lambda s: self._created(s, target, item)), 201)

    def _created(self, storage: Storage, target: Target, item: Object) -> Object:
        self.warnings = self.api.admit(storage, target.kind, target.namespace, item)
        return storage.create(target.kind, target.namespace, item)

    def _update(self, target: Target) -> None:
        item = self.parsed()
        self.answer_object(target, self._unless_dry(target, lambda s: self._change(s, target, lambda old: item)))

    def _patch(self, target: Target) -> None:
        kind = (self.headers.get("Content-Type") or "").partition(";")[0]
        patch = self.parsed()

        def write(storage: Storage) -> Object:
            try:
                return self._change(storage, target, lambda old: patches.patched(kind, old, patch))
            except ApiError as error:
                if error.reason != "NotFound" or kind != patches.APPLY:
                    raise
                return self._created(storage, target, patch)

        self.answer_object(target, self._unless_dry(target, write))

    def _delete(self, target: Target) -> None:
        options = self.parsed() if self.body else {}
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
                self.answer_object(target, item)
                return
            details = {"name": target.name, "kind": target.kind.plural, "uid": item["metadata"]["uid"]}
            self.answer(200, {"kind": "Status", "apiVersion": "v1", "status": "Success", "details": details})
            return
        for item in self.storage.list(target.selection())[0]:
            with contextlib.suppress(ApiError):
                metadata = item["metadata"]
                self.storage.delete(target.kind, metadata.get("namespace", ""), metadata["name"], grace=grace)
        self.answer(200, {"kind": "Status", "apiVersion": "v1", "status": "Success"})

    def _change(self, storage: Storage, target: Target, edit: Callable[[Object], Object]) -> Object:
        return storage.change(
            target.kind, target.namespace, target.name, edit, status=target.subresource == "status"
        )

    def _unless_dry(self, target: Target, write: Callable[[Storage], Object]) -> Object:
        """What a write gives; with dryRun on a copy that is thrown away."""
        return write(self.storage.copy() if target.query.get("dryRun") else self.storage)

    # watches

    def _watch(self, target: Target) -> None:
        self.form()
        version = target.version()
        events = self._events(target, version)
        # A version that is forgotten is refused before the stream begins, or inside it: clients must take both.
        self.begin_chunks("application/json")
        try:
            for kind, item in events:
                self._event(kind, item)
        except ApiError as error:
            self._event("ERROR", error.status())
        except _Cut:
            self.close_connection = True
            return
        self.end_chunks()

    def _events(self, target: Target, version: int | None) -> Iterator[tuple[str, Any]]:
        api, selection = self.api, target.selection()
        bookmarks = target.query.get("allowWatchBookmarks") in ("1", "true")
        limit = float(target.query.get("timeoutSeconds") or WATCH_LIMIT)
        ending, cuts = time.monotonic() + limit, api.faults.cuts
        next_bookmark = time.monotonic() + api.bookmark_interval
        if not version:
            items, version = self.storage.list(selection)
            for item in items:
                yield "ADDED", self.formed(target, item)
        for kind, item in self.storage.watch(
            selection, version, lambda: api.stopping.is_set() or time.monotonic() > ending
        ):
            if api.faults.cuts != cuts:
                raise _Cut
            if kind:
                yield kind, self.formed(target, item)
            elif bookmarks and time.monotonic() > next_bookmark:
                next_bookmark = time.monotonic() + api.bookmark_interval
                metadata = {"resourceVersion": str(self.storage.version), "creationTimestamp": None}
                empty = {"kind": target.kind.name, "apiVersion": target.kind.api_version, "metadata": metadata}
                yield "BOOKMARK", tables.partial(empty) if self.form().startswith("Partial") else empty

    def _event(self, kind: str, item: Any) -> None:
        self.chunk(json.dumps({"type": kind, "object": item}).encode() + b"\n")


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
