"""nftables rulesets as text (nft(8)), each applied as one transaction: all of it, or nothing.

libnftables runs in this process, about thirty times as fast as a process of ``nft``, which serves where the
library is missing and takes the same text. Elements of a large set belong on lines of their own: an error shows
its line.
"""

import ctypes
import os
import re
import threading
from functools import cache
from types import TracebackType
from typing import Self

from weft.kernel.namespace import Kept, NetworkNamespace

_LIBRARY = "libnftables.so.1"
#: Characters of a reason or of a line that are worth showing.
_LONGEST_ERROR = 200
_ERROR = re.compile(r"^(?:[^\n:]*:(?P<number>\d+):\S*: )?Error: (?P<reason>.*)", re.MULTILINE)

_LISTED = re.compile(r"^\s*(?P<text>\S.*) # handle (?P<handle>\d+)$", re.MULTILINE)
_CHAIN = re.compile(r"chain (?P<name>\S+) \{")
#: NFT_CTX_OUTPUT_HANDLE of libnftables(3).
_SHOW_HANDLES = 1 << 3

# The library's parser keeps its state in global variables. Re-entrant, for a forgotten context may be closed by
# whatever the thread does next.
_parser = threading.RLock()


class NftablesError(Exception):
    """A ruleset was refused and nothing of it applied.

    ``line`` is the number of the line at fault, from 1; None where it is not known.
    """

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


class NftContext:
    """nftables of one network namespace: the one that the calling thread is in when this is made."""

    def __init__(self) -> None:
        library = _library()
        self._backend: _Library | _Command = _Command() if library is None else _Library(library)

    def apply(self, ruleset: str) -> None:
        """Apply commands or a whole ruleset in one transaction. Raises NftablesError."""
        self._run(ruleset)

    def list(self, what: str = "ruleset", *, handles: bool = False) -> str:
        """What ``nft list WHAT`` prints, for example ``table ip weft``. Raises NftablesError.

        With ``handles``, each object is followed by the number that ``delete`` takes.
        """
        return self._run(f"list {what}\n", handles)

    def rules(self, chain: str) -> dict[int, str]:
        """The rules of a chain such as ``inet weft forward``, by handle; none where there is no such chain.

        Raises NftablesError.
        """
        return next(iter(self._rules(f"chain {chain}").values()), {})

    def chains(self, table: str) -> dict[str, dict[int, str]]:
        """The chains of a table such as ``inet weft`` with their rules; none where there is no such table.

        Raises NftablesError.
        """
        return self._rules(f"table {table}")

    def _rules(self, what: str) -> dict[str, dict[int, str]]:
        try:
            listed = self.list(what, handles=True)
        except NftablesError as error:
            if "No such file or directory" in str(error):
                return {}
            raise
        found: dict[str, dict[int, str]] = {}
        rules: dict[int, str] = {}
        for line in _LISTED.finditer(listed):
            if chain := _CHAIN.fullmatch(line["text"]):
                rules = found.setdefault(chain["name"], {})
            elif line["text"].endswith(" {"):  # the table itself, a set, a map
                rules = {}
            else:
                rules[int(line["handle"])] = line["text"]
        return found

    def close(self) -> None:
        """Free the library's memory and socket. Closing twice is fine."""
        self._backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, commands: str, handles: bool = False) -> str:
        if "\0" in commands:
            raise NftablesError("a ruleset holds no NUL")
        with _parser:
            succeeded, output, complaint = self._backend.run(commands, handles)
        if not succeeded:
            raise explained(complaint, commands)
        return output


_kept = Kept(NftContext)


def context() -> NftContext:
    """The calling thread's context for the namespace that it is in; not to be closed.

    To close one makes the kernel wait, about 18 ms after rules were deleted, for their readers (RCU).
    """
    return _kept.get()


def apply(ruleset: str) -> None:
    """Apply a ruleset in the calling thread's network namespace, in one transaction. Raises NftablesError."""
    context().apply(ruleset)


def explained(complaint: str, commands: str) -> NftablesError:
    """The first error in nft's output, short, with the line that it is about."""
    found = _ERROR.search(complaint)
    if found is None:
        return NftablesError(f"nftables refused the ruleset: {_short(complaint) or 'no reason given'}")
    reason, number = _short(found["reason"]), int(found["number"] or 0)
    lines = commands.splitlines()
    if not 0 < number <= len(lines):
        return NftablesError(f"nftables refused the ruleset: {reason}")
    return NftablesError(f"nftables refused line {number}: {reason}: {_short(lines[number - 1])}", number)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST_ERROR else text[: _LONGEST_ERROR - 1] + "…"


@cache
def _library() -> ctypes.CDLL | None:
    """libnftables with its functions' types, None where it is not installed."""
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError:
        return None
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    library.nft_run_cmd_from_filename.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    library.nft_ctx_free.argtypes = [ctypes.c_void_p]
    library.nft_ctx_free.restype = None
    library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    library.nft_ctx_output_set_flags.restype = None
    for name in ("output", "error"):
        getattr(library, f"nft_ctx_buffer_{name}").argtypes = [ctypes.c_void_p]
        getattr(library, f"nft_ctx_get_{name}_buffer").argtypes = [ctypes.c_void_p]
        getattr(library, f"nft_ctx_get_{name}_buffer").restype = ctypes.c_char_p
    return library


class _Library:
    """A context of libnftables. Its socket is opened here, so it belongs to the namespace of this moment."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._turn = _parser  # the module may be gone before its last context
        with self._turn:
            self._context = library.nft_ctx_new(0)
        if not self._context:
            raise NftablesError("libnftables gave no context")
        if library.nft_ctx_buffer_output(self._context) or library.nft_ctx_buffer_error(self._context):
            self.close()
            raise NftablesError("libnftables gave no buffers")

    def run(self, commands: str, handles: bool) -> tuple[bool, str, str]:
        if not self._context:
            raise NftablesError("the context is closed")
        library, context = self._library, self._context
        library.nft_ctx_output_set_flags(context, _SHOW_HANDLES if handles else 0)
        # Not from a buffer: its errors then show the first line, whichever is at fault (libnftables 1.0.6).
        with os.fdopen(os.memfd_create("ruleset", os.MFD_CLOEXEC), "wb") as file:
            file.write(commands.encode())
            file.flush()
            status = library.nft_run_cmd_from_filename(context, f"/proc/self/fd/{file.fileno()}".encode())
        output, complaint = library.nft_ctx_get_output_buffer(context), library.nft_ctx_get_error_buffer(context)
        return status == 0, (output or b"").decode(errors="replace"), (complaint or b"").decode(errors="replace")

    def close(self) -> None:
        context, self._context = self._context, None
        if context:
            with self._turn:
                self._library.nft_ctx_free(context)

    def __del__(self) -> None:
        self.close()


class _Command:
    """A process of ``nft`` per call, in the namespace of the moment when this was made."""

    def __init__(self) -> None:
        self._namespace = NetworkNamespace.current()

    def run(self, commands: str, handles: bool) -> tuple[bool, str, str]:
        # Here, since few hosts need it and it would double the time to import this module.
        import subprocess  # noqa: PLC0415

        try:
            with self._namespace.entered():
                done = subprocess.run(
                    ["nft", *(["-a"] if handles else []), "-f", "-"],
                    input=commands,
                    capture_output=True,
                    text=True,
                    check=False,
                )
        except FileNotFoundError:
            raise NftablesError(
                f"neither {_LIBRARY} nor the program nft is installed (Debian: libnftables1, nftables)"
            ) from None
        return done.returncode == 0, done.stdout, done.stderr

    def close(self) -> None:
        self._namespace.close()
