"""One call of a plugin, from what came to what is printed: the same through the agent and without it."""

import contextlib
from collections.abc import Mapping
from contextlib import AbstractContextManager

from weft.cni import Call, CniError, ErrorCode, Result, serving
from weft.cni.versions import SUPPORTED
from weft.kernel.namespace import NetworkNamespace
from weft.plugins.delegation import perform
from weft.plugins.plugin import Lookup, PluginRequest
from weft.plugins.registry import BY_NAME
from weft.plugins.settings import CommonSettings, read


def versions_of(name: str) -> tuple[str, ...]:
    """What the plugin answers to VERSION."""
    return BY_NAME[name].versions if name in BY_NAME else SUPPORTED


def answer(
    name: str,
    environment: Mapping[str, str],
    data: bytes,
    namespace: NetworkNamespace | None,
    lookup: Lookup,
    turn: AbstractContextManager[None] | None = None,
) -> tuple[int, bytes]:
    """Run a plugin's command; the exit status and what is printed. Raises nothing.

    ``data`` is the configuration; ``turn`` is held while the plugin works.
    """

    def work(call: Call) -> Result | None:
        with turn or contextlib.nullcontext():
            return run(name, environment, call, namespace, lookup)

    return serving.answer(name, versions_of(name), environment, data, work)


def run(
    name: str,
    environment: Mapping[str, str],
    call: Call,
    namespace: NetworkNamespace | None,
    lookup: Lookup,
) -> Result | None:
    """The result of an ADD, None of any other command. Raises CniError, and whatever else goes wrong."""
    _refuse_own_namespace(environment, namespace)
    try:
        read(CommonSettings, call.configuration)
    except CniError as error:
        # The reference plugins say 999; what is ours alone says what the specification has for it.
        raise error if name in BY_NAME else CniError(ErrorCode.INVALID_CONFIG, error.message) from None
    plugin = lookup(name)
    if plugin is None:
        raise CniError(
            ErrorCode.INVALID_CONFIG, f"there is no plugin {name!r} here; there are: {', '.join(BY_NAME)}"
        )
    return perform(plugin, PluginRequest(call.invocation, call.configuration, namespace, lookup))


def _refuse_own_namespace(environment: Mapping[str, str], namespace: NetworkNamespace | None) -> None:
    """A pod must not be this host: DEL would take the host's own interfaces away."""
    if namespace is None or environment.get("CNI_NETNS_OVERRIDE", "").lower() in ("1", "true"):
        return
    with NetworkNamespace.current() as own:
        if own.identity == namespace.identity:
            raise CniError(
                ErrorCode.INVALID_NETNS,
                f"CNI_NETNS {environment.get('CNI_NETNS')}: plugin's netns and netns from CNI_NETNS should not be "
                "the same; give the container a network namespace of its own",
            )
