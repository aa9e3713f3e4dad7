"""Rulesets, through the library and through the program."""

import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from tests.namespaces import inside, run
from weft.kernel import nftables
from weft.kernel.nftables import NftablesError, NftContext, explained

SET = "table ip weft {\n  set pods {\n    type ipv4_addr\n  }\n}\n"


@pytest.fixture(params=["library", "program"])
def context(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[], NftContext]:
    """Makes a context of either sort."""
    if request.param == "library" and nftables._library() is None:
        pytest.skip("libnftables.so.1 is not installed")
    if request.param == "program":
        monkeypatch.setattr(nftables, "_library", lambda: None)
    return NftContext


def test_apply_and_list(context: Callable[[], NftContext], namespace: str) -> None:
    def work() -> str:
        with context() as opened:
            opened.apply(SET)
            opened.apply("add element ip weft pods { 10.0.0.1 }\n")
            return opened.list("table ip weft")

    assert "elements = { 10.0.0.1 }" in inside(namespace, work)
    assert "elements = { 10.0.0.1 }" in run("nft", "list", "ruleset", namespace=namespace)


def test_all_or_nothing_and_the_line_at_fault(context: Callable[[], NftContext], namespace: str) -> None:
    def work() -> str:
        with context() as opened:
            opened.apply(SET)
            with pytest.raises(NftablesError) as raised:
                opened.apply("add element ip weft pods { 10.0.0.1 }\nadd rule ip weft absent accept\n")
            assert raised.value.line == 2
            assert "line 2: " in str(raised.value)
            assert str(raised.value).endswith(": add rule ip weft absent accept")
            return opened.list()

    assert "10.0.0.1" not in inside(namespace, work)


def test_an_error_is_short(context: Callable[[], NftContext], namespace: str) -> None:
    many = ", ".join(f"10.{number >> 8}.{number & 255}.1" for number in range(5000))

    def work() -> None:
        with context() as opened:
            opened.apply(f"add element ip absent pods {{ {many} }}\n")

    with pytest.raises(NftablesError) as raised:
        inside(namespace, work)
    assert len(str(raised.value)) < 500


def test_a_context_belongs_to_the_namespace_it_was_made_in(
    context: Callable[[], NftContext], namespace: str, pod: str
) -> None:
    opened = inside(namespace, context)
    inside(pod, lambda: opened.apply(SET))
    assert "pods" in run("nft", "list", "ruleset", namespace=namespace)
    assert run("nft", "list", "ruleset", namespace=pod) == ""
    opened.close()
    opened.close()


def test_replacing_a_table_at_one_stroke(context: Callable[[], NftContext], namespace: str) -> None:
    def work() -> str:
        with context() as opened:
            opened.apply(SET + "add element ip weft pods { 10.0.0.1 }\n")
            opened.apply("table ip weft\ndelete table ip weft\n" + SET)
            return opened.list()

    assert "10.0.0.1" not in inside(namespace, work)


def test_threads_share_the_parser(context: Callable[[], NftContext], namespace: str) -> None:
    failures: list[BaseException] = []
    opened = inside(namespace, context)
    opened.apply(SET)

    def work(number: int) -> None:
        try:
            for step in range(10):
                opened.apply(f"add element ip weft pods {{ 10.0.{number}.{step} }}\n")
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert opened.list().count("10.0.") == 40
    opened.close()


def test_a_single_ruleset(namespace: str) -> None:
    inside(namespace, lambda: nftables.apply(SET))
    assert "pods" in run("nft", "list", "ruleset", namespace=namespace)


def test_nul_is_refused() -> None:
    with NftContext() as opened, pytest.raises(NftablesError, match="NUL"):
        opened.apply("list ruleset\0")


@pytest.mark.parametrize(
    ("complaint", "line", "expected"),
    [
        ("/dev/stdin:2:1-3: Error: syntax error\nfoo\n^^^\n", 2, "nftables refused line 2: syntax error: two"),
        ("/dev/stdin:9:1-3: Error: odd\n", None, "nftables refused the ruleset: odd"),
        ("Error: no place\nfoo\n", None, "nftables refused the ruleset: no place"),
        ("", None, "nftables refused the ruleset: no reason given"),
        ("internal:0:0-0: Error: Could not process rule", None, "refused the ruleset: Could not process rule"),
    ],
)
def test_complaints_are_read(complaint: str, line: int | None, expected: str) -> None:
    error = explained(complaint, "one\n  two\nthree\n")
    assert error.line == line
    assert expected in str(error)


RULES = """table inet weft {
  set pods { type ipv4_addr; elements = { 10.0.0.1, 10.0.0.2 }; }
  chain one { comment "of rules"; ip saddr @pods accept comment "a { b"; tcp dport { 80, 443 } accept; }
  map ways { type inet_service : verdict; elements = { 1 : accept }; }
  chain two { }
  chain three { type filter hook input priority 0; policy accept; tcp dport vmap @ways; jump one; }
}
"""


def test_chains_and_their_rules(context: Callable[[], NftContext], namespace: str) -> None:
    """Sets, maps, types and comments are no rules; handles are what deletes."""

    def work() -> None:
        with context() as opened:
            opened.apply(RULES)
            chains = opened.chains("inet weft")
            assert {name: list(rules.values()) for name, rules in chains.items()} == {
                "one": ['ip saddr @pods accept comment "a { b"', "tcp dport { 80, 443 } accept"],
                "two": [],
                "three": ["tcp dport vmap @ways", "jump one"],
            }
            assert all(opened.rules(f"inet weft {name}") == rules for name, rules in chains.items())
            handle = next(iter(chains["three"]))
            opened.apply(f"delete rule inet weft three handle {handle}\n")
            assert list(opened.chains("inet weft")["three"].values()) == ["jump one"]
            assert opened.chains("inet absent") == {} == opened.rules("inet weft absent")

    inside(namespace, work)


def test_a_threads_context_is_kept_and_goes_with_the_namespace(namespace: str) -> None:
    def work() -> None:
        kept = nftables.context()
        nftables.apply(SET)
        assert nftables.context() is kept
        assert "set pods" in kept.list("table ip weft")

    inside(namespace, work)
    assert inside(namespace, nftables.context) is not inside(namespace, nftables.context)


def test_a_context_that_is_kept_to_the_end_ends_quietly(namespace: str) -> None:
    code = "import sys; from weft.kernel import nftables; sys.kept = nftables; nftables.context().list('tables')"
    done = subprocess.run(
        ["nsenter", f"--net=/run/netns/{namespace}", sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
