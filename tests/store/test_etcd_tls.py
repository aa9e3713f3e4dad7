"""etcd with TLS, client certificates and users: what works, and what each mistake says."""

import re
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.namespaces import path
from tests.store.certificates import Pair, signed
from tests.store.etcd import PORT, Etcd
from tests.store.secured import Secured, secured_etcd
from weft.kernel.namespace import NetworkNamespace
from weft.store import StoreUnavailable
from weft.store.etcd import EtcdStore


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with secured_etcd(tmp_path_factory.mktemp("certificates")) as made:
        yield made


@pytest.fixture(autouse=True)
def _there(secured: Secured) -> Iterator[None]:
    with NetworkNamespace.open(path(secured.server.namespace)) as place, place.entered():
        yield


def test_a_node_with_certificate_and_password_works(secured: Secured) -> None:
    with closing(EtcdStore.open(secured.url())) as store:
        entry = store.create("blocks/a", b"owner")
        assert next(store.watch("", entry.revision - 1, lambda: False)).entry == entry
        assert store.entries("").entries == (entry,)
        assert store.keep_present("presence/a", b"").key == "presence/a"
        store.delete("blocks/a", entry.revision)


def test_a_password_from_the_environment_works(secured: Secured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFT_ETCD_USER", "weft")
    monkeypatch.setenv("WEFT_ETCD_PASSWORD", "secret of weft")
    with closing(EtcdStore.open(secured.url(user="", password_file=""))) as store:
        store.entries("")


def test_a_token_that_etcd_has_forgotten_is_asked_for_anew(secured: Secured) -> None:
    with closing(EtcdStore.open(secured.url(timeout="20"))) as store:
        begin = store.entries("").revision
        secured.server.kill()
        secured.server.start()
        entry = store.create("blocks/b", b"")
        # The watch, too, begins with a token that may be stale.
        secured.server.kill()
        secured.server.start()
        assert next(store.watch("blocks/", begin, lambda: False)).entry == entry
        store.delete("blocks/b", entry.revision)


def test_a_certificate_that_is_renewed_is_taken_up(secured: Secured, tmp_path: Path) -> None:
    for part, source in (("cert", secured.stranger.cert), ("key", secured.stranger.key)):
        shutil.copy(source, tmp_path / part)
    with closing(EtcdStore.open(secured.url(cert=tmp_path / "cert", key=tmp_path / "key", timeout="1"))) as store:
        with pytest.raises(StoreUnavailable):
            store.entries("")
        (tmp_path / "cert").write_text("half written")
        with pytest.raises(StoreUnavailable):
            store.entries("")
        for part, source in (("cert", secured.client.cert), ("key", secured.client.key)):
            shutil.copy(source, tmp_path / part)
        store.entries("")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"ca": "other-ca.pem"},
            "its certificate is refused (unable to get local issuer certificate|.*): give ca=",
        ),
        ({"ca": ""}, "give ca=FILE of the CA that signed it (now the CAs of this machine)"),
        ({"location": f"127.0.0.2:{PORT}"}, "Connection refused"),
        ({"cert": "stranger.pem", "key": "stranger.key"}, "it refuses this client's certificate"),
        ({"cert": "", "key": ""}, "it refuses this client's certificate (.*): give cert=FILE and key=FILE"),
        ({"cert": "named.pem", "key": "named.key"}, "only certificates without a Common Name"),
        ({"password_file": "root.password"}, "the user 'weft' or its password is not right"),
        (
            {"user": "", "password_file": ""},
            "it wants a user: give user= and password-file=, or WEFT_ETCD_PASSWORD",
        ),
        ({"user": "guest"}, "permission denied: give user 'guest' a role for the prefix"),
        ({"location": f"127.0.0.1:{PORT}/other"}, "--prefix=true readwrite /other"),
    ],
)
def test_a_mistake_is_named_with_its_mend(secured: Secured, changes: dict[str, str], said: str) -> None:
    files = ("ca", "cert", "key", "password_file")
    values = {
        name: str(secured.folder / value) if value and name in files else value for name, value in changes.items()
    }
    with closing(EtcdStore.open(secured.url(**values))) as store:
        for _ in range(5):
            with pytest.raises(StoreUnavailable) as raised:
                store.create("blocks/a", b"")
            # The end of a connection may be quicker than the alert that says why; those who try again hear it.
            if "the TLS connection broke" not in str(raised.value):
                break
    assert re.search(re.escape(said).replace(r"\.\*", ".*").replace(r"\|", "|"), str(raised.value))
    assert "secret" not in str(raised.value)


def test_a_host_for_which_the_certificate_is_not_is_named(secured: Secured, tmp_path: Path) -> None:
    # The same machine by another of its names.
    with (
        closing(EtcdStore.open(secured.url(location=f"[::1]:{PORT}/weft", timeout="1"))) as store,
        pytest.raises(StoreUnavailable, match=r"etcd at \[::1\]:2379: Connection refused"),
    ):
        store.entries("")
    only_name = signed(
        tmp_path, "elsewhere", Pair(secured.folder / "ca.pem", secured.folder / "ca.key"), "DNS:other"
    )
    options = ("--cert-file", str(only_name.cert), "--key-file", str(only_name.key))
    server = Etcd(secured.server.namespace, tmp_path / "elsewhere", "127.0.0.3", scheme="https", options=options)
    try:
        server.start()
        with (
            closing(EtcdStore.open(f"etcds://127.0.0.3?ca={secured.folder}/ca.pem&timeout=1")) as store,
            pytest.raises(
                StoreUnavailable, match="not valid for '127.0.0.3'.*give the name or address for which it is"
            ),
        ):
            store.entries("")
    finally:
        server.end()


def test_tls_on_one_side_only_is_named(secured: Secured, tmp_path: Path) -> None:
    plain = Etcd(secured.server.namespace, tmp_path / "plain", "127.0.0.4")
    try:
        plain.start()
        for url, said in (
            (f"etcd://127.0.0.1:{PORT}?timeout=1", "it speaks TLS: write etcds://|the connection broke"),
            (f"etcds://127.0.0.4?ca={secured.folder}/ca.pem&timeout=1", "TLS.*etcd:// in --store"),
        ):
            with closing(EtcdStore.open(url)) as store, pytest.raises(StoreUnavailable, match=said):
                store.entries("")
    finally:
        plain.end()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ca": "client.key"}, "holds no CA certificate: give a PEM file"),
        ({"key": "stranger.key"}, "are no pair of a certificate and its key"),
    ],
)
def test_files_that_are_no_certificates_are_named_at_once(
    secured: Secured, changes: dict[str, str], said: str
) -> None:
    values = {name: str(secured.folder / value) for name, value in changes.items()}
    with pytest.raises(ValueError, match=said):
        EtcdStore.open(secured.url(**values))
