"""What an agent says where its etcd, or what it was told of it, is not right; and that one that runs goes on."""

from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tests.agent.test_agent import eventually, refusal_of
from tests.namespaces import path
from tests.nodes import beginner, cluster, pod
from tests.store.etcd import PORT, etcd_in
from tests.store.secured import Secured, secured_etcd

#: What is not right in the store's URL, further words, the exit status, and what is said. Who may be let in later
#: waits for it, without a status.
MISTAKES: tuple[tuple[dict[str, str], tuple[str, ...], int | None, str], ...] = (
    ({"location": f"127.0.0.1:1,127.0.0.1:{PORT + 1}/weft"}, (), None,
     "etcd at 127.0.0.1:1: Connection refused: check that etcd listens there, or give other endpoints in --store"),
    ({"scheme": "etcd"}, (), None, "with TLS it is etcds:// in --store"),
    ({"ca": "other-ca.pem"}, (), None, "its certificate is refused"),
    ({"cert": "stranger.pem", "key": "stranger.key"}, (), None, "give cert=FILE and key=FILE that its CA signed"),
    ({"password_file": "root.password"}, (), None, "the user 'weft' or its password is not right: correct user="),
    ({"user": "guest"}, (), None, "permission denied: give user 'guest' a role for the prefix"),
    ({"ca": "none.pem"}, (), 2, "none.pem: No such file or directory: give a file that this agent can read"),
    ({"location": f"127.0.0.1:{PORT}/weft/within"}, (), None, "prefix /weft/within lies inside of /weft"),
    ({"location": f"127.0.0.1:{PORT}/wefts"}, (), None, "holds keys that are not Weft's, such as /wefts/a"),
    ({"cluster": "blue"}, (), None, "blue"),
    ({}, ("--range", "10.99.0.0/16"), 2, "10.244.0.0/25"),
    ({}, ("--node-name", "elsewhere"), 2, "node name 'elsewhere' belongs to the node at 10.9.9.9"),
)  # fmt: skip
RANGE = ("--range", "10.244.0.0/25")
ELSEWHERE = '{"address":"10.9.9.9","linkAddress":"02:00:00:00:00:09","gateway":null,"instance":"other"}'


def url(secured: Secured, changes: dict[str, str]) -> str:
    files = ("ca", "cert", "key", "password_file")
    values = {name: str(secured.folder / value) if name in files else value for name, value in changes.items()}
    values.setdefault("timeout", "0.7")
    scheme = values.pop("scheme", "etcds")
    if scheme == "etcd":
        values |= {"ca": "", "cert": "", "key": ""}
    return scheme + secured.url(**values).removeprefix("etcds")


def test_mistakes_are_named_in_one_line_and_touch_nothing(tmp_path: Path) -> None:
    (tmp_path / "etcd").mkdir()
    with (
        cluster(tmp_path, ("node01",), *RANGE) as (node,),
        secured_etcd(tmp_path / "etcd", partial(etcd_in, node.namespace)) as secured,
        pod() as a,
        pod() as b,
    ):
        # Another cluster's keys, another application's, and a node that has one of the names.
        node.options += ("--store", url(secured, {}))
        node.start()
        assert eventually(lambda: len(node.report()["ipam"]["blocks"]) == 2)
        secured.control("put", "/wefts/a", "not ours")
        secured.control("put", "/weft/nodes/elsewhere", ELSEWHERE)
        node.add("a", str(path(a)))
        keys = ("/weft/blocks", "/weft/nodes", "/wefts")
        others = {key: secured.control("get", "--prefix", key) for key in keys}
        with ExitStack() as stack:
            beginners = [
                stack.enter_context(
                    beginner(node, f"{number}", *RANGE, "--store", url(secured, changes), *options)
                )
                for number, (changes, options, _, _) in enumerate(MISTAKES)
            ]
            for one, (_, _, status, said) in zip(beginners, MISTAKES, strict=True):
                assert "secret" not in refusal_of(one, status, said)
        assert others == {key: secured.control("get", "--prefix", key) for key in others}
        # While it runs: its password is no longer right, and then is again.
        log = len(node.log.read_text())
        secured.control("user", "delete", "weft")
        secured.control("user", "add", "weft:another secret")
        secured.control("user", "grant-role", "weft", "weft")
        secured.server.kill()
        secured.server.start()
        assert eventually(lambda: "or its password is not right" in node.log.read_text()[log:], 20)
        assert node.status() == 503
        node.add("b", str(path(b)))
        assert "another secret" not in node.log.read_text()
        (secured.folder / "weft.password").write_text("another secret\n")
        assert eventually(lambda: "the store is back" in node.log.read_text()[log:], 60)
        assert node.status() == 200
