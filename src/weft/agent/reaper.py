"""Interfaces that were taken from their pods and are still to be deleted.

Deleting a veth makes the kernel wait about 20 ms, whoever asks; twenty deleted by their link group wait
once. So DEL journals, marks the interface retired (down, off the bridge, in one group: under a millisecond)
and answers, and this thread deletes the group. An address is free only when its interface is gone.
"""

import errno
import logging
import threading
from collections.abc import Callable, Sequence

from weft.agent.journal import Attachment, Journal
from weft.kernel import links
from weft.kernel.netlink import NetlinkError, RouteSocket

_log = logging.getLogger(__name__)

#: The link group of retired interfaces: "WEFT" in ASCII, a number that nobody else would choose.
RETIRED_GROUP = 0x57454654
#: Seconds that the reaper waits for company before it deletes.
GATHERING = 0.01
#: Seconds before a failed deletion is tried again.
RETRY = 1.0


class Reaper:
    """Deletes retired interfaces, then tells the journal and ``released``."""

    def __init__(self, journal: Journal, released: Callable[[Sequence[Attachment]], None]) -> None:
        self._journal = journal
        self._released = released
        self._condition = threading.Condition()
        self._waiting: list[Attachment] = []
        self._busy = False

    def retire(self, attachment: Attachment, host: RouteSocket) -> None:
        """Cut an interface off now and have it deleted soon. The journal has it as retiring already."""
        self.cut_off(attachment.host_interface, host)
        with self._condition:
            self._waiting.append(attachment)
            self._condition.notify_all()

    @staticmethod
    def cut_off(host_interface: str, host: RouteSocket) -> None:
        """Mark an interface for deletion: no traffic passes it from here on. One that is gone is fine."""
        try:
            host.execute([links.set_link(name=host_interface, up=False, master=0, group=RETIRED_GROUP)])
        except NetlinkError as error:
            if error.errno != errno.ENODEV:
                raise

    def run(self, stopping: threading.Event) -> None:
        """Delete what is retired until told to stop; what remains then is found at the next start."""
        with RouteSocket() as host:
            while not stopping.is_set():
                with self._condition:
                    self._condition.wait_for(lambda: self._waiting or stopping.is_set(), RETRY)
                    if not self._waiting:
                        continue
                stopping.wait(GATHERING)
                self._reap(host, stopping)

    def wake(self) -> None:
        """Let ``run`` see that it is to stop."""
        with self._condition:
            self._condition.notify_all()

    def drain(self, timeout: float) -> bool:
        """Wait until nothing retired before this call is left, at most ``timeout`` seconds."""
        with self._condition:
            return self._condition.wait_for(lambda: not self._waiting and not self._busy, timeout)

    def _reap(self, host: RouteSocket, stopping: threading.Event) -> None:
        with self._condition:
            batch, self._waiting, self._busy = self._waiting, [], True
        try:
            delete_retired(host)
            self._journal.forget(batch)
            self._released(batch)
        except Exception:
            _log.exception("retired interfaces could not be deleted; trying again")
            with self._condition:
                self._waiting = batch + self._waiting
            stopping.wait(RETRY)
        finally:
            with self._condition:
                self._busy = False
                self._condition.notify_all()


def delete_retired(host: RouteSocket) -> None:
    """Delete every interface of the retired group; an empty group is fine."""
    try:
        host.execute([links.delete_group(RETIRED_GROUP)])
    except NetlinkError as error:
        if error.errno != errno.ENODEV:
            raise
