"""What a DELETE leaves to others: a pod is marked, and gone when its node's kubelet has ended it.

Kubernetes: pod lifecycle, termination of pods. Pure.
"""

import datetime
from collections.abc import Mapping
from typing import Any

from weft.lab.api.kinds import Kind

Object = dict[str, Any]

#: Seconds that a pod gets to end, where it does not say how many.
DEFAULT_GRACE = 30
_OVER = ("Succeeded", "Failed")


def grace_of(kind: Kind, item: Mapping[str, Any], asked: int | None) -> int:
    """Seconds that an object has to end; 0 where it goes at once. ``asked``: what the DELETE says."""
    spec = item.get("spec") or {}
    if kind.name != "Pod" or not spec.get("nodeName") or (item.get("status") or {}).get("phase") in _OVER:
        return 0
    if asked is not None:
        return max(0, asked)
    return int(spec.get("terminationGracePeriodSeconds", DEFAULT_GRACE))


def is_ending(item: Mapping[str, Any]) -> bool:
    """Whether an object was deleted and is still there."""
    return "deletionTimestamp" in item["metadata"]


def marked(item: Object, seconds: int) -> Object:
    """The object with so many seconds to end. Another DELETE can only shorten them."""
    metadata = item["metadata"]
    if not is_ending(item) or seconds < metadata["deletionGracePeriodSeconds"]:
        ends = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
        metadata["deletionTimestamp"] = ends.strftime("%Y-%m-%dT%H:%M:%SZ")
        metadata["deletionGracePeriodSeconds"] = seconds
    return item
