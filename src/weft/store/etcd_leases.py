"""Leases: keys that are there as long as their writer says so."""

import threading

from weft.store.etcd_gateway import Gateway
from weft.store.etcd_messages import KeepAliveAnswer, LeaseAnswer


class Leases:
    """One lease per key that this process keeps present. Safe for several threads."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._lock = threading.Lock()
        self._held: dict[str, int] = {}

    def keep(self, key: str, seconds: int) -> int:
        """The lease of a key, prolonged, or a new one where etcd has forgotten it. Raises StoreUnavailable.

        A lease whose grant was not answered ends by itself.
        """
        with self._lock:
            lease = self._held.get(key)
        if lease is not None:
            kept = self._gateway.call("/v3/lease/keepalive", {"ID": lease}, KeepAliveAnswer).answer.result
            if kept.seconds > 0:
                return lease
        granted = self._gateway.call("/v3/lease/grant", {"TTL": seconds}, LeaseAnswer).answer.lease
        with self._lock:
            self._held[key] = granted
        return granted
