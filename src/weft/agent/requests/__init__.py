"""What pods ask for by annotations of theirs and of their namespaces."""

from typing import TYPE_CHECKING

from weft.agent.settings import Settings, SettingsError

if TYPE_CHECKING:
    from weft.agent.requests.objects import ApiObjects


def open_objects(settings: Settings) -> "ApiObjects | None":
    """The API server that pods and namespaces are asked of; None where there is none. Raises SettingsError."""
    if not settings.request_api:
        return None
    # Only who asks a server pays for a client.
    from weft.agent.requests.objects import ApiObjects  # noqa: PLC0415
    from weft.kubernetes import ConfigurationError  # noqa: PLC0415

    try:
        return ApiObjects.open(settings.request_api, settings.state_dir)
    except ConfigurationError as error:
        raise SettingsError(f"--request-api {error}") from None
