"""The kinds that the chart uses and Kubernetes does not have, as their projects define them or without a schema.

EDGEDRAFT_TEST_CRDS is a folder with the projects' definitions. Without it, any field of these kinds is accepted.
"""

from __future__ import annotations

import os
from pathlib import Path

import yaml

from tests.charts.kubernetes.control_plane import ControlPlane
from tests.charts.rendering import Document
from tests.support.waiting import wait_until

# Kind to its group, plural and version.
CUSTOM_KINDS = {
    "HTTPRoute": ("gateway.networking.k8s.io", "httproutes", "v1"),
    "LeaderWorkerSet": ("leaderworkerset.x-k8s.io", "leaderworkersets", "v1"),
    "ServiceMonitor": ("monitoring.coreos.com", "servicemonitors", "v1"),
}


def define_custom_kinds(control_plane: ControlPlane) -> None:
    """Returns when they can be used."""
    folder = os.environ.get("EDGEDRAFT_TEST_CRDS")
    definitions = _of_projects(Path(folder)) if folder else [_without_schema(kind) for kind in CUSTOM_KINDS]
    assert {each["spec"]["names"]["kind"] for each in definitions} >= set(CUSTOM_KINDS)
    for each in definitions:
        # Definitions may have been written for versions that knew more or fewer fields.
        answer = control_plane.create(each, fieldValidation="Warn")
        assert answer.status_code == 201, answer.text
        path = f"{control_plane.path(each)}/{each['metadata']['name']}"
        wait_until(lambda path=path: "Established" in _conditions(control_plane.get(path)))


def _of_projects(folder: Path) -> list[Document]:
    texts = [path.read_text() for path in sorted(folder.glob("*.yaml"))]
    return [each for text in texts for each in yaml.load_all(text, yaml.CSafeLoader) if each]


def _without_schema(kind: str) -> Document:
    group, plural, version = CUSTOM_KINDS[kind]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{plural}.{group}",
            # Kubernetes reserves groups of its own domains.
            "annotations": {"api-approved.kubernetes.io": "unapproved, for tests"},
        },
        "spec": {
            "group": group,
            "names": {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"},
            "scope": "Namespaced",
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
                }
            ],
        },
    }


def _conditions(definition: Document) -> set[str]:
    conditions = definition.get("status", {}).get("conditions") or []
    return {each["type"] for each in conditions if each["status"] == "True"}
