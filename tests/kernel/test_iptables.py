"""iptables: tables read and edited, in the form that the programs themselves choose."""

import shlex
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.namespaces import inside, run
from weft.kernel import iptables
from weft.kernel.iptables import IptablesError, Table

pytestmark = pytest.mark.skipif(not iptables.available(), reason="iptables is not installed (Debian: iptables)")

WORDS = st.text(st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="\u2028\u2029"))


@given(st.lists(WORDS))
def test_what_is_quoted_is_read_back(words: list[str]) -> None:
    assert iptables.unquoted(iptables.quoted(words)) == words == shlex.split(iptables.quoted(words))


@pytest.mark.parametrize("word", ["a\nCOMMIT", "\0"])
def test_a_line_end_is_not_quoted(word: str) -> None:
    with pytest.raises(ValueError, match="line's end"):
        iptables.quoted([word])


NAMES = st.sampled_from(["CNI-A", "CNI-B", "CNI-AB", "INPUT"])
TABLES = st.dictionaries(NAMES, st.lists(st.builds("-s 10.0.0.0/8 -j {}".format, NAMES)), min_size=1)


@given(TABLES)
def test_a_table_is_what_was_saved(chains: dict[str, list[str]]) -> None:
    saved = ["# by iptables-save", "*nat", *(f":{chain} - [1:60]" for chain in chains)]
    saved += [f"-A {chain} {rule}" for chain, rules in chains.items() for rule in rules]
    assert iptables.parse("nat", "\n".join((*saved, "COMMIT"))) == Table("nat", chains)


@given(TABLES, st.lists(NAMES, unique=True))
def test_a_removal_leaves_no_reference(chains: dict[str, list[str]], gone: list[str]) -> None:
    """The lines, applied in order by hand, leave neither the chains nor a rule that leads to them."""
    left = {chain: list(rules) for chain, rules in chains.items()}
    for line in iptables.removal(Table("nat", chains), gone):
        match line.split(" ", 2):
            case ["-D", chain, rule]:
                # A chain that was there once is empty when it is left, or gone.
                if rule in left.get(chain, []):
                    left[chain].remove(rule)
            case ["-X", chain]:
                assert not left.pop(chain)
            case [empty, *_]:
                left[empty.removeprefix(":")] = []
    assert not set(left) & set(gone)
    assert not [rule for rules in left.values() for rule in rules if rule.rpartition(" ")[2] in gone]


def test_all_lines_or_none(namespace: str) -> None:
    def work() -> None:
        iptables.apply(4, "nat", ["-N ONE", "-A ONE -s 10.0.0.0/8 -j RETURN", "-A OUTPUT -j ONE"])
        with pytest.raises(IptablesError, match="line 3.*: -A NONE -j ACCEPT"):
            iptables.apply(4, "nat", ["-N TWO", "-A NONE -j ACCEPT"])
        table = iptables.read(4, "nat")
        assert table.rules("ONE") == ["-s 10.0.0.0/8 -j RETURN"]
        assert table.references("ONE") == [("OUTPUT", "-j ONE")]
        assert "TWO" not in table.chains

    inside(namespace, work)


@pytest.mark.parametrize("wrong", ["-C ONE -j DROP", "-N ONE", "-D ONE -j DROP", "-X ONE", "-F NONE"])
def test_an_attempt_fails_where_it_presumes_wrongly(namespace: str, wrong: str) -> None:
    def work() -> None:
        iptables.apply(4, "filter", ["-N ONE", "-A ONE -j ACCEPT", "-A FORWARD -j ONE"])
        before = iptables.read(4, "filter")
        assert not iptables.attempt(4, "filter", ["-A ONE -s 10.0.0.1 -j DROP", wrong])
        assert iptables.read(4, "filter") == before
        assert iptables.attempt(4, "filter", ["-C ONE -j ACCEPT", "-C FORWARD -j ONE", "-N TWO"])
        assert "TWO" in iptables.read(4, "filter").chains

    inside(namespace, work)


def test_an_edit_starts_anew_where_the_table_changed(namespace: str) -> None:
    """Somebody makes the chain between the reading and the writing; their rule stays."""
    readings = []

    def change(table: Table) -> list[str]:
        readings.append(table)
        if len(readings) == 1:
            run("iptables", "-N", "SHARED", namespace=namespace)
            run("iptables", "-A", "SHARED", "-j", "RETURN", namespace=namespace)
        return [*([] if "SHARED" in table.chains else ["-N SHARED"]), "-A SHARED -j ACCEPT"]

    inside(namespace, lambda: iptables.edit(4, "filter", change))
    assert len(readings) == 2
    assert inside(namespace, lambda: iptables.read(4, "filter")).rules("SHARED") == ["-j RETURN", "-j ACCEPT"]


def test_an_edit_that_is_wrong_is_not_repeated_for_ever(namespace: str) -> None:
    readings = []

    def change(table: Table) -> list[str]:
        readings.append(table)
        return ["-A NONE -j ACCEPT"]

    with pytest.raises(IptablesError, match="NONE"):
        inside(namespace, lambda: iptables.edit(4, "filter", change))
    assert len(readings) == 1


def test_edits_side_by_side_all_count(namespace: str) -> None:
    def add(number: int) -> None:
        def change(table: Table) -> list[str]:
            return [
                *([] if "SHARED" in table.chains else ["-N SHARED"]),
                f"-A SHARED -s 10.0.0.{number} -j ACCEPT",
            ]

        inside(namespace, lambda: iptables.edit(4, "filter", change))

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(inside(namespace, lambda: iptables.read(4, "filter")).rules("SHARED")) == 8


def test_usable(namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert inside(namespace, iptables.usable)
    monkeypatch.setenv("PATH", "/nonexistent")
    assert not inside(namespace, iptables.usable)
    with pytest.raises(IptablesError, match="not installed"):
        inside(namespace, lambda: iptables.read(4, "nat"))
