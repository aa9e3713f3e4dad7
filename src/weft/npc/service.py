"""All of a node's policy controller, inside the agent or in a process of its own."""

import logging
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from weft.kernel.nftables import NftablesError
from weft.npc import answers
from weft.npc.admissions import Admission, Admissions
from weft.npc.client import SOCKET
from weft.npc.controller import Choices, Controller, NotReady
from weft.npc.drops import DropLog
from weft.npc.flows import FlowCutter
from weft.npc.gate import Unavailable
from weft.npc.server import PolicyServer, Question
from weft.npc.source import Source
from weft.npc.table import Table
from weft.policy.compiler import Compiler

_log = logging.getLogger(__name__)

#: Seconds a thread gets to end.
STOP_TIMEOUT = 5.0


class PolicyService:
    """Builds the parts, starts them, ends them; the table stays in force. Also this process's enforcer."""

    def __init__(self, node: str, source: Source, state_dir: Path, run_dir: Path, choices: Choices) -> None:
        """Raises EnforcementError, OSError, ValueError."""
        self._node = node
        self._source = source
        self._choices = choices
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._table = Table()
        self._cutter = FlowCutter()
        self._controller = Controller(
            node,
            self._table,
            Admissions(state_dir / "admissions.json"),
            choices,
            self._cutter.changed if choices.cut else lambda model, moved: None,
        )
        self._drops = DropLog(self._look) if choices.log else None
        self._end_metrics: Callable[[], None] = lambda: None
        self._server = PolicyServer(
            run_dir / SOCKET,
            {
                "admit": lambda question: self.admit(msgspec.convert(question, Admission)),
                "dismiss": lambda question: self.dismiss(str(question["container_id"]), str(question["ifname"])),
                "retain": lambda question: self.retain(
                    frozenset((one, other) for one, other in question["valid"])
                ),
                "closed": lambda question: self.why_closed(),
                "status": self._status,
                "policies": lambda question: self._controller.inspect(answers.policies),
                "pod": lambda question: self._controller.inspect(
                    lambda compiler, table: answers.pod(compiler, str(question["pod"]))
                ),
                "why": self._why,
            },
        )

    def start(self) -> None:
        """Follow the source, look after the table, serve the socket."""
        tasks: dict[str, Callable[[], None]] = {
            "policy-source": lambda: self._controller.follow(self._source, self._stopping.is_set),
            "policy-care": lambda: self._controller.care(self._stopping),
            "policy-flows": self._cutter.run,
        }
        if self._drops is not None:
            tasks["policy-drops"] = partial(self._drops.run, self._stopping)
        for name, task in tasks.items():
            thread = threading.Thread(target=self._guarded, args=(name, task), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)
        self._server.start()
        if self._choices.metrics is not None:
            from weft.npc.metrics import serve  # noqa: PLC0415  # only who is asked for counters pays for it

            self._end_metrics = serve(self._choices.metrics, self._controller.inspect)

    def stop(self) -> None:
        """End; what is in force stays in force."""
        self._stopping.set()
        self._cutter.stop()
        self._server.close()
        self._end_metrics()
        for thread in self._threads:
            thread.join(STOP_TIMEOUT)
        for part in (self._cutter, self._table, self._drops):
            if part is not None:
                part.close()

    def admit(self, admission: Admission) -> bool:
        """``weft.npc.gate.Enforcer``. Raises Unavailable."""
        try:
            return self._controller.admit(admission)
        except (NotReady, NftablesError, OSError) as error:
            raise Unavailable(str(error)) from error

    def dismiss(self, container_id: str, ifname: str) -> None:
        """``weft.npc.gate.Enforcer``. Raises Unavailable."""
        try:
            self._controller.dismiss(container_id, ifname)
        except (NftablesError, OSError) as error:
            raise Unavailable(str(error)) from error

    def retain(self, valid: frozenset[tuple[str, str]]) -> None:
        """``weft.npc.gate.Enforcer``. Raises Unavailable."""
        try:
            self._controller.retain(valid)
        except (NftablesError, OSError) as error:
            raise Unavailable(str(error)) from error

    def why_closed(self) -> str:
        """``weft.npc.gate.Enforcer``."""
        why, reason = self._controller.why_closed, self._source.trouble
        return f"{why} ({reason})" if why and reason else why

    def _look(self, question: Callable[[Compiler], str]) -> str:
        return self._controller.inspect(lambda compiler, table: question(compiler))

    def _status(self, question: Question) -> dict[str, Any]:
        controller = self._controller

        def look(compiler: Compiler, table: Table) -> dict[str, Any]:
            return {
                "node": self._node,
                "revision": controller.revision,
                "problems": controller.problems,
                "pods": len(compiler.pods),
                "namespaces": len(compiler.namespaces),
                "policies": len(compiler.policies),
                "bytesSent": table.bytes_sent,
            }

        return controller.inspect(look)

    def _why(self, question: Question) -> object:
        protocol, port = answers.parse_port(str(question.get("port") or "tcp/80"))
        return self._controller.inspect(
            lambda compiler, table: answers.why(
                compiler,
                table,
                str(question["source"]),
                str(question["destination"]),
                protocol,
                port,
                bool(question.get("live")),
            )
        )

    def _guarded(self, name: str, task: Callable[[], None]) -> None:
        """A thread that dies would leave the node without care: end, so that it is started anew."""
        try:
            task()
        except BaseException:
            _log.exception("%s failed; the process ends", name)
            os._exit(1)
