"""What an etcd URL may say."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.store.etcd_settings import Endpoint, parse_etcd_url


def test_a_short_url_has_defaults() -> None:
    settings = parse_etcd_url("etcd://10.0.0.1", {})
    assert settings.endpoints == (Endpoint("10.0.0.1", 2379),)
    assert (settings.prefix, settings.tls, settings.timeout, settings.user) == ("/weft", False, 5.0, None)
    assert settings.presence == 60


def test_a_long_url_says_all(tmp_path: Path) -> None:
    for name in ("ca", "cert", "key", "password"):
        (tmp_path / name).write_text("secret\n")
    settings = parse_etcd_url(
        f"etcds://etcd-1.example:2379,[fd00::1]:4001,10.0.0.3/net/blue/?ca={tmp_path}/ca&cert={tmp_path}/cert"
        f"&key={tmp_path}/key&user=weft&password-file={tmp_path}/password&timeout=2.5&cluster=blue&presence=20",
        {"WEFT_ETCD_USER": "other", "WEFT_ETCD_PASSWORD": "other"},
    )
    assert [str(endpoint) for endpoint in settings.endpoints] == [
        "etcd-1.example:2379",
        "[fd00::1]:4001",
        "10.0.0.3:2379",
    ]
    assert (settings.prefix, settings.ancestors, settings.tls) == ("/net/blue", ["/net"], True)
    assert (settings.user, settings.password(), settings.timeout, settings.cluster) == (
        "weft",
        "secret",
        2.5,
        "blue",
    )
    assert settings.presence == 20


def test_the_environment_has_the_credentials() -> None:
    settings = parse_etcd_url("etcd://a", {"WEFT_ETCD_USER": "weft", "WEFT_ETCD_PASSWORD": "hidden"})
    assert (settings.user, settings.password()) == ("weft", "hidden")
    assert "hidden" not in repr(settings)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("etcd://", "endpoint '' is not HOST:PORT"),
        ("etcd://a:0", "endpoint 'a:0'"),
        ("etcd://a:2379:1", "endpoint 'a:2379:1'"),
        ("etcd://a,,b", "endpoint ''"),
        ("etcd://fd00::1", "endpoint 'fd00::1'"),
        ("etcd://a,a:2379", "twice"),
        ("etcd://root:hunter2@a", "no user or password in a URL"),
        ("etcd://a/with space", "prefix '/with space'"),
        ("etcd://a//b", "prefix '//b'"),
        ("etcd://a?ca=/x", "ca= needs TLS: write etcds://"),
        ("etcds://a?ca=/nowhere/ca.pem", "ca=/nowhere/ca.pem: No such file"),
        ("etcds://a?cert=/x", "both cert= and key="),
        ("etcd://a?user=weft", "user 'weft' needs password-file=FILE, or WEFT_ETCD_PASSWORD"),
        ("etcd://a?password-file=/x", "password-file= needs user=NAME"),
        ("etcd://a?password=hunter2", "option 'password' is not known"),
        ("etcd://a?timeout=soon", "timeout=soon: give 0.1 to 60 seconds"),
        ("etcd://a?timeout=nan", "timeout=nan"),
        ("etcd://a?presence=2", "presence=2: give 3 to 86400 whole seconds"),
        ("etcd://a?presence=1.5", "presence=1.5"),
        ("etcd://a?cluster=a/b", "cluster=a/b"),
        ("etcd://a?timeout=1&timeout=2", "timeout= must be given once"),
        ("etcd://a?timeout", "NAME=VALUE"),
    ],
)
def test_what_cannot_be_used_is_named_and_no_password_is_shown(url: str, said: str) -> None:
    with pytest.raises(ValueError, match="^store") as raised:
        parse_etcd_url(url, {})
    assert said in str(raised.value)
    assert "hunter2" not in str(raised.value)


@given(st.text(max_size=40), st.text(max_size=20), st.text(max_size=30))
def test_any_text_is_taken_whole_or_refused(authority: str, path: str, query: str) -> None:
    try:
        settings = parse_etcd_url(f"etcd://{authority}/{path}?{query}", {})
    except ValueError as error:
        assert str(error).startswith("store")
        return
    assert settings.prefix.startswith("/")
    assert not settings.prefix.endswith("/")
    assert "//" not in settings.prefix
    assert all(endpoint.host and 0 < endpoint.port < 65536 for endpoint in settings.endpoints)
