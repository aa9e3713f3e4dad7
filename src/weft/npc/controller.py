"""From objects and attachments to the table: one lock, one compiler, one table."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from weft.kernel.nftables import NftablesError
from weft.npc.admissions import Admission, Admissions
from weft.npc.source import Batch, Source
from weft.npc.table import Table
from weft.policy.compiler import Compiler
from weft.policy.model import Model
from weft.policy.objects import Key, Pod

_log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

#: Seconds between two looks whether the table is still there.
CARE_INTERVAL = 10.0
#: Seconds before a table that the kernel refused is tried again.
RETRY_INTERVAL = 1.0
_UNKNOWN = "pods and policies are not known yet"


@dataclass(frozen=True, slots=True)
class Choices:
    """What an operator decides.

    ``wait``: seconds that an ADD waits for its pod's labels. ``open_unknown``: a pod whose labels do not come
    counts as one without labels, instead of being isolated where any policy is in its namespace. ``cut``: whether
    connections that are no longer allowed end. ``log``: whether drops are told. ``metrics``: where counters
    are served.
    """

    wait: float = 2.0
    open_unknown: bool = False
    cut: bool = True
    log: bool = False
    metrics: tuple[str, int] | None = None


class NotReady(Exception):
    """Nothing is known yet of pods and policies: an attachment would be open."""


class Controller:
    """Safe for several threads. ``changed`` is told each model in force, and the addresses that changed hands."""

    def __init__(
        self,
        node: str,
        table: Table,
        admissions: Admissions,
        choices: Choices,
        changed: Callable[[Model, frozenset[str]], None] = lambda model, addresses: None,
    ) -> None:
        self._node = node
        self._table = table
        self._admissions = admissions
        self._choices = choices
        self._changed = changed
        self._lock = threading.Condition()
        self._compiler = Compiler(node, log=choices.log)
        self._told: dict[str, Pod] = {}
        self._told_by_key: dict[Key, str] = {}
        self._entered: dict[Key, str] = {}
        self._opened: set[Key] = set()
        self._moved: set[str] = set()
        self._synced = False
        self.revision = ""
        self.problems: tuple[str, ...] = ()

    @property
    def why_closed(self) -> str:
        """Why no pod can be admitted; empty where one can. Waits for nobody."""
        return "" if self._synced else _UNKNOWN

    def follow(self, source: Source, stopped: Callable[[], bool]) -> None:
        """Put in force what a source tells, until told to stop."""
        for batch in source.batches(stopped):
            self.apply(batch)

    def apply(self, batch: Batch) -> None:
        """Put one batch in force. What the kernel refuses is logged, and tried again by ``care``."""
        with self._lock:
            self._take(batch)
            first, self._synced = not self._synced, True
            if first:
                # Attached before we started; the table of the last run holds until now.
                for admission in self._admissions.all():
                    self._refresh(admission.key)
            try:
                self._sync()
                self.revision = batch.revision or self.revision
            except NftablesError as error:
                _log.error("policies are not in force: %s; trying again", error)
            self._lock.notify_all()

    def care(self, stopping: threading.Event) -> None:
        """Look after the table: make it anew where somebody removed it, try again what was refused."""
        while not stopping.wait(CARE_INTERVAL):
            with self._lock:
                if not self._synced:
                    continue
                try:
                    if not self._table.is_there():
                        _log.warning("somebody removed the table; it is made anew")
                    self._sync()
                except NftablesError as error:
                    _log.error("policies are not in force: %s", error)

    def admit(self, admission: Admission) -> bool:
        """Return when a pod's policies are in force; whether its labels were told within the wait.

        Until the labels come it is isolated, where any policy is in its namespace. Raises NotReady, NftablesError,
        OSError.
        """
        with self._lock:
            deadline = time.monotonic() + self._choices.wait
            while not self._synced and self._lock.wait(deadline - time.monotonic()):
                pass
            if not self._synced:
                raise NotReady(_UNKNOWN)
            self._admissions.add(admission)
            self._moved.update(admission.addresses)
            self._refresh(admission.key)
            self._sync()
            while self._waits_for_labels(admission) and self._lock.wait(deadline - time.monotonic()):
                pass
            known = admission.key in self._told_by_key
            if not known and self._choices.open_unknown:
                self._opened.add(admission.key)
                self._refresh(admission.key)
                self._sync()
            return known

    def dismiss(self, container_id: str, ifname: str) -> None:
        """A pod was detached: its addresses are nobody's. Raises NftablesError, OSError."""
        with self._lock:
            admission = self._admissions.remove(container_id, ifname)
            if admission is None:
                return
            self._moved.update(admission.addresses)
            if not self._admissions.of(admission.key):
                self._opened.discard(admission.key)
            self._refresh(admission.key)
            self._sync()

    def retain(self, valid: frozenset[tuple[str, str]]) -> None:
        """Only these (container, interface) are attached. Raises NftablesError, OSError."""
        for admission in self._admissions.all():
            if (admission.container_id, admission.ifname) not in valid:
                self.dismiss(admission.container_id, admission.ifname)

    def inspect(self, question: Callable[[Compiler, Table], Answer]) -> Answer:
        """What a question finds, while nothing changes."""
        with self._lock:
            return question(self._compiler, self._table)

    def _waits_for_labels(self, admission: Admission) -> bool:
        """Whether it matters that the pod's labels are not known yet."""
        namespace = admission.namespace
        return admission.key not in self._told_by_key and any(
            key[0] == namespace for key in self._compiler.policies
        )

    def _take(self, batch: Batch) -> None:
        compiler = self._compiler
        for namespace in batch.namespaces:
            compiler.put_namespace(namespace)
        for pod in batch.pods:
            if self._told.get(pod.uid) != pod:
                self._told[pod.uid] = pod
                self._told_by_key[pod.key] = pod.uid
                self._refresh(pod.key)
        for policy in batch.policies:
            if policy.problems and compiler.policies.get(policy.key) != policy:
                _log.error("NetworkPolicy %s/%s isolates and allows nothing: %s", *policy.key, policy.problems[0])
            compiler.put_policy(policy)
        gone_pods, gone_namespaces, gone_policies = batch.gone_pods, batch.gone_namespaces, batch.gone_policies
        if batch.whole:
            gone_pods = tuple(self._told.keys() - {pod.uid for pod in batch.pods})
            gone_namespaces = tuple(compiler.namespaces.keys() - {item.name for item in batch.namespaces})
            gone_policies = tuple(compiler.policies.keys() - {policy.key for policy in batch.policies})
            self.problems = batch.problems
        for uid in gone_pods:
            told = self._told.pop(uid, None)
            if told is not None and self._told_by_key.get(told.key) == uid:
                del self._told_by_key[told.key]
                self._refresh(told.key)
            elif told is not None:
                compiler.remove_pod(uid)
        for name in gone_namespaces:
            compiler.remove_namespace(name)
        for key in gone_policies:
            compiler.remove_policy(key)

    def _refresh(self, key: Key) -> None:
        """Bring what the source says of a pod together with its attachments on this node."""
        uid = self._told_by_key.get(key)
        pod = self._told.get(uid) if uid is not None else None
        attached = self._admissions.of(key)
        if attached and (pod is None or not pod.host_network):
            # An attachment knows the addresses first, and which pod of two has one now.
            newest = max(attached, key=lambda item: item.created)
            addresses = tuple(dict.fromkeys(address for item in attached for address in item.addresses))
            if pod is None:
                unknown = key not in self._opened
                pod = Pod(newest.uid or newest.container_id, *key, {}, unknown=unknown)
            pod = replace(pod, addresses=addresses, node=self._node, created=max(pod.created, newest.created))
        before = self._entered.pop(key, None)
        if before is not None and (pod is None or pod.uid != before):
            self._compiler.remove_pod(before)
        if pod is not None:
            self._entered[key] = pod.uid
            self._compiler.put_pod(pod)

    def _sync(self) -> None:
        if not self._synced:
            return  # a DEL: nothing is known yet, and the last run's table is in force
        model = self._compiler.model()
        if self._table.sync(model) or self._moved:
            moved, self._moved = frozenset(self._moved), set()
            self._changed(model, moved)
