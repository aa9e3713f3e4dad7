"""The state that nodes share: a few keys with revisions behind one small protocol.

``protocol`` says what a store must do; ``sqlite`` does it for agents on one machine, ``etcd`` for many machines,
``kubernetes`` over the API server of a cluster.
"""

from weft.store.protocol import (
    Compacted,
    Conflict,
    Entry,
    Event,
    ForeignKey,
    KeyExists,
    Listing,
    NodeStore,
    PresenceStore,
    Store,
    StoreError,
    StoreRefused,
    StoreUnavailable,
)
from weft.store.reopening import ReopeningStore

__all__ = [
    "Compacted",
    "Conflict",
    "Entry",
    "Event",
    "ForeignKey",
    "KeyExists",
    "Listing",
    "NodeStore",
    "PresenceStore",
    "Store",
    "StoreError",
    "StoreRefused",
    "StoreUnavailable",
    "open_store",
    "open_when_possible",
]


def open_store(url: str) -> Store:
    """Open the store that a URL names: ``sqlite:///PATH``, ``etcd://…``, ``etcds://…``, ``kubernetes://``
    (docs/stores.md).

    Raises ValueError for a URL that is not one of these and StoreUnavailable where a file cannot be opened. An
    etcd is asked by the first call.
    """
    kind, separator, rest = url.partition("://")
    if not separator:
        raise ValueError(f"store {url!r} is not a URL: write it as sqlite:///var/lib/weft/store.db")
    # Only what is used is loaded.
    if kind == "kubernetes":
        from weft.store.kubernetes import open_kubernetes  # noqa: PLC0415

        return open_kubernetes(url)
    if kind in ("etcd", "etcds"):
        from weft.store.etcd import EtcdStore  # noqa: PLC0415

        return EtcdStore.open(url)
    if kind != "sqlite" or not rest.startswith("/") or rest.endswith("/"):
        raise ValueError(
            f"store {url!r} is not known: use sqlite:///PATH with an absolute path of a file, "
            "etcd://HOST:PORT or kubernetes://"
        )
    from weft.store.sqlite import SqliteStore  # noqa: PLC0415

    return SqliteStore(rest)


def open_when_possible(url: str) -> Store:
    """Like ``open_store``, but one that cannot be opened now is opened by the first call that can.

    Raises ValueError.
    """
    try:
        return open_store(url)
    except StoreUnavailable:
        return ReopeningStore(lambda: open_store(url))
