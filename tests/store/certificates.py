"""Certificates for tests, made with openssl."""

from dataclasses import dataclass
from pathlib import Path

from tests.namespaces import run


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, in PEM."""

    cert: Path
    key: Path


def authority(folder: Path, name: str) -> Pair:
    """A CA of its own."""
    return _make(folder, name, f"/CN={name}", "-addext", "basicConstraints=critical,CA:TRUE")


def signed(folder: Path, name: str, ca: Pair, alternatives: str, subject: str = "/O=weft") -> Pair:
    """A certificate for the names and addresses, such as ``IP:127.0.0.1,DNS:localhost``."""
    return _make(
        folder, name, subject, "-CA", str(ca.cert), "-CAkey", str(ca.key),
        "-addext", f"subjectAltName={alternatives}", "-addext", "basicConstraints=CA:FALSE",
    )  # fmt: skip


def _make(folder: Path, name: str, subject: str, *options: str) -> Pair:
    pair = Pair(folder / f"{name}.pem", folder / f"{name}.key")
    run(
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
        "-days", "2", "-subj", subject, "-keyout", str(pair.key), "-out", str(pair.cert), *options,
    )  # fmt: skip
    return pair
