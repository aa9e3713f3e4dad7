"""The plugins without an agent: ``python -m weft.plugins NAME``, or a link of a plugin's name to ``weft-plugin``.

The call comes as the specification says: variables CNI_*, the configuration on standard input. Same code, same
results as through the agent; only the interpreter's start is paid for on every call.
"""

import os
import sys
from pathlib import Path

from weft.cni import CniError, ErrorCode
from weft.cni.versions import NEWEST
from weft.kernel.namespace import NetworkNamespace

#: The program that links of the plugins' names lead to.
PROGRAM = "weft-plugin"


def main() -> int:
    """Answer one call; the exit status."""
    name = Path(sys.argv[0]).name
    arguments = sys.argv[1:]
    if name in (PROGRAM, "__main__.py"):
        if not arguments:
            print(f"{PROGRAM}: name a plugin: {', '.join(_names())}", file=sys.stderr)
            return 2
        name, *arguments = arguments
    if name not in _names():
        print(f"{PROGRAM}: there is no plugin {name!r}; there are: {', '.join(_names())}", file=sys.stderr)
        return 2
    status, output = _answer(name)
    sys.stdout.buffer.write(output)
    sys.stdout.flush()
    return status


def _names() -> list[str]:
    from weft.plugins.registry import BY_NAME  # noqa: PLC0415

    return list(BY_NAME)


def _answer(name: str) -> tuple[int, bytes]:
    from weft.plugins import calls  # noqa: PLC0415
    from weft.plugins.registry import BY_NAME, find  # noqa: PLC0415

    command = os.environ.get("CNI_COMMAND", "")
    versions = BY_NAME[name].versions
    if not command:
        print(
            f"CNI plugin {name} of Weft\nCNI protocol versions supported: {', '.join(versions)}", file=sys.stderr
        )
        return 0, b""
    if command == "VERSION":
        listed = ", ".join(f'"{version}"' for version in versions)
        return 0, f'{{"cniVersion": "{NEWEST}", "supportedVersions": [{listed}]}}\n'.encode()
    data = sys.stdin.buffer.read()
    namespace = None
    if path := os.environ.get("CNI_NETNS", ""):
        try:
            namespace = NetworkNamespace.open(path)
        except FileNotFoundError:
            if command != "DEL":
                error = CniError(ErrorCode.GENERIC, f"failed to open netns {path!r}: no such file or directory")
                return 1, error.to_json()
        except (OSError, ValueError) as failure:
            return 1, CniError(ErrorCode.GENERIC, f"failed to open netns {path!r}: {failure}").to_json()
    return calls.answer(name, os.environ, data, namespace, find)


if __name__ == "__main__":
    sys.exit(main())
