"""CNI_ARGS, ``KEY=VALUE;KEY=VALUE`` (specification, section 2; conventions, "CNI_ARGS")."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from weft.cni.errors import CniError, ErrorCode

#: The key by which a caller lets plugins pass over what they do not know.
IGNORE_UNKNOWN = "IgnoreUnknown"
_TRUTH = {"1": True, "true": True, "0": False, "false": False}


def parse_arguments(text: str) -> dict[str, str]:
    """CNI_ARGS as pairs. Raises CniError 4 for anything else."""
    pairs = {}
    for part in text.split(";") if text else ():
        key, separator, value = part.partition("=")
        if not separator or not key or "=" in value:
            raise CniError(
                ErrorCode.INVALID_ENVIRONMENT, f"CNI_ARGS: invalid pair {part!r}; write KEY=VALUE;KEY=VALUE"
            )
        pairs[key] = value
    return pairs


def known_arguments(text: str, *known: str) -> dict[str, str]:
    """CNI_ARGS of a plugin that knows these keys.

    Raises CniError 4 for others, unless IgnoreUnknown is 1 or true (in any case of letters).
    """
    pairs = parse_arguments(text)
    ignore = _TRUTH.get(pairs.get(IGNORE_UNKNOWN, "0").lower())
    if ignore is None:
        raise CniError(
            ErrorCode.INVALID_ENVIRONMENT,
            f"CNI_ARGS: {IGNORE_UNKNOWN}={pairs[IGNORE_UNKNOWN]} is neither true nor false",
        )
    unknown = sorted(set(pairs) - {*known, IGNORE_UNKNOWN})
    if unknown and not ignore:
        raise CniError(
            ErrorCode.INVALID_ENVIRONMENT,
            f"CNI_ARGS: unknown args {', '.join(unknown)}; leave them out or add {IGNORE_UNKNOWN}=1",
        )
    return pairs


def format_arguments(pairs: Mapping[str, str]) -> str:
    """Pairs as CNI_ARGS. Raises CniError 4 for a key or a value that cannot be written so."""
    text = ";".join(f"{key}={value}" for key, value in pairs.items())
    if parse_arguments(text) != dict(pairs):
        raise CniError(
            ErrorCode.INVALID_ENVIRONMENT, f"CNI_ARGS: {text!r} would be read otherwise; leave out ; and ="
        )
    return text


@dataclass(frozen=True, slots=True)
class PodArguments:
    """The pod that a Kubernetes runtime names in CNI_ARGS; fields are empty where it does not."""

    namespace: str = ""
    name: str = ""
    infra_container_id: str = ""
    uid: str = ""

    @classmethod
    def from_arguments(cls, pairs: Mapping[str, str]) -> Self:
        """The pod out of ``Invocation.arguments``."""
        return cls(*(pairs.get(key, "") for key in _POD_KEYS))

    @property
    def key(self) -> str:
        """NAMESPACE/NAME; empty where the runtime named no pod."""
        return f"{self.namespace or 'default'}/{self.name}" if self.name else ""

    def to_arguments(self) -> dict[str, str]:
        """The pairs that containerd and CRI-O send."""
        values = (self.namespace, self.name, self.infra_container_id, self.uid)
        named = {key: value for key, value in zip(_POD_KEYS, values, strict=True) if value}
        return {IGNORE_UNKNOWN: "1", **named}


_POD_KEYS = ("K8S_POD_NAMESPACE", "K8S_POD_NAME", "K8S_POD_INFRA_CONTAINER_ID", "K8S_POD_UID")
