"""Every page of docs/plugins: its example runs as it stands.

What a page has to keep to, so that its example is executed here:

- The example is the page's only block that opens with ```` ```json ```` and is an object with ``cniVersion``:
  either one plugin's configuration (``type``) or a list (``plugins``). It needs a ``name``. Snippets without
  ``cniVersion`` are not executed.
- ```` ```console ```` blocks before the example say what it needs, such as a master device, a file or a server.
  They are run as a shell script (``sh -e``) in the host's network namespace: plain commands without a prompt.
  Processes left in the background end with the example. Blocks behind the example are for the reader only.
- A block that opens with ```` ```json runtime ```` holds what a runtime passes as capability arguments, such as
  ``{"portMappings": […]}``; each plugin gets those that its ``capabilities`` declare.

The example is attached (ADD), checked where its version has CHECK, and detached (DEL) as ``eth0`` of a container;
then the container has the devices that it had before. The paths that it names are those of a real host: /etc, /run
and /var are put over with temporary file systems, so examples need no folders of their own for tests, and nothing
of the machine is changed. /run/netns/host and /run/netns/pod are the two namespaces; the plugins are those of this
package, found in CNI_PATH as on a host.

A device kind that the kernel lacks skips the page with the kernel's reason: add the kind to ``NEEDS``.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.namespaces import network_namespace, path
from tests.plugins.twins import lacking
from weft.plugins import registry

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "plugins").glob("*.md"))

#: By plugin: ip(8) commands that make what it makes.
_LOWER = "link add name lower type veth peer name other"
NEEDS = {
    "dummy": ("link add name upper type dummy",),
    "ipvlan": (_LOWER, "link add link lower name upper type ipvlan"),
    "macvlan": (_LOWER, "link add link lower name upper type macvlan"),
    "tap": ("tuntap add mode tap name upper",),
    "vlan": (_LOWER, "link add link lower name upper type vlan id 5"),
    "vrf": ("link add name upper type vrf table 10",),
}
_BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Page:
    """What is executed of a page."""

    def __init__(self, text: str) -> None:
        self.script = ""
        self.runtime: dict[str, Any] = {}
        examples: list[dict[str, Any]] = []
        for language, words, body in _BLOCK.findall(text):
            if language == "console" and not examples:
                self.script += body
            if language != "json":
                continue
            value = json.loads(body)
            if words.strip() == "runtime":
                self.runtime = value
            elif isinstance(value, dict) and "cniVersion" in value:
                examples.append(value)
        assert len(examples) == 1, f"a page has one complete example, this has {len(examples)}"
        self.example = examples[0]

    @property
    def chain(self) -> list[dict[str, Any]]:
        """The plugins' configurations, in order, as a runtime sends them."""
        common = {key: self.example[key] for key in ("cniVersion", "name")}
        return [{**plugin, **common} for plugin in self.example.get("plugins", [self.example])]


def types(value: Any) -> set[str]:
    """Every ``type`` in a configuration, however deep: plugins, IPAM, delegates."""
    if isinstance(value, list):
        return set().union(*map(types, value))
    if not isinstance(value, dict):
        return set()
    return {str(value["type"]) for _ in (1,) if "type" in value}.union(*map(types, value.values()))


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.stem)
def test_the_example_runs(file: Path) -> None:
    page = Page(file.read_text())
    for kind in sorted(types(page.example)):
        if reason := lacking(*NEEDS.get(kind, ())):
            pytest.skip(reason)
    call = {"script": page.script, "chain": page.chain, "runtime": page.runtime}
    with network_namespace() as host, network_namespace() as pod:
        done = subprocess.run(
            [
                *("nsenter", f"--net={path(host)}"),
                *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
                *(sys.executable, "-m", "tests.plugins.example", path(host), path(pod)),
            ],
            input=json.dumps(call),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            cwd=ROOT,
        )
    assert done.returncode == 0, f"{file.name}: {done.stderr}{done.stdout}"


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.stem)
def test_the_page_is_a_plugins_and_shows_it(file: Path) -> None:
    assert file.stem in registry.BY_NAME, f"there is no plugin {file.stem!r}"
    text = file.read_text()
    assert text.startswith("# ")
    assert "\n| key |" in text or "no keys" in text, "a page has a table of keys, or says that there are none"
    assert file.stem in types(Page(text).example), "a page's example uses the page's plugin"
