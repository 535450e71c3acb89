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
VALUE_SETS = ("trial", "production", "pools", "everything", "vllm")
NAMESPACE = "ai"
WORKER_INDEX = "leaderworkerset.sigs.k8s.io/worker-index"

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
        command, args = self.container.get("command", []), self.container.get("args", [])
        return tuple(args[: args.index("--")] if "--" in args else args) if command[-1:] in ([], ["edgedraft"]) else ()

    @property
    def engine_args(self) -> list[str]:
        """What follows the subcommand's `--`."""
        args = self.container["args"]
        return args[args.index("--") + 1 :] if "--" in args else []


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
        for workload, template in templates(document).items():
            pod = template["spec"]
            for container in [*pod.get("initContainers", []), *pod["containers"]]:
                yield Container(workload, pod, template["metadata"]["labels"], container)


def templates(document: Document) -> dict[str, Document]:
    """The pods that it makes, by kind and name of the workload, with the labels that its controller adds."""
    workload, spec = f"{document['kind']}/{document['metadata']['name']}", document.get("spec", {})
    if document["kind"] == "Pod":
        return {workload: document}
    if document["kind"] == "LeaderWorkerSet":
        given = spec["leaderWorkerTemplate"]
        return {
            f"{workload}/leader": _with_labels(given["leaderTemplate"], {WORKER_INDEX: "0"}),
            f"{workload}/worker": _with_labels(given["workerTemplate"], {WORKER_INDEX: "1"}),
        }
    return {workload: spec["template"]} if "template" in spec else {}


def _with_labels(template: Document, labels: dict[str, str]) -> Document:
    metadata = template["metadata"]
    return template | {"metadata": metadata | {"labels": metadata["labels"] | labels}}


def container(documents: list[Document], name: str) -> Container:
    """The one container of that name."""
    (found,) = [found for found in containers(documents) if found.container["name"] == name]
    return found
