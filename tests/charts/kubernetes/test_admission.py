"""A real API server takes every object of every value set, all its fields included, and says nothing against it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.charts.kubernetes.conftest import RESTRICTED
from tests.charts.kubernetes.control_plane import ControlPlane
from tests.charts.rendering import VALUE_SETS, Document, rendered, templates

pytestmark = [pytest.mark.kubernetes, pytest.mark.long]

DRY = {"dryRun": "All"}


def accounts_first(documents: list[Document]) -> list[Document]:
    return sorted(documents, key=lambda document: document["kind"] != "ServiceAccount")


@pytest.mark.parametrize("name", VALUE_SETS)
def test_every_object_is_admitted_without_a_warning(control_plane: ControlPlane, namespace: str, name: str) -> None:
    for document in accounts_first(rendered(name)):
        # Pods need their account, which therefore is created.
        query = {} if document["kind"] == "ServiceAccount" else DRY
        answer = control_plane.create(document, namespace, **query)
        assert answer.status_code == 201, answer.text
        assert "warning" not in answer.headers, answer.headers["warning"]
        assert set(fields(document)) <= set(fields(answer.json()))


@pytest.mark.parametrize("namespace", [RESTRICTED], indirect=True, ids=["restricted"])
def test_pods_meet_the_restricted_standard_unless_they_mount_a_folder_of_the_node(
    control_plane: ControlPlane, namespace: str
) -> None:
    admitted = 0
    for name in VALUE_SETS:
        for document in accounts_first(rendered(name)):
            if document["kind"] == "ServiceAccount":
                control_plane.ensure(document | {"metadata": document["metadata"] | {"namespace": namespace}})
            for pod in pods_of(document):
                answer = control_plane.create(pod, namespace, **DRY)
                if any("hostPath" in volume for volume in pod["spec"]["volumes"]):
                    assert answer.status_code == 403
                    assert (
                        'restricted volume types (volume "models" uses restricted volume type "hostPath")'
                        in answer.json()["message"]
                    )
                else:
                    assert answer.status_code == 201, answer.text
                    admitted += 1
    assert admitted > 10


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        ("Deployment", {"replica": 2}, 'unknown field "spec.replica"'),
        ("NetworkPolicy", {"policyTypes": ["Inward"]}, "Unsupported value"),
        ("PodDisruptionBudget", {"minAvailable": 1}, "minAvailable and maxUnavailable cannot be both set"),
        ("Service", {"clusterIP": "somewhere"}, "must be a valid IP"),
    ],
)
def test_the_server_does_refuse(
    control_plane: ControlPlane, namespace: str, kind: str, change: dict[str, Any], said: str
) -> None:
    """Otherwise the tests above would say nothing."""
    document = next(each for each in rendered("trial") if each["kind"] == kind)
    answer = control_plane.create(document | {"spec": document["spec"] | change}, namespace, **DRY)
    assert answer.status_code in {400, 422}
    assert said in answer.json()["message"]


def pods_of(document: Document) -> Iterator[Document]:
    """Those that a workload's controller makes, with the volumes of its claims."""
    for template in templates(document).values():
        spec = template["spec"]
        mounts = {mount["name"] for each in spec["containers"] for mount in each["volumeMounts"]}
        volumes = spec.get("volumes", [])
        claimed = mounts - {volume["name"] for volume in volumes}
        claims = [{"name": name, "persistentVolumeClaim": {"claimName": name}} for name in sorted(claimed)]
        metadata = {"generateName": "pod-", "labels": template["metadata"]["labels"]}
        whole = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}
        yield whole | {"spec": spec | {"volumes": [*volumes, *claims]}}


def fields(value: Any, path: str = "") -> Iterator[str]:
    """The path of every field that has a value; those that are false or zero may be left out."""
    if isinstance(value, dict):
        for key, below in value.items():
            yield from fields(below, f"{path}.{key}")
    elif isinstance(value, list):
        for number, below in enumerate(value):
            yield from fields(below, f"{path}[{number}]")
    elif value:
        yield path
