"""What a pod asks for: told by the runtime in the call itself where it can, so that an attach waits for nobody.

containerd (1.5) and CRI-O (1.28) hand a pod's annotations to a plugin that declares the capability
``io.kubernetes.cri.pod-annotations``. Where a runtime does not, the API server is asked, once per attach.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from weft.agent.journal import Journal
from weft.agent.requests import annotations
from weft.cni import CniError, ErrorCode, PodArguments
from weft.ipam.ranges import PodRange
from weft.plugins.main.weave_requests import AddressRequest, requested_by_runtime
from weft.plugins.plugin import PluginRequest

_log = logging.getLogger(__name__)

#: In the journal once a pod of this node has asked for an address.
_ASKED = "pods-ask-for-addresses"


class NotTold(Exception):
    """Annotations cannot be read now; the message says why."""


class Objects(Protocol):
    """The objects of a cluster."""

    def of_pod(self, pod: PodArguments) -> Mapping[str, str]:
        """A pod's annotations; none where there is no such pod. Raises NotTold."""

    def of_namespace(self, name: str) -> Mapping[str, str]:
        """Those of a namespace's annotations that ask for something. Raises NotTold."""

    def any_namespace_asks(self) -> bool:
        """Whether any namespace that is known asks for something."""


class PodRequests:
    """``weft.plugins.main.weave_requests.Requests`` of a node. Safe for several threads.

    What cannot be found out now is taken for nothing only where nothing that is known asks for addresses.
    A kubelet without its API server starts only pods that it knew before, so whoever asks was seen to.
    """

    def __init__(
        self, ranges: Callable[[], Sequence[PodRange]], journal: Journal, objects: Objects | None = None
    ) -> None:
        """Without ``objects`` only what the runtime tells counts."""
        self._ranges = ranges
        self._journal = journal
        self._objects = objects

    def __call__(self, request: PluginRequest) -> AddressRequest:
        """What the runtime asks for counts first, then the pod's annotations, then its namespace's."""
        by_runtime = requested_by_runtime(request)
        pod = PodArguments.from_arguments(request.invocation.arguments)
        pod = replace(pod, namespace=pod.namespace or "default")
        ranges = self._ranges()
        left = {pods.version for pods in ranges} - by_runtime.keys()
        if not pod.key or not left:
            return by_runtime
        try:
            by_pod = annotations.of_pod(pod.key, self._of_pod(request, pod), ranges)
            if by_pod and self._journal.fact(_ASKED) is None:
                self._journal.set_fact(_ASKED, f"pod {pod.key}")
            left -= by_pod.keys()
            by_namespace = (
                annotations.of_namespace(pod.namespace, self._of_namespace(pod), ranges, left) if left else {}
            )
        except annotations.BadAnnotation as error:
            raise CniError(ErrorCode.INVALID_CONFIG, str(error)) from None
        return {**by_namespace, **by_pod, **by_runtime}

    def _of_pod(self, request: PluginRequest, pod: PodArguments) -> Mapping[str, str]:
        told = request.configuration.runtime.pod_annotations
        if told is not None or self._objects is None:
            return told or {}
        try:
            return self._objects.of_pod(pod)
        except NotTold as error:
            self._refuse_if_any_ask(pod, error)
            return {}

    def _of_namespace(self, pod: PodArguments) -> Mapping[str, str]:
        try:
            return self._objects.of_namespace(pod.namespace) if self._objects else {}
        except NotTold as error:
            self._refuse_if_any_ask(pod, error)
            return {}

    def _refuse_if_any_ask(self, pod: PodArguments, why: NotTold) -> None:
        """Raises CniError 11 where the next address could be the wrong one."""
        known = self._journal.fact(_ASKED)
        if known is None and self._objects is not None and self._objects.any_namespace_asks():
            known = "a namespace"
        if known is not None:
            raise CniError(
                ErrorCode.TRY_AGAIN_LATER,
                f"pod {pod.key}: {why}; it may ask for an address, as {known} does",
            )
        _log.warning("pod %s gets the next address: %s; nobody here asks for one", pod.key, why)
