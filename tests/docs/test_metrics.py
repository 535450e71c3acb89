"""docs/observability.md lists every metric of our own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from gateway.observability.event_loop import EventLoopWatch
from gateway.observability.metrics import Metrics as GatewayMetrics
from verifier.metrics import Metrics as VerifierMetrics

PAGE = (Path(__file__).parents[2] / "docs" / "observability.md").read_text()


def gateway() -> CollectorRegistry:
    registry = GatewayMetrics().registry
    EventLoopWatch(registry)
    return registry


@pytest.mark.parametrize(
    ("prefix", "registry"),
    [("edgedraft_gateway_", gateway()), ("edgedraft_verifier_", VerifierMetrics("toy").registry)],
)
def test_every_metric_is_listed(prefix: str, registry: CollectorRegistry) -> None:
    own = [family for family in registry.collect() if family.name.startswith(prefix)]
    assert own
    listed = set(re.findall(r"`(\w+)(?:\{[^`]*\})?`", PAGE))
    suffixes = {"counter": "_total"}
    assert {family.name.removeprefix(prefix) + suffixes.get(family.type, "") for family in own} - listed == set()
