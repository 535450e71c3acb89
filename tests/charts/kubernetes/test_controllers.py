"""Kubernetes' own controllers and scheduler on what Helm installs: pods on nodes, disruptions, scaling, upgrades."""

from __future__ import annotations

from typing import Any

import pytest

from tests.charts.kubernetes.control_plane import ControlPlane
from tests.charts.kubernetes.kubelet import GPU
from tests.charts.kubernetes.release import Release, is_ready
from tests.charts.rendering import VALUE_SETS, Document, rendered, values_of
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.kubernetes, pytest.mark.long, pytest.mark.usefixtures("models")]

CONTROLLER_SECONDS = 120.0
# Pods that the scheduler places; those of a LeaderWorkerSet are made by its own controller, which is not here.
PODS = {
    "trial": {"gateway": 2, "verifier": 1, "postgresql": 1, "valkey": 1},
    "production": {"gateway": 3, "verifier": 2},
    "pools": {"gateway": 4, "verifier": 4},
    "everything": {"gateway": 2, "verifier": 1, "postgresql": 1, "valkey": 1},
    "vllm": {"gateway": 2, "verifier": 2, "postgresql": 1, "valkey": 1},
}


@pytest.fixture
def models(control_plane: ControlPlane, namespace: str) -> None:
    """The claim that a value set names as its own."""
    control_plane.ensure(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "models", "namespace": namespace},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        }
    )


def settled(release: Release, wanted: dict[str, int]) -> dict[str, list[Document]]:
    """Pods by component, when there are so many and all are ready. Raises TimeoutError."""

    def by_component() -> dict[str, list[Document]]:
        found: dict[str, list[Document]] = {}
        for pod in release.pods():
            if "deletionTimestamp" not in pod["metadata"]:
                found.setdefault(pod["metadata"]["labels"]["app.kubernetes.io/component"], []).append(pod)
        return found

    def are_there() -> bool:
        found = by_component()
        counts = {component: len(pods) for component, pods in found.items()}
        return counts == wanted and all(is_ready(pod) for pods in found.values() for pod in pods)

    try:
        wait_until(are_there, CONTROLLER_SECONDS)
    except TimeoutError as error:
        events = [f"{each['involvedObject']['name']}: {each['message']}" for each in release.all("v1", "events")]
        raise AssertionError(f"{ {name: len(pods) for name, pods in by_component().items()} } {events}") from error
    return by_component()


@pytest.mark.parametrize("name", VALUE_SETS)
def test_a_release_gets_its_pods_and_leaves_nothing_behind(release: Release, name: str) -> None:
    release.install(values_of(name))
    found = settled(release, PODS[name])
    of_release = [each for each in rendered(name) if "helm.sh/hook" not in each["metadata"].get("annotations", {})]
    assert all(release.stored(document) for document in of_release)
    assert not release.all("batch/v1", "jobs"), "the migration is over and deleted"
    for pods in found.values():
        for pod in pods:
            gpus = [each["resources"].get("limits", {}).get(GPU) for each in pod["spec"]["containers"]]
            assert pod["spec"]["nodeName"].startswith("gpu-") or not any(gpus)
    _budgets_allow_one(release)
    release.uninstall()
    assert not [document for document in of_release if release.stored(document)]


def _budgets_allow_one(release: Release) -> None:
    """Of the pods of each that has any."""

    def allow_one() -> bool:
        statuses = [each.get("status", {}) for each in release.all("policy/v1", "poddisruptionbudgets")]
        of_pods = [status for status in statuses if status.get("expectedPods") != 0]
        return bool(of_pods) and all(
            (status.get("disruptionsAllowed"), status.get("currentHealthy")) == (1, status.get("expectedPods"))
            for status in of_pods
        )

    wait_until(allow_one, CONTROLLER_SECONDS)


def test_pods_are_spread_over_nodes(release: Release) -> None:
    release.install(values_of("production"))
    pods = settled(release, PODS["production"])
    assert {pod["spec"]["nodeName"] for pod in pods["verifier"]} == {"gpu-0", "gpu-1"}
    assert {pod["spec"]["nodeName"] for pod in pods["gateway"]} == {"cpu-0", "cpu-1"}


def test_one_gateway_at_a_time_may_be_evicted(release: Release) -> None:
    release.install({"gateway": {"replicas": 3}})
    wanted = PODS["trial"] | {"gateway": 3}
    first, second, _ = settled(release, wanted)["gateway"]
    _budgets_allow_one(release)
    with release.kubelet.silent():
        assert evict(release, first) == 201
        assert evict(release, second) == 429
    settled(release, wanted)
    _budgets_allow_one(release)
    assert evict(release, second) == 201


def evict(release: Release, pod: Document) -> int:
    name = pod["metadata"]["name"]
    eviction: dict[str, Any] = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    path = f"/api/v1/namespaces/{release.namespace}/pods/{name}/eviction"
    return release.control_plane.http.post(path, json=eviction).status_code


def test_the_autoscaler_finds_the_gateways_and_asks_for_their_metric(release: Release) -> None:
    release.install({"gateway": {"autoscaling": {"enabled": True, "minReplicas": 3}}})
    settled(release, PODS["trial"] | {"gateway": 3})

    def conditions() -> dict[str, tuple[str, str]]:
        (scaler,) = release.all("autoscaling/v2", "horizontalpodautoscalers")
        return {
            each["type"]: (each["status"], f"{each['reason']} {each['message']}")
            for each in scaler.get("status", {}).get("conditions", [])
        }

    wait_until(lambda: "ScalingActive" in conditions(), CONTROLLER_SECONDS)
    assert conditions()["AbleToScale"][0] == "True"
    active, why = conditions()["ScalingActive"]
    assert (active, why.split()[0]) == ("False", "FailedGetPodsMetric"), "no metrics API is here"
    assert "edgedraft_gateway_sessions" in why


@pytest.mark.parametrize("name", VALUE_SETS)
def test_an_upgrade_is_accepted_and_keeps_secrets(release: Release, name: str) -> None:
    """Fields that cannot be changed, such as those of a StatefulSet, are not changed."""
    values = values_of(name)
    release.install(values)
    settled(release, PODS[name])
    secrets = release.all("v1", "secrets", labelSelector="app.kubernetes.io/component=secret")
    changed = values | {"image": values.get("image", {}) | {"tag": "9.9.10"}}
    changed |= {"verifierDefaults": values.get("verifierDefaults", {}) | {"drainSeconds": 77}}
    release.upgrade(changed)

    def replaced() -> bool:
        images = {
            each["image"] for pod in settled(release, PODS[name])["gateway"] for each in pod["spec"]["containers"]
        }
        return all(image.endswith((":9.9.10", ":5")) for image in images)  # one value set has a tag of its own

    wait_until(replaced, CONTROLLER_SECONDS)
    for secret in secrets:
        stored = release.stored({"apiVersion": "v1", "kind": "Secret"} | secret)
        assert stored
        assert stored["data"] == secret["data"]
