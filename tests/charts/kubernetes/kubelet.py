"""What nodes do for pods, without running any: nodes that have room, volumes, and reports that pods run or are over."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

import httpx

from tests.charts.kubernetes.control_plane import ControlPlane
from tests.charts.rendering import Document

PAUSE_SECONDS = 0.1
GPU = "nvidia.com/gpu"
STORAGE_CLASSES = ("standard", "fast")  # the cluster's default, and the one that value sets name


class Kubelet(threading.Thread):
    """Of all nodes: each scheduled pod runs and is ready; one that is not to be restarted has succeeded."""

    def __init__(self, control_plane: ControlPlane) -> None:
        super().__init__(daemon=True)
        self._control_plane = control_plane
        self._ended = threading.Event()
        self._working = threading.Event()
        self._working.set()

    def run(self) -> None:
        while not self._ended.wait(PAUSE_SECONDS):
            self._working.wait()
            with suppress(httpx.HTTPStatusError):  # a pod that has gone meanwhile
                for pod in self._control_plane.list("/api/v1/pods"):
                    self._tend(pod)

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Meanwhile pods stay as they are."""
        self._working.clear()
        try:
            yield
        finally:
            self._working.set()

    def end(self) -> None:
        self._ended.set()
        self._working.set()
        self.join()

    def _tend(self, pod: Document) -> None:
        metadata, spec = pod["metadata"], pod["spec"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
        if "deletionTimestamp" in metadata:
            self._control_plane.http.delete(path, params={"gracePeriodSeconds": "0"})
        elif "nodeName" in spec and pod["status"].get("phase") == "Pending":
            over = spec["restartPolicy"] == "Never"
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            ready = {"type": "Ready", "status": "False" if over else "True", "lastTransitionTime": now}
            status = {"phase": "Succeeded" if over else "Running", "conditions": [ready], "startTime": now}
            self._control_plane.report(path, status).raise_for_status()


def add_nodes(control_plane: ControlPlane) -> None:
    """Two with processors only, two with eight GPUs each and one with another vendor's, which others are kept from."""
    for number in range(2):
        zone = {"topology.kubernetes.io/zone": f"zone-{number}"}
        _add_node(control_plane, f"cpu-{number}", zone)
        nvidia = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3", "kubernetes.io/arch": "amd64"}
        _add_node(control_plane, f"gpu-{number}", zone | nvidia, {GPU: "8"})
    _add_node(control_plane, "amd", {}, {"amd.com/gpu": "1"})


def add_volumes(control_plane: ControlPlane, number: int) -> None:
    """Storage classes, and so many volumes of each."""
    for name in STORAGE_CLASSES:
        control_plane.ensure(
            {
                "apiVersion": "storage.k8s.io/v1",
                "kind": "StorageClass",
                "metadata": {
                    "name": name,
                    "annotations": {"storageclass.kubernetes.io/is-default-class": str(name == "standard").lower()},
                },
                "provisioner": "kubernetes.io/no-provisioner",
                "volumeBindingMode": "WaitForFirstConsumer",
            },
            *(
                {
                    "apiVersion": "v1",
                    "kind": "PersistentVolume",
                    "metadata": {"name": f"{name}-{each}"},
                    "spec": {
                        "capacity": {"storage": "2Ti"},
                        "accessModes": ["ReadWriteOnce"],
                        "persistentVolumeReclaimPolicy": "Retain",
                        "storageClassName": name,
                        "hostPath": {"path": f"/volumes/{name}-{each}"},
                    },
                }
                for each in range(number)
            ),
        )


def _add_node(
    control_plane: ControlPlane, name: str, labels: dict[str, str], devices: dict[str, str] | None = None
) -> None:
    taints = [{"key": device, "effect": "NoSchedule"} for device in devices or {}]
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name} | labels},
        "spec": {"taints": taints},
    }
    control_plane.ensure(node)
    capacity = {"cpu": "64", "memory": "512Gi", "pods": "200"} | (devices or {})
    status = {"capacity": capacity, "allocatable": capacity, "conditions": [{"type": "Ready", "status": "True"}]}
    control_plane.report(f"/api/v1/nodes/{name}", status).raise_for_status()
