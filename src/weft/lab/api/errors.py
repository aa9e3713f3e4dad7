"""What the server refuses, as the Status object that clients read."""

from typing import Any

#: HTTP status by reason (Kubernetes API concepts; metav1.StatusReason).
_CODES = {
    "BadRequest": 400,
    "Unauthorized": 401,
    "Forbidden": 403,
    "NotFound": 404,
    "MethodNotAllowed": 405,
    "NotAcceptable": 406,
    "AlreadyExists": 409,
    "Conflict": 409,
    "Expired": 410,
    "UnsupportedMediaType": 415,
    "Invalid": 422,
    "TooManyRequests": 429,
    "InternalError": 500,
    "ServiceUnavailable": 503,
    "Timeout": 504,
}


class ApiError(Exception):
    """A request that is not served; ``reason`` is one of Kubernetes' words."""

    def __init__(self, reason: str, message: str, *, kind: str = "", name: str = "", retry_after: int = 0) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.kind = kind
        self.name = name
        self.retry_after = retry_after

    @property
    def code(self) -> int:
        """The HTTP status."""
        return _CODES[self.reason]

    def status(self) -> dict[str, Any]:
        """The Status object."""
        details: dict[str, Any] = {"name": self.name, "kind": self.kind}
        if self.retry_after:
            details["retryAfterSeconds"] = self.retry_after
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "details": {key: value for key, value in details.items() if value},
            "code": self.code,
        }
