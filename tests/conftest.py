"""What holds for all tests."""

from hypothesis import settings

# Times depend on who else is on the machine; a slow example is no bug.
settings.register_profile("weft", deadline=None)
settings.load_profile("weft")
