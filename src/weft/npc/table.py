"""The table in the kernel: taken over from an earlier run, changed by differences, made anew where it is lost."""

import logging
import re

from weft.kernel import sysctl
from weft.kernel.nftables import NftablesError, NftContext
from weft.policy import rendering
from weft.policy.model import Model
from weft.policy.reading import read

_log = logging.getLogger(__name__)

_COUNTER = re.compile(r"^\tcounter (\S+) \{\n\t\tpackets (\d+) bytes (\d+)", re.M)
#: Who hands packets between ports of one bridge to the chains of ``inet`` (br_netfilter).
BRIDGE_SYSCTLS = (
    ("net", "bridge", "bridge-nf-call-iptables"),
    ("net", "bridge", "bridge-nf-call-ip6tables"),
)


class EnforcementError(Exception):
    """Policies cannot be enforced on this node; the message says why and names the mend."""


class Table:
    """The table of the network namespace in which this is made. One thread at a time."""

    def __init__(self) -> None:
        """Raises EnforcementError where packets between two pods of a bridge would pass us by."""
        for path in BRIDGE_SYSCTLS:
            try:
                sysctl.write(path, 1)
            except OSError as error:
                raise EnforcementError(
                    f"pods on one bridge would escape their policies: {error}; load the module br_netfilter"
                ) from None
        self._nftables = NftContext()
        self._present: Model | None = None
        #: Bytes of commands that the kernel was sent.
        self.bytes_sent = 0

    def sync(self, wanted: Model) -> bool:
        """Bring the table to the model; whether anything changed. Raises NftablesError.

        A transaction that fails leaves the table as it was; it is then read anew, and all is tried once more.
        """
        if self._present is None:
            self._take_over(wanted)
            return True
        rulesets = rendering.difference(self._present, wanted)
        try:
            self._apply(rulesets)
        except NftablesError as error:
            _log.warning("%s: the table is read anew", error)
            self._present = None
            self._take_over(wanted)
        self._present = wanted
        return bool(rulesets)

    def is_there(self) -> bool:
        """Whether the table is in the kernel: nobody flushed it."""
        try:
            self._nftables.list(f"chain {rendering.TABLE} forward")
        except NftablesError:
            self._present = None
            return False
        return True

    def counters(self) -> dict[str, tuple[int, int]]:
        """Packets and bytes by counter. Raises NftablesError."""
        listed = self._nftables.list(f"counters table {rendering.TABLE}")
        return {name: (int(packets), int(size)) for name, packets, size in _COUNTER.findall(listed)}

    def close(self) -> None:
        """Let go of the socket; the table stays."""
        self._nftables.close()

    def _take_over(self, wanted: Model) -> None:
        """Change what an earlier run left to what is wanted, without a gap; make the table where there is none."""
        try:
            listing = self._nftables.list(f"table {rendering.TABLE}")
        except NftablesError:
            self._apply(rendering.whole(wanted))
            self._present = wanted
            return
        try:
            self._apply([*rendering.difference(read(listing, wanted), wanted), rendering.prologue()])
        except (ValueError, NftablesError) as error:
            _log.warning("the table of an earlier run cannot be changed (%s); it is replaced", error)
            self._apply([rendering.replacement(wanted)])
        self._present = wanted

    def _apply(self, rulesets: list[str]) -> None:
        for ruleset in rulesets:
            self._nftables.apply(ruleset)
            self.bytes_sent += len(ruleset)
