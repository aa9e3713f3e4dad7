"""Speaking to a Kubernetes API server: requests for plain objects, and watches.

Configuration, certificates and rotating tokens are lightkube's, HTTP is httpx2's. Objects stay as they come: what
is needed of them is a few fields, and models of all of it would cost every agent tens of megabytes.
"""

from weft.kubernetes.client import ApiError, Client, ConfigurationError, Page, Unreachable
from weft.kubernetes.streams import Change, Ended, Stream

__all__ = ["ApiError", "Change", "Client", "ConfigurationError", "Ended", "Page", "Stream", "Unreachable"]
