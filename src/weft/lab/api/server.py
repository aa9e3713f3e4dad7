"""The server as a whole: where it listens, started and stopped."""

import ssl
import threading

from weft.lab.api.exchange import Admit, Authorize, Serving
from weft.lab.api.handler import Handler
from weft.lab.api.listener import listener
from weft.lab.api.pod_access import PodAccess
from weft.lab.api.storage import Storage

#: Seconds between two looks of the listener at whether it is to stop.
_POLL = 0.1


class ApiServer(Serving):
    """Serves a ``Storage`` on TCP, or on a Unix socket where ``address`` is a path."""

    def __init__(
        self,
        address: tuple[str, int] | str = ("127.0.0.1", 0),
        *,
        storage: Storage | None = None,
        bookmark_interval: float = 60.0,
        tls: ssl.SSLContext | None = None,
        authorize: Authorize | None = None,
        admit: Admit | None = None,
        pods: PodAccess | None = None,
    ) -> None:
        super().__init__(storage or Storage(), authorize, bookmark_interval)
        if admit is not None:
            self.admit = admit
        self.pods = pods
        self._scheme = "https" if tls else "http"
        own = {"api": self, "disable_nagle_algorithm": not isinstance(address, str)}
        self._server = listener(address, type("Handler", (Handler,), own), tls)
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where it is."""
        host, port = self._server.server_address[:2]
        return f"{self._scheme}://{host!s}:{port}"

    def start(self) -> None:
        """Serve in threads of its own."""
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": _POLL}, name="api", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """End every watch and connection, and let go of the address."""
        self.stopping.set()
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
        self._server.close_connections()

    def serve(self) -> None:
        """Serve in this thread, until ``stop`` in another."""
        self._server.serve_forever(poll_interval=_POLL)
