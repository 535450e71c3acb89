"""The chart as the Helm engine renders it: documents by kind, and pods with what tests ask of them.

No cluster is asked; `lookup` finds nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from helm_python import Chart

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/edgedraft"
VALUES = Path(__file__).parent / "values"
VALUE_SETS = ("trial", "production", "pools", "everything")
NAMESPACE = "ai"

Document = dict[str, Any]


@dataclass(frozen=True)
class Container:
    """One container of one workload."""

    workload: str  # kind and name
    pod: Document
    labels: dict[str, str]
    container: Document

    @property
    def env(self) -> dict[str, Document]:
        return {variable["name"]: variable for variable in self.container.get("env", [])}

    @property
    def words(self) -> tuple[str, ...]:
        """The subcommand of edgedraft, if it runs one."""
        command = self.container.get("command", [])
        return tuple(self.container.get("args", [])) if not command or command[-1] == "edgedraft" else ()


@cache
def chart() -> Chart:
    return Chart.load(CHART)


def values_of(name: str) -> dict[str, Any]:
    return yaml.safe_load((VALUES / f"{name}.yaml").read_text())


def render(values: dict[str, Any], name: str = "edgedraft") -> list[Document]:
    """All documents but the notes. Raises HelmError."""
    files = chart().render(values, name=name, namespace=NAMESPACE)
    return [
        document
        for path, text in sorted(files.items())
        if not path.endswith("NOTES.txt")
        for document in yaml.load_all(text, yaml.CSafeLoader)
        if document
    ]


@cache
def rendered(name: str) -> list[Document]:
    """Those of one of the value sets; for reading only."""
    return render(values_of(name))


def of_kind(documents: list[Document], kind: str) -> dict[str, Document]:
    return {document["metadata"]["name"]: document for document in documents if document["kind"] == kind}


def containers(documents: list[Document]) -> Iterator[Container]:
    for document in documents:
        template = document if document["kind"] == "Pod" else document.get("spec", {}).get("template")
        if template is None:
            continue
        pod = template["spec"]
        workload = f"{document['kind']}/{document['metadata']['name']}"
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            yield Container(workload, pod, template["metadata"]["labels"], container)


def container(documents: list[Document], name: str) -> Container:
    """The one container of that name."""
    (found,) = [found for found in containers(documents) if found.container["name"] == name]
    return found
