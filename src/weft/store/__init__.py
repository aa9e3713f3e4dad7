"""The state that nodes share: a few keys with revisions behind one small protocol.

``protocol`` says what a store must do; ``sqlite`` does it for agents on one machine.
"""

from weft.store.protocol import (
    Compacted,
    Conflict,
    Entry,
    Event,
    KeyExists,
    Listing,
    Store,
    StoreError,
    StoreUnavailable,
)

__all__ = [
    "Compacted",
    "Conflict",
    "Entry",
    "Event",
    "KeyExists",
    "Listing",
    "Store",
    "StoreError",
    "StoreUnavailable",
    "open_store",
]


def open_store(url: str) -> Store:
    """Open the store that a URL names: ``sqlite:///PATH``.

    Raises ValueError for a URL of another kind and StoreUnavailable where the engine cannot be reached.
    """
    kind, separator, rest = url.partition("://")
    if not separator:
        raise ValueError(f"store {url!r} is not a URL: write it as sqlite:///var/lib/weft/store.db")
    if kind in ("etcd", "etcds", "kubernetes"):
        raise ValueError(f"store {url!r}: {kind} is not there yet; use sqlite:///PATH")
    if kind != "sqlite" or not rest.startswith("/") or rest.endswith("/"):
        raise ValueError(f"store {url!r} is not known: use sqlite:///PATH with an absolute path of a file")
    from weft.store.sqlite import SqliteStore  # noqa: PLC0415  # only what is used is loaded

    return SqliteStore(rest)
