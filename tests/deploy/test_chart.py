"""The Helm chart renders the manifest.

Helm is in no package of Debian, so what the templates use of it (values, and settings one after another) is done
here; where Helm's SDK is installed (``pip install helm-python-sdk``), it renders the chart too.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = DEPLOY / "chart"
TEMPLATE = CHART / "templates" / "weave-net.yaml"
_RANGE = re.compile(
    r"\n *\{\{- range \$name, \$value := \.Values\.(?P<key>\w+) \}\}(?P<body>.*?)\n *\{\{- end \}\}", re.DOTALL
)
SETTINGS: list[dict[str, Any]] = [
    {},
    {"image": "registry.example/weft:2", "imagePullPolicy": "Always"},
    {"env": {"IPALLOC_RANGE": "10.244.0.0/16", "WEAVE_MTU": "1400"}, "npcEnv": {"WEFT_POLICY_LOG": "true"}},
]


def rendered(changes: dict[str, Any]) -> list[Any]:
    values = yaml.safe_load((CHART / "values.yaml").read_text()) | changes

    def listed(found: re.Match[str]) -> str:
        return "".join(
            found["body"].replace("{{ $name }}", name).replace("{{ $value | quote }}", json.dumps(value))
            for name, value in values[found["key"]].items()
        )

    text = _RANGE.sub(listed, TEMPLATE.read_text())
    text = re.sub(r"\{\{ \.Values\.(\w+) \}\}", lambda found: str(values[found[1]]), text)
    assert "{{" not in text
    return list(yaml.safe_load_all(text))


def manifest() -> list[Any]:
    return list(yaml.safe_load_all((DEPLOY / "weave-daemonset-k8s.yaml").read_text()))


def test_the_chart_renders_the_manifest() -> None:
    assert rendered({}) == manifest()


def test_values_go_where_they_belong() -> None:
    pod = rendered(SETTINGS[2] | SETTINGS[1])[-1]["spec"]["template"]["spec"]
    agent, npc = pod["containers"]
    assert {one["image"] for one in (agent, npc, *pod["initContainers"])} == {"registry.example/weft:2"}
    assert {"name": "IPALLOC_RANGE", "value": "10.244.0.0/16"} in agent["env"]
    assert {"name": "WEAVE_MTU", "value": "1400"} in agent["env"]
    assert {"name": "WEFT_POLICY_LOG", "value": "true"} in npc["env"]


@pytest.mark.parametrize("changes", SETTINGS, ids=["as it is", "image", "settings"])
def test_helm_renders_the_same(changes: dict[str, Any]) -> None:
    helm = pytest.importorskip("helm_python", reason="Helm's SDK is not installed (pip install helm-python-sdk)")
    with helm.Chart.load(str(CHART)) as chart:
        found = chart.render(values=changes, name="weave-net", namespace="kube-system")
    assert list(yaml.safe_load_all("".join(found.values()))) == rendered(changes)
