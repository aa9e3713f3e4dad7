"""The plugins without an agent: ``python -m weft.plugins NAME``, or a link of a plugin's name to ``weft-plugin``.

The call comes as the specification says: variables CNI_*, the configuration on standard input. Same code, same
results as through the agent; only the interpreter's start is paid for on every call.
"""

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from weft.cni import CniError, ErrorCode, serving
from weft.kernel.namespace import NetworkNamespace
from weft.plugins import calls
from weft.plugins.registry import BY_NAME, PROGRAM, find


def main() -> int:
    """Answer one call; the exit status."""
    name, arguments = Path(sys.argv[0]).name, sys.argv[1:]
    if name in (PROGRAM, "__main__.py"):
        if not arguments:
            print(f"{PROGRAM}: name a plugin: {', '.join(BY_NAME)}", file=sys.stderr)
            return 2
        name, *arguments = arguments
    if name not in BY_NAME:
        print(f"{PROGRAM}: there is no plugin {name!r}; there are: {', '.join(BY_NAME)}", file=sys.stderr)
        return 2
    if name == "dhcp" and arguments[:1] == ["daemon"]:
        from weft.plugins.dhcp_daemon import command  # noqa: PLC0415

        return command.main(arguments[1:])
    return serving.main(name, BY_NAME[name].versions, partial(_answer, name))


def _answer(name: str, environment: Mapping[str, str], data: bytes) -> tuple[int, bytes]:
    namespace, path = None, environment.get("CNI_NETNS", "")
    if path and environment.get("CNI_COMMAND") in ("ADD", "DEL", "CHECK"):
        try:
            namespace = NetworkNamespace.open(path)
        except (OSError, ValueError) as failure:
            if environment["CNI_COMMAND"] != "DEL":
                said = failure.strerror if isinstance(failure, OSError) else "not a network namespace"
                return 1, CniError(ErrorCode.INVALID_ENVIRONMENT, f"CNI_NETNS {path}: {said}").to_json()
    return calls.answer(name, environment, data, namespace, find)


if __name__ == "__main__":
    sys.exit(main())
