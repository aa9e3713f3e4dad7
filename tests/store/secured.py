"""An etcd that wants a certificate and a user."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.store.certificates import Pair, authority, signed
from tests.store.etcd import PORT, Etcd, etcd

Start = Callable[..., AbstractContextManager[Etcd]]


@dataclass(frozen=True)
class Secured:
    """An etcd that wants a certificate and a user, and what its clients have."""

    server: Etcd
    folder: Path
    client: Pair
    stranger: Pair
    _trust: tuple[str, ...]

    def control(self, *words: str) -> str:
        """What etcdctl says to root."""
        return self.server.control(*words, options=(*self._trust, "--user", "root:secret of root"))

    def url(self, *, location: str = f"127.0.0.1:{PORT}/weft", user: str = "weft", **changes: str | Path) -> str:
        options: dict[str, str | Path] = {
            "ca": self.folder / "ca.pem",
            "cert": self.client.cert,
            "key": self.client.key,
            "user": user,
            "password-file": self.folder / f"{user}.password",
            "timeout": "3",
            **{name.replace("_", "-"): value for name, value in changes.items()},
        }
        return f"etcds://{location}?" + "&".join(f"{name}={value}" for name, value in options.items() if value)


@contextmanager
def secured_etcd(folder: Path, start: Start = etcd) -> Iterator[Secured]:
    """With certificates in the folder. ``start`` is given etcd's options."""
    ca, other = authority(folder, "ca"), authority(folder, "other-ca")
    served = signed(folder, "server", ca, "IP:127.0.0.1,DNS:localhost")
    client, stranger = signed(folder, "client", ca, "DNS:node"), signed(folder, "stranger", other, "DNS:node")
    signed(folder, "named", ca, "DNS:node", "/CN=weft")
    options = (
        "--cert-file", str(served.cert), "--key-file", str(served.key),
        "--client-cert-auth", "--trusted-ca-file", str(ca.cert), "--bcrypt-cost", "4",
    )  # fmt: skip
    for user in ("root", "weft", "guest"):
        (folder / f"{user}.password").write_text(f"secret of {user}\n")
    with start(*options, scheme="https") as server:
        trust = (f"--cacert={ca.cert}", f"--cert={client.cert}", f"--key={client.key}")
        for words in (
            "user add root:secret of root",
            "user add weft:secret of weft",
            "user add guest:secret of guest",
        ):
            server.control(*words.split(" ", 2), options=trust)
        for words in (
            "user grant-role root root",
            "role add weft",
            "role grant-permission weft --prefix=true readwrite /weft",
            "user grant-role weft weft",
            "auth enable",
        ):
            server.control(*words.split(), options=trust)
        yield Secured(server, folder, client, stranger, trust)
