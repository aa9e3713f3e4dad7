"""What clients need to speak to the lab's API server: its certificate, and kubeconfigs that hold it."""

import base64
import os
import subprocess
from pathlib import Path

import yaml

from weft.lab.api.rbac import ADMIN_TOKEN
from weft.lab.topology import LabError

#: Days; longer than any lab.
_VALID = 3650


def make_certificate(folder: Path, address: str) -> tuple[Path, Path]:
    """A certificate for an address that vouches for itself, and its key; made once. Raises LabError."""
    certificate, key = folder / "server.crt", folder / "server.key"
    if not certificate.exists():
        made = folder / "server.crt.new"
        command = [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-days", str(_VALID), "-subj", "/CN=kube-apiserver", "-addext", f"subjectAltName=IP:{address}",
            "-keyout", str(key), "-out", str(made),
        ]  # fmt: skip
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except FileNotFoundError:
            raise LabError("openssl is not installed: run 'make setup', which installs what is needed") from None
        except subprocess.CalledProcessError as error:
            raise LabError(f"openssl makes no certificate: {error.stderr.strip()}") from None
        made.rename(certificate)
    return certificate, key


def write_kubeconfig(path: Path, server: str, certificate: Path) -> None:
    """An administrator's kubeconfig, readable by its owner alone, whole or not at all."""
    authority = base64.b64encode(certificate.read_bytes()).decode()
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "kubernetes", "cluster": {"server": server, "certificate-authority-data": authority}}
        ],
        "users": [{"name": "kubernetes-admin", "user": {"token": ADMIN_TOKEN}}],
        "contexts": [
            {
                "name": "kubernetes-admin@kubernetes",
                "context": {"cluster": "kubernetes", "user": "kubernetes-admin"},
            }
        ],
        "current-context": "kubernetes-admin@kubernetes",
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.touch(mode=0o600)
    temporary.write_text(yaml.safe_dump(content))
    temporary.rename(path)
