"""The store for many machines: keys below one prefix of an etcd (https://etcd.io), 3.4 or later.

PREFIX         the mark: which Weft cluster the prefix belongs to
PREFIX/KEY     the entries

Every transaction asks for the mark first, reads included. So an etcd that was wiped, or one of another cluster
among the endpoints, is never taken for an empty store (its listing would tell nodes to forget their peers), and
nothing is ever written among another application's keys.

An answer may be lost on its way. Then the next attempt looks at what is there: a key that holds our value and was
created after we began is the one that we created. Writers are told apart by their values, which name them.
"""

import logging
import os
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import msgspec

from weft.store import etcd_messages as messages
from weft.store.etcd_gateway import Answered, Gateway, UnknownOutcome
from weft.store.etcd_leases import Leases
from weft.store.etcd_messages import KeyValue, Message, TxnAnswer
from weft.store.etcd_settings import Endpoint, EtcdSettings, parse_etcd_url
from weft.store.etcd_watch import follow
from weft.store.protocol import (
    Compacted,
    Conflict,
    Entry,
    Event,
    KeyExists,
    Listing,
    StoreRefused,
    StoreUnavailable,
)

_log = logging.getLogger(__name__)

_FORMAT = 1
_TXN = "/v3/kv/txn"


class _Mark(msgspec.Struct, frozen=True):
    """The value of the prefix's own key. ``cluster`` tells this cluster from one that is set up anew."""

    weft: int
    cluster: str
    name: str | None = None


