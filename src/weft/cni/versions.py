"""Versions of the CNI specification."""

#: Every version that Weft speaks, oldest first.
SUPPORTED = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
#: A configuration without ``cniVersion`` is of this one.
OLDEST = SUPPORTED[0]
NEWEST = SUPPORTED[-1]

_ORDER = {version: number for number, version in enumerate(SUPPORTED)}


def is_supported(version: str) -> bool:
    """Whether Weft speaks the version."""
    return version in _ORDER


def at_least(version: str, other: str) -> bool:
    """Whether a supported version is the other supported one or newer. Raises KeyError for unsupported ones."""
    return _ORDER[version] >= _ORDER[other]


def newest_of(versions: list[str]) -> str | None:
    """The newest version of a list that Weft speaks, or None."""
    return max((version for version in versions if version in _ORDER), key=_ORDER.__getitem__, default=None)
