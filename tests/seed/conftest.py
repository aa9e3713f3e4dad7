"""A lab of the seed's shape that the very manifest runs in; one for all files of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.image import built_image
from tests.lab.test_lab import Lab, own_network

MANIFEST = Path(__file__).parents[2] / "deploy" / "weave-daemonset-k8s.yaml"
#: The seed's cluster: a range of its own, an underlay inside the default one.
RANGE, UNDERLAY = "10.244.0.0/16", "10.32.201.0/24"
CREATED = """\
serviceaccount/weave-net created
clusterrole.rbac.authorization.k8s.io/weave-net created
clusterrolebinding.rbac.authorization.k8s.io/weave-net created
role.rbac.authorization.k8s.io/weave-net created
rolebinding.rbac.authorization.k8s.io/weave-net created
daemonset.apps/weave-net created
"""


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab of the seed's shape, with its manifest applied by kubectl."""
    before, made = own_network(), Lab()
    # Weave's users set the range of a cluster in the manifest, and so do we.
    text = MANIFEST.read_text()
    place = "            - name: WEFT_STORE\n"
    assert text.count(place) == 1
    own = f'            - name: IPALLOC_RANGE\n              value: "{RANGE}"\n'
    manifest = tmp_path_factory.mktemp("weave") / MANIFEST.name
    manifest.write_text(text.replace(place, own + place))
    try:
        made.weft("up", "--store", "kubernetes", "--range", RANGE, "--underlay", UNDERLAY, "--pods-per-node", "1")
        made.weft("load", str(built_image()))
        assert made.weft("kubectl", "apply", "-f", str(manifest)) == CREATED
        assert made.weft("apply", "-f", str(manifest)) == CREATED.replace("created", "unchanged")
        yield made
    finally:
        made.weft("down")
        assert made.left() == []
        assert made.cgroups() == []
        assert own_network() == before
