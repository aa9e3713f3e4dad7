"""All that is applied holds against Kubernetes' models, field by field; and the check finds what does not."""

import copy
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from tests.deploy.schema import problems
from tests.deploy.test_chart import DEPLOY, SETTINGS, manifest, rendered

Spoil = Callable[[dict[str, Any]], Any]
Path = tuple[Any, ...]


def places(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """All that is in an object, with the way to it."""
    yield path, value
    if isinstance(value, dict | list):
        for step, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(one, (*path, step))


def replaced(item: Any, path: Path, value: Any) -> Any:
    """A copy with another value in one place."""
    if not path:
        return value
    made = copy.copy(item)
    made[path[0]] = replaced(item[path[0]], path[1:], value)
    return made


def pod(daemonset: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = daemonset["spec"]["template"]["spec"]
    return found


@pytest.mark.parametrize("item", manifest(), ids=lambda item: item["kind"])
def test_the_manifest(item: dict[str, Any]) -> None:
    assert problems(item) == []


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl here")
def test_the_kustomization() -> None:
    """kubectl itself refuses unknown fields of the kustomization."""
    done = subprocess.run(["kubectl", "kustomize", DEPLOY], capture_output=True, text=True, check=True, timeout=60)
    built = list(yaml.safe_load_all(done.stdout))
    assert len(built) == len(manifest())
    assert [found for item in built for found in problems(item)] == []


@pytest.mark.parametrize("changes", SETTINGS, ids=["as it is", "image", "settings"])
def test_the_chart(changes: dict[str, Any]) -> None:
    assert [found for item in rendered(changes) for found in problems(item)] == []


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda item: pod(item).update(hostNetwrok=True), "hostNetwrok: PodSpec has no such field"),
        (lambda item: item["spec"].update(minReadySeconds="5"), "spec.minReadySeconds: '5' is no int"),
        (lambda item: item["spec"].update(minReadySeconds=True), "spec.minReadySeconds: True is no int"),
        (lambda item: pod(item).update(hostNetwork="true"), "hostNetwork: 'true' is no bool"),
        (lambda item: pod(item).update(volumes=None), "volumes: None is no list"),
        (lambda item: pod(item).pop("containers"), "spec.template.spec.containers: is missing"),
        (lambda item: pod(item)["containers"][0]["env"][3].update(value=1), "env[3].value: 1 is no str"),
        (lambda item: pod(item)["containers"][1].update(command="weft npc"), "command: 'weft npc' is no list"),
        (
            lambda item: pod(item)["containers"][0]["livenessProbe"]["httpGet"].update(port=[6784]),
            "livenessProbe.httpGet.port: [6784] is no int",
        ),
        (lambda item: pod(item)["containers"][0].update(securityContext=[]), "[] is no SecurityContext"),
        (lambda item: item["metadata"]["labels"].update(release=2), "metadata.labels: 'release': 2 is no pair"),
        (lambda item: item.update(kind="Daemonset"), "Cannot find resource kind 'Daemonset'"),
        (lambda item: item.update(apiVersion="extensions/v1beta1"), "Cannot find resource DaemonSet"),
        (lambda item: item.pop("kind"), "apiVersion and kind: are missing"),
    ],
)  # fmt: skip
def test_what_is_spoilt_is_found(spoil: Spoil, said: str) -> None:
    item = copy.deepcopy(manifest()[-1])
    spoil(item)
    (found,) = problems(item)
    assert said in found


@pytest.mark.parametrize("item", manifest(), ids=lambda item: item["kind"])
def test_one_field_more_or_one_other_type_is_found_wherever_it_is(item: dict[str, Any]) -> None:
    for path, value in places(item):
        wrong = [None, 0.5, [value] if isinstance(value, dict) else {"a": "b"}]
        if isinstance(value, dict):
            wrong.append(value | {"noSuchField": 1})
        for other in wrong:
            assert problems(replaced(item, path, other)), (path, other)
