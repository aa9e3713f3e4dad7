"""What is wrong on a node at present: said once in the log, and told to whoever asks until it is over."""

import logging
import threading
import time
from dataclasses import dataclass

_log = logging.getLogger(__name__)

#: Seconds without a word of it after which something that was refused counts as allowed again. Whoever is refused
#: one right of several does some of its work in between, and waits up to fifteen seconds before the next try.
SETTLED = 20.0
#: Different reasons that are logged while one thing is wrong.
_MOST_SAID = 20

_Reasons = frozenset[str]


@dataclass(frozen=True, slots=True)
class Trouble:
    """``what`` is wrong, and ``why``; ``unready`` where a node is not ready while that lasts."""

    what: str
    why: str
    unready: bool

    def __str__(self) -> str:
        return f"{self.what}: {self.why}"


class Troubles:
    """All that is wrong on a node. Safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._concerns: dict[str, Concern] = {}

    def about(self, what: str, back: str) -> "Concern":
        """The concern of that name, always the same one; ``back`` is what the log says when it is over."""
        with self._lock:
            return self._concerns.setdefault(what, Concern(self, what, back))

    @property
    def present(self) -> tuple[Trouble, ...]:
        """What is wrong now."""
        with self._lock:
            found = [concern.trouble for concern in self._concerns.values()]
        return tuple(trouble for trouble in found if trouble is not None)

    def is_first(self, reasons: _Reasons, said: set[_Reasons]) -> bool:
        """Whether no concern that is not over has told of these reasons. From now on the one of ``said`` has."""
        with self._lock:
            known = any(concern.has_said(reasons) for concern in self._concerns.values())
            said.add(reasons)
        return not known


class Concern:
    """One thing that may be wrong. Of use to one thread at a time; made by ``Troubles.about``."""

    def __init__(self, troubles: Troubles, what: str, back: str) -> None:
        self._troubles = troubles
        self._what = what
        self._back = back
        self._said: set[_Reasons] = set()
        self._logged = False
        self._refused = False
        self._well_since: float | None = None
        self.trouble: Trouble | None = None

    def note(self, why: str, then: str = "", *, refused: bool = False, unready: bool = False) -> None:
        """It is wrong for this reason; ``then`` says what that means. Several reasons are joined by ``"; "``.

        What is ``refused`` stays so until somebody mends it, and the node is ``unready`` until then.

        A reason is logged once until the concern is over, and not at all where another concern has told of it: an
        API server that is away is one line.
        """
        self._well_since, self._refused = None, refused
        self.trouble = Trouble(self._what, why, refused or unready)
        if len(self._said) < _MOST_SAID and self._troubles.is_first(frozenset(why.split("; ")), self._said):
            _log.warning("%s (%s)%s", self._what, why, f"; {then}" if then else "")
            self._logged = True

    def over(self, *, proven: bool = False) -> None:
        """It is well. To be called again and again: what was refused is over only when it was so for a while, or
        where that is ``proven``."""
        if self.trouble is None:
            return
        now = time.monotonic()
        self._well_since = self._well_since or now
        if self._refused and not proven and now - self._well_since < SETTLED:
            return
        if self._logged:
            _log.info("%s", self._back)
        self.trouble, self._logged = None, False
        self._said = set()

    def has_said(self, reasons: _Reasons) -> bool:
        """Whether these reasons were told of, here or elsewhere, since this went wrong."""
        return reasons in self._said
