"""What a node's kubelet serves of its pods, and the API server passes on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

Object = dict[str, Any]

#: Subresources of pods that a kubelet answers for.
SUBRESOURCES = ("log", "exec", "attach", "portforward")


class PodAccess(Protocol):
    """Every method raises ApiError for what cannot be had, with what can."""

    def log(self, pod: Object, container: str) -> Path:
        """Where what a container says is written."""
        ...

    def command(self, pod: Object, container: str, words: Sequence[str], *, tty: bool) -> list[str]:
        """The command that runs these words in a container."""
        ...

    def own_command(self, pod: Object, container: str, *, tty: bool) -> list[str]:
        """The command that runs in a container what its manifest says, for a client that attaches to it."""
        ...

    def environment(self) -> Mapping[str, str]:
        """What commands find in their environment."""
        ...

    def say_ended(self, pod: Object, status: int) -> None:
        """Take note that what a manifest says has run to its end."""
        ...