class EtcdStore:
    """``weft.store.Store`` over etcd's JSON gateway."""

    def __init__(self, settings: EtcdSettings) -> None:
        """Ask nobody yet: an agent may start while etcd is away. Raises ValueError for certificates."""
        self._settings = settings
        self._gateway = Gateway(settings)
        self._leases = Leases(self._gateway)
        self._prefix = settings.prefix.encode()
        self._lock = threading.Lock()
        self._creating = threading.Lock()
        self._mark: bytes | None = None
        self._cluster_id = 0
        self._newest = 0
        #: Counts how often etcd was found restored: it has another cluster ID then, and its revisions mean
        #: something else. A watch needs a listing of the same history.
        self._history = 0
        self._listed_history = 0
        #: Creations whose answer was lost: the value, and the revision before the first attempt.
        self._unsettled: dict[str, tuple[bytes, int]] = {}

    @classmethod
    def open(cls, url: str) -> "EtcdStore":
        """The store that an etcd URL names. Raises ValueError."""
        return cls(parse_etcd_url(url, os.environ))

    def get(self, key: str) -> Entry | None:
        answer = self._guarded([], [messages.get(self._key(key))]).answer
        return self._entry(answer.responses[0].kvs[0]) if answer.responses[0].kvs else None

    def entries(self, prefix: str) -> Listing:
        begin = self._key(prefix)
        operation: Message = {"request_range": {"key": begin, "range_end": messages.after(begin)}}
        answer = self._guarded([], [operation]).answer
        self._listed_history = self._history
        return Listing(tuple(map(self._entry, answer.responses[0].kvs)), answer.header.revision)

    def create(self, key: str, value: bytes) -> Entry:
        name = self._key(key)
        put: Message = {"request_put": {"key": name, "value": value}}
        # One at a time: of two threads that create the same key with the same value, only one may have done it.
        if not self._creating.acquire(timeout=self._settings.timeout):
            raise StoreUnavailable("etcd: others of this process wait for it already")
        try:
            self._remember_mark()
            known, before = self._unsettled.pop(key, (None, self._newest))
            doubtful = known == value
            before = before if doubtful else self._newest
            try:
                answered = self._guarded([messages.is_absent(name)], [put], name)
            except StoreUnavailable as error:
                if doubtful or isinstance(error, UnknownOutcome):
                    self._unsettled[key] = (value, before)
                raise
        finally:
            self._creating.release()
        if answered.answer.succeeded:
            return Entry(key, value, answered.answer.header.revision)
        present = _second(answered.answer)
        doubtful |= answered.doubtful
        if doubtful and present and present.value == value and present.create_revision > before:
            return self._entry(present)
        raise KeyExists(f"{key} exists")

    def replace(self, key: str, value: bytes, revision: int) -> Entry:
        name = self._key(key)
        put: Message = {"request_put": {"key": name, "value": value}}
        answered = self._guarded(messages.is_at(name, revision), [put], name)
        if answered.answer.succeeded:
            return Entry(key, value, answered.answer.header.revision)
        present = _second(answered.answer)
        if answered.doubtful and present and present.value == value and present.mod_revision > revision:
            return self._entry(present)
        raise _conflict(key, revision, present)

    def delete(self, key: str, revision: int) -> None:
        name = self._key(key)
        answered = self._guarded(messages.is_at(name, revision), [{"request_delete_range": {"key": name}}], name)
        present = None if answered.answer.succeeded else _second(answered.answer)
        gone = answered.answer.succeeded or (answered.doubtful and present is None)
        if not gone:
            raise _conflict(key, revision, present)

    def watch(self, prefix: str, revision: int, stopped: Callable[[], bool]) -> Iterator[Event]:
        """As the protocol says; member after member, as long as each outage is shorter than the timeout."""
        history = self._history
        if self._listed_history != history:
            raise Compacted("etcd was restored from a backup: what was seen before may never have been")
        same = partial(self._is_same_history, history)
        for event in follow(self._gateway, self._settings.timeout, self._key(prefix), revision, stopped, same):
            name = event.kv.key.decode(errors="replace").removeprefix(self._settings.prefix + "/")
            deleted = event.type == "DELETE"
            yield Event(name, None if deleted else self._entry(event.kv), event.kv.mod_revision)

    @property
    def presence(self) -> int:
        return self._settings.presence

    def keep_present(self, key: str, value: bytes) -> Entry:
        """``weft.store.PresenceStore``: the key is bound to a lease of its own."""
        name = self._key(key)
        lease = self._leases.keep(key, self.presence)
        fresh: Message = {"key": name, "target": "LEASE", "result": "EQUAL", "lease": lease}
        same = [fresh, messages.value_is(name, value)]
        answered = self._guarded(same, [messages.get(name)], name)
        if answered.answer.succeeded:
            return self._entry(answered.answer.responses[0].kvs[0])
        put: Message = {"request_put": {"key": name, "value": value, "lease": lease}}
        return Entry(key, value, self._guarded([], [put]).answer.header.revision)

    def close(self) -> None:
        self._gateway.close()

    def _guarded(
        self,
        conditions: Sequence[Message],
        operations: Sequence[Message],
        otherwise: bytes | None = None,
        only: Endpoint | None = None,
    ) -> Answered[TxnAnswer]:
        """A transaction that happens only where the prefix is this cluster's.

        Where a condition does not hold, the answer has the mark and the key ``otherwise``. Raises
        StoreUnavailable.
        """
        mark = self._remember_mark()
        message: Message = {
            "compare": [messages.value_is(self._prefix, mark), *conditions],
            "success": operations,
            "failure": [messages.get(self._prefix), *([messages.get(otherwise)] if otherwise else [])],
        }

        def refuse(answer: TxnAnswer) -> str | None:
            if answer.succeeded or _value(answer, 0) == mark:
                return None
            return (
                f"prefix {self._settings.prefix} is not this cluster's there: give endpoints of one etcd only; "
                "if it was set up anew, start the agents anew"
            )

        answered = self._gateway.call(_TXN, message, TxnAnswer, refuse=refuse, only=only)
        header = answered.answer.header
        with self._lock:
            if self._cluster_id not in (0, header.cluster_id):
                self._history += 1
            self._cluster_id = header.cluster_id
            self._newest = max(self._newest, header.revision)
        return answered

    def _remember_mark(self) -> bytes:
        """The prefix's mark; the first who asks makes it. Raises StoreUnavailable where the prefix is not ours."""
        if self._mark is not None:
            return self._mark
        prefix = self._settings.prefix
        wanted = msgspec.json.encode(_Mark(_FORMAT, uuid.uuid4().hex, self._settings.cluster))
        below = self._prefix + b"/"
        message: Message = {
            "compare": [messages.is_absent(self._prefix), messages.is_absent(below, messages.after(below))],
            "success": [{"request_put": {"key": self._prefix, "value": wanted}}],
            "failure": [
                messages.get(self._prefix),
                {
                    "request_range": {
                        "key": below,
                        "range_end": messages.after(below),
                        "limit": 1,
                        "keys_only": True,
                    }
                },
            ],
        }
        self._refuse_nesting()
        answer = self._gateway.call(_TXN, message, TxnAnswer).answer
        found = wanted if answer.succeeded else _value(answer, 0)
        if found is None:
            example = answer.responses[1].kvs[0].key.decode(errors="replace")
            raise StoreRefused(
                f"etcd: prefix {prefix} holds keys that are not Weft's, such as {example}: give another prefix"
            )
        name = _mark_of(found, prefix).name
        if self._settings.cluster and name != self._settings.cluster:
            raise StoreRefused(
                f"etcd: prefix {prefix} belongs to the Weft cluster {name or 'without a name'!r}, not to "
                f"{self._settings.cluster!r}: give another prefix, or cluster={name or ''}"
            )
        with self._lock:
            self._mark, self._newest = found, max(self._newest, answer.header.revision)
        if answer.succeeded:
            _log.info("etcd: prefix %s is this cluster's from now on", prefix)
        return found

    def _refuse_nesting(self) -> None:
        """Raise StoreUnavailable where the prefix lies inside of another cluster's."""
        ancestors = self._settings.ancestors
        if not ancestors:
            return
        reads = [messages.get(ancestor.encode()) for ancestor in ancestors]
        try:
            answer = self._gateway.call(_TXN, {"success": reads}, TxnAnswer).answer
        except StoreUnavailable as error:
            if "permission denied" in str(error):
                return  # a role for our prefix only keeps us apart just as well
            raise
        for index, ancestor in enumerate(ancestors):
            value = _value(answer, index)
            if value is not None and _decoded(value) is not None:
                raise StoreRefused(
                    f"etcd: prefix {self._settings.prefix} lies inside of {ancestor}, which belongs to another "
                    f"Weft cluster: give a prefix beside it"
                )

    def _is_same_history(
        self, history: int, endpoint: Endpoint, cluster_id: int, header_revision: int, at: int
    ) -> bool:
        """Whether a member's history is the one in which ``at`` was seen. Raises StoreUnavailable."""
        if cluster_id != self._cluster_id or header_revision < at:
            # A follower that lags is well, too: what it knows with the majority's consent decides.
            header_revision = self._guarded([], [messages.get(self._prefix)], only=endpoint).answer.header.revision
        return self._history == history and header_revision >= at

    def _key(self, key: str) -> bytes:
        return self._prefix + b"/" + key.encode()

    def _entry(self, found: KeyValue) -> Entry:
        key = found.key[len(self._prefix) + 1 :].decode(errors="replace")
        return Entry(key, found.value, found.mod_revision)


def _value(answer: TxnAnswer, index: int) -> bytes | None:
    """The value of the one key that an operation read."""
    if len(answer.responses) <= index or not answer.responses[index].kvs:
        return None
    return answer.responses[index].kvs[0].value


def _second(answer: TxnAnswer) -> KeyValue | None:
    kvs = answer.responses[1].kvs
    return kvs[0] if kvs else None


def _conflict(key: str, revision: int, present: KeyValue | None) -> Conflict:
    if present is None:
        return Conflict(f"{key} is gone (expected revision {revision})")
    return Conflict(f"{key} is at revision {present.mod_revision}, expected {revision}")


def _decoded(value: bytes) -> _Mark | None:
    try:
        return msgspec.json.decode(value, type=_Mark)
    except msgspec.MsgspecError:
        return None


def _mark_of(value: bytes, prefix: str) -> _Mark:
    mark = _decoded(value)
    if mark is None:
        raise StoreRefused(f"etcd: key {prefix} is not Weft's: give another prefix, such as {prefix}/weft")
    if mark.weft != _FORMAT:
        raise StoreUnavailable(
            f"etcd: prefix {prefix} is of format {mark.weft}, this Weft knows {_FORMAT}: run the one that wrote it"
        )
    return mark
