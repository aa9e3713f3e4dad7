"""Frees what no live sandbox holds: looks every few seconds, decides by ``collection``, deletes as DEL does."""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec

from weft.agent.attachments import ADOPTED, Attachments
from weft.agent.collection import Look, Reason, Suspicions, termination_graces
from weft.agent.journal import Attachment, Journal, JournalError
from weft.agent.node_pods import NodePods
from weft.agent.wire import Request
from weft.cni import CniError, NetworkList
from weft.kernel.netlink import NetlinkError, RouteSocket
from weft.plugins.main.weave_settings import TYPE

_log = logging.getLogger(__name__)

#: Seconds between two looks, at most.
INTERVAL = 10.0
_WORDS = {
    Reason.NO_INTERFACE: "its interface is gone",
    Reason.UNFINISHED: "its ADD was never finished",
    Reason.REPLACED: "its pod has a newer sandbox",
    Reason.POD_GONE: "its pod is gone from the API server",
}
#: One mapping is enough for portmap's DEL, which takes all rules of the container away.
_SOME_MAPPING = {"portMappings": [{"hostPort": 1, "containerPort": 1, "protocol": "tcp"}]}


class Collector:
    """One thread's. ``turn`` holds a container's turn without waiting for it, or says that it is not to be had;
    ``run`` runs a request by the agent's plugins."""

    def __init__(
        self,
        journal: Journal,
        attachments: Attachments,
        pods: NodePods,
        turn: Callable[[tuple[str, str]], AbstractContextManager[bool]],
        run: Callable[[Request], object],
        configuration: Path,
        patience: float,
    ) -> None:
        """``configuration`` is this node's CNI configuration; ``patience`` in seconds."""
        self._journal = journal
        self._attachments = attachments
        self._pods = pods
        self._turn = turn
        self._run = run
        self._configuration = configuration
        self._interval = min(INTERVAL, max(0.1, patience / 3))
        self._suspicions = Suspicions(self._interval, patience)
        self._collected: Counter[Reason] = Counter()

    @property
    def collected(self) -> Mapping[str, int]:
        """How many attachments were freed since the agent started, by reason."""
        return {reason.value: self._collected[reason] for reason in Reason}

    def run(self, stopping: threading.Event) -> None:
        """Look until told to stop."""
        with RouteSocket() as host:
            while not stopping.wait(self._interval):
                try:
                    self.look(host)
                except (JournalError, NetlinkError) as error:
                    _log.warning("no look at what sandboxes have left: %s", error)

    def look(self, host: RouteSocket) -> None:
        """One look, and what follows from it. Raises JournalError, NetlinkError."""
        # The journal first: what is made between the two is in the kernel, and not in what the journal said.
        attachments = tuple(self._journal.attachments())
        pods = self._pods.known()
        for item, grace in termination_graces(attachments, pods or {}):
            self._journal.note_termination_grace(item, grace)
        interfaces, holders = self._attachments.observe(host, attachments)
        look = Look(attachments, interfaces, holders, None if pods is None else frozenset(pods))
        for item, reason in self._suspicions.after(look):
            self._free(item, reason)

    def _free(self, item: Attachment, reason: Reason) -> None:
        with self._turn((item.container_id, item.ifname)) as mine:
            # Nothing of what the runtime has done meanwhile is undone.
            if not mine or not self._is_still(item):
                return
            try:
                self._delete(item)
            except Exception as error:
                _log.warning("%s (%s) cannot be freed now: %s", item.holder, _WORDS[reason], error)
                return
        self._collected[reason] += 1
        _log.warning(
            "%s of %s is freed with %s: %s, and no DEL came",
            item.ifname or item.host_interface,
            item.holder,
            " ".join(map(str, item.addresses)),
            _WORDS[reason],
        )

    def _is_still(self, item: Attachment) -> bool:
        return any(one.id == item.id and one.state is item.state for one in self._journal.attachments())

    def _delete(self, item: Attachment) -> None:
        """What the runtime's DEL would do: every plugin of the network, the last first."""
        if item.container_id.startswith(ADOPTED):
            self._attachments.retire(item)
            return
        for plugin in reversed(self._plugins(item.network)):
            environment = {
                "CNI_COMMAND": "DEL",
                "CNI_CONTAINERID": item.container_id,
                "CNI_IFNAME": item.ifname,
                "CNI_NETNS": "",
                "CNI_PATH": "/opt/cni/bin",
            }
            self._run(Request(str(plugin["type"]), environment, msgspec.json.encode(plugin)))

    def _plugins(self, network: str) -> list[dict[str, Any]]:
        """The configurations of a network's plugins; where this node's is another, ours alone."""
        try:
            known = NetworkList.from_file(self._configuration)
        except CniError:
            known = None
        if known is None or known.name != network:
            return [{"cniVersion": "1.0.0", "name": network, "type": TYPE}]
        return [
            {
                "cniVersion": known.cni_version,
                "name": network,
                **plugin,
                **(
                    {"runtimeConfig": _SOME_MAPPING}
                    if (plugin.get("capabilities") or {}).get("portMappings")
                    else {}
                ),
            }
            for plugin in known.plugins
        ]
