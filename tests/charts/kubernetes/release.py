"""A release of the chart in a namespace: what Helm makes of it, and what controllers make of that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from helm_python import Config

from tests.charts.kubernetes.control_plane import ControlPlane
from tests.charts.kubernetes.kubelet import Kubelet
from tests.charts.rendering import Document, chart
from tests.support.waiting import wait_until

NAME = "edgedraft"
HELM_SECONDS = 120


@dataclass(frozen=True)
class Release:
    control_plane: ControlPlane
    kubelet: Kubelet
    helm: Config
    namespace: str

    def install(self, values: dict[str, Any]) -> None:
        """Raises HelmError."""
        self.helm.install(chart(), NAME, values, namespace=self.namespace, timeout=HELM_SECONDS)

    def upgrade(self, values: dict[str, Any]) -> None:
        """Raises HelmError."""
        self.helm.upgrade(chart(), NAME, values, namespace=self.namespace, timeout=HELM_SECONDS, reset_values=True)

    def uninstall(self) -> None:
        """Returns when its pods have gone."""
        self.helm.uninstall(NAME, ignore_not_found=True, timeout=HELM_SECONDS)
        wait_until(lambda: not self.pods())

    def pods(self) -> list[Document]:
        return self.all("v1", "pods")

    def all(self, version: str, plural: str, **query: str) -> list[Document]:
        """The namespace's objects of a kind."""
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        return self.control_plane.list(f"{root}/namespaces/{self.namespace}/{plural}", **query)

    def stored(self, document: Document) -> Document | None:
        """An object as the server has it; None if it has none of that name."""
        path = f"{self.control_plane.path(document, self.namespace)}/{document['metadata']['name']}"
        answer = self.control_plane.http.get(path)
        return answer.json() if answer.status_code == 200 else None


def is_ready(pod: Document) -> bool:
    conditions = pod["status"].get("conditions", [])
    return ("Ready", "True") in {(each["type"], each["status"]) for each in conditions}
