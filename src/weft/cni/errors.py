"""Errors as the specification writes them (section 5, "Error")."""

from enum import IntEnum
from typing import Any, Self

import msgspec

from weft.cni.versions import NEWEST


class ErrorCode(IntEnum):
    """The specification's codes; 100 and above are a plugin's own.

    8 and 999 ("something") are the reference library's.
    """

    INCOMPATIBLE_VERSION = 1
    UNSUPPORTED_FIELD = 2
    UNKNOWN_CONTAINER = 3
    INVALID_ENVIRONMENT = 4
    IO_FAILURE = 5
    UNDECODABLE = 6
    INVALID_CONFIG = 7
    INVALID_NETNS = 8
    TRY_AGAIN_LATER = 11
    NOT_AVAILABLE = 50
    LIMITED_CONNECTIVITY = 51
    GENERIC = 999


class CniError(Exception):
    """What a plugin or a runtime tells its caller instead of a result."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details

    def __str__(self) -> str:
        return f"{self.message}; {self.details}" if self.details else self.message

    def to_json(self, cni_version: str = NEWEST) -> bytes:
        """The error as a plugin prints it."""
        body: dict[str, Any] = {"cniVersion": cni_version, "code": int(self.code), "msg": self.message}
        if self.details:
            body["details"] = self.details
        return msgspec.json.encode(body)

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """An error that a plugin printed; without a code it is 999. Raises ValueError where it is none."""
        try:
            body = msgspec.json.decode(data)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise ValueError(f"not an error's JSON: {error}") from None
        if not isinstance(body, dict) or not body.keys() & {"code", "msg"}:
            raise ValueError("not an error's JSON: neither code nor msg")
        code = body.get("code", ErrorCode.GENERIC)
        if not isinstance(code, int) or isinstance(code, bool):
            raise ValueError(f"not an error's JSON: code {code!r}")
        return cls(code, str(body.get("msg", "")), str(body.get("details", "")))
