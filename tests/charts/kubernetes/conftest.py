"""One control plane for all tests of this folder, and a namespace for each test."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.charts.kubernetes.control_plane import PROGRAMS, ControlPlane, running_control_plane
from tests.charts.kubernetes.custom_kinds import define_custom_kinds
from tests.support.waiting import wait_until

# The strictest of the Pod Security Standards; which pods are not allowed there, a test tells.
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    programs = os.environ.get("EDGEDRAFT_KUBERNETES", "")
    if not programs:
        pytest.skip(f"runs with `make test-kubernetes`, which needs a folder with {', '.join(PROGRAMS)}")
    with running_control_plane(Path(programs), tmp_path_factory.mktemp("kubernetes")) as control_plane:
        define_custom_kinds(control_plane)
        control_plane.ensure(
            {
                "apiVersion": "scheduling.k8s.io/v1",
                "kind": "PriorityClass",
                "metadata": {"name": "high"},
                "value": 1000,
            },
            {
                "apiVersion": "node.k8s.io/v1",
                "kind": "RuntimeClass",
                "metadata": {"name": "nvidia"},
                "handler": "nvidia",
            },
        )
        yield control_plane


@pytest.fixture
def namespace(control_plane: ControlPlane, request: pytest.FixtureRequest) -> str:
    """A new one, with its default service account."""
    name = re.sub("[^a-z0-9]+", "-", request.node.name.lower())[:60].strip("-")
    labels = getattr(request, "param", {})
    control_plane.ensure({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
    wait_until(lambda: control_plane.http.get(account).status_code == 200)
    return name
