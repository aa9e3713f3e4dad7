"""A folder of manifests: read, followed, and kept where a file cannot be read."""

import threading
from pathlib import Path
from queue import Queue

import pytest
import yaml

from tests.policy.clusters import policy
from weft.npc.folder import FolderSource, documents
from weft.npc.source import Batch


def write(path: Path, *objects: object) -> None:
    path.write_text(yaml.safe_dump_all(objects))


def test_the_folder_is_read(tmp_path: Path) -> None:
    pod = {"kind": "Pod", "metadata": {"name": "a"}}
    write(tmp_path / "one.yaml", policy("x", "p", podSelector={}), {"kind": "List", "items": [pod]})
    (tmp_path / "two.json").write_text('{"kind": "Namespace", "metadata": {"name": "x"}}')
    (tmp_path / "notes.txt").write_text("not a manifest")
    write(tmp_path / "other.yml", {"kind": "Deployment"}, None)
    (tmp_path / ".revision").write_text("seven\n")
    found = FolderSource(tmp_path).read()
    assert [item.key for item in found.policies] == [("x", "p")]
    assert [item.key for item in found.pods] == [("default", "a")]
    assert [item.name for item in found.namespaces] == ["x"]
    assert found.revision == "seven"
    assert found.problems == ("other.yml: kind 'Deployment': there are Pod, Namespace, NetworkPolicy",)


@pytest.mark.parametrize("text", ["a: [", "{", "\x00", "!!python/object/apply:os.system [id]"])
def test_a_slip_of_the_pen_keeps_what_was_said(tmp_path: Path, text: str) -> None:
    write(tmp_path / "p.yaml", policy("x", "p", podSelector={}))
    write(tmp_path / "q.yaml", policy("x", "q", podSelector={}))
    source = FolderSource(tmp_path)
    source.read()
    (tmp_path / "p.yaml").write_text(text)
    (tmp_path / "q.yaml").unlink()
    found = source.read()
    assert [item.key for item in found.policies] == [("x", "p")]
    assert found.problems[0].startswith("p.yaml: ")
    write(tmp_path / "p.yaml", policy("x", "mended", podSelector={}))
    found = source.read()
    assert ([item.name for item in found.policies], found.problems) == (["mended"], ())


def test_changes_are_followed(tmp_path: Path) -> None:
    """Also of a folder that comes later."""
    folder, batches, stopping = tmp_path / "policies", Queue[Batch](), threading.Event()

    def follow() -> None:
        for batch in FolderSource(folder).batches(stopping.is_set):
            batches.put(batch)

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        assert batches.get(timeout=10) == Batch(whole=True)
        folder.mkdir()
        write(folder / "p.yaml", policy("x", "p", podSelector={}))
        while not batches.get(timeout=10).policies:
            pass
        (folder / "p.yaml").unlink()
        while batches.get(timeout=10).policies:
            pass
    finally:
        stopping.set()
        thread.join()


def test_lists_and_documents() -> None:
    assert documents(b"a: 1\n---\n---\nitems: [{b: 2}, {c: 3}]\n") == [{"a": 1}, {"b": 2}, {"c": 3}]
