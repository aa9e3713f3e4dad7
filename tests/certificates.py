"""Certificates for tests: made on the spot, good for a day."""

import ssl
import subprocess
from pathlib import Path


def certificate(folder: Path, name: str = "server") -> Path:
    """A certificate for 127.0.0.1 that vouches for itself, with its key beside it (``.key``)."""
    path = folder / f"{name}.crt"
    subject = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]
    command = [
        "openssl",
        "req",
        "-x509",
        *kind,
        *subject,
        "-keyout",
        str(path.with_suffix(".key")),
        "-out",
        str(path),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return path


def tls_context(path: Path) -> ssl.SSLContext:
    """What a server needs to show the certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, path.with_suffix(".key"))
    return context
