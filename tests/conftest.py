"""What holds for all tests."""

from hypothesis import settings

from tests.store.etcd import end_shared_etcd

# Times depend on who else is on the machine; a slow example is no bug.
settings.register_profile("weft", deadline=None)
settings.load_profile("weft")


def pytest_sessionfinish() -> None:
    end_shared_etcd()
