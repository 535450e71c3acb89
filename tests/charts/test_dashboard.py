"""The Grafana dashboard asks for what the processes export, in PromQL that a PromQL parser reads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import promql_parser
import pytest
from prometheus_client import CollectorRegistry
from promql_parser import VectorSelector

from gateway.observability.metrics import Metrics as GatewayMetrics
from tests.charts.rendering import CHART, of_kind, rendered
from verifier.metrics import Metrics as VerifierMetrics

DASHBOARD = json.loads((CHART / "dashboards/edgedraft.json").read_text())
BY_PROMETHEUS = {"namespace", "pod", "container", "le"}  # labels that scraping adds, and that of buckets


def _exported() -> dict[str, set[str]]:
    """Series by name, each with its labels."""
    names: dict[str, set[str]] = {}
    for registry in (GatewayMetrics().registry, VerifierMetrics("m").registry):
        assert isinstance(registry, CollectorRegistry)
        for collector, series in registry._collector_to_names.items():
            labels = set(getattr(collector, "_labelnames", ()))
            for name in series:
                names.setdefault(name, set()).update(labels)
        for family in registry.collect():
            for sample in family.samples:
                names.setdefault(sample.name, set()).update(sample.labels)
    return names


EXPORTED = _exported()


def _queries() -> Iterator[str]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            yield target["expr"]


def _selectors(node: object) -> Iterator[VectorSelector]:
    if isinstance(node, VectorSelector):
        yield node
    for part in ("expr", "lhs", "rhs", "vector_selector"):
        if (inner := getattr(node, part, None)) is not None:
            yield from _selectors(inner)
    for inner in getattr(getattr(node, "args", None), "args", None) or getattr(node, "args", None) or ():
        yield from _selectors(inner)


@pytest.mark.parametrize("query", sorted(set(_queries())))
def test_queries_ask_for_series_and_labels_that_are_exported(query: str) -> None:
    parsed = promql_parser.parse(query.replace("$__rate_interval", "5m"))
    selectors = list(_selectors(parsed))
    assert len(selectors) == len(re.findall(r"[a-z_:]+\{", query))
    for selector in selectors:
        name = selector.name
        assert name in EXPORTED
        asked = {matcher.name for matcher in selector.matchers.matchers}
        asked |= {label for by in re.findall(r"by \(([^)]*)\)", query) for label in re.split(r", *", by)}
        assert asked <= EXPORTED[name] | BY_PROMETHEUS
        assert "namespace" in asked


def test_legends_name_labels_that_the_query_keeps() -> None:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                assert f"by ({label})" in target["expr"]


def test_panels_do_not_overlap_and_have_a_title_and_words() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken
        assert at["x"] + at["w"] <= 24
        taken |= cells
        assert panel["title"]
        assert panel["type"] == "row" or panel["description"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_the_autoscaler_scales_by_a_metric_that_gateways_export() -> None:
    (scaler,) = of_kind(rendered("production"), "HorizontalPodAutoscaler").values()
    assert scaler["spec"]["metrics"][0]["pods"]["metric"]["name"] in EXPORTED


def test_the_config_map_contains_the_complete_dashboard() -> None:
    config = of_kind(rendered("production"), "ConfigMap")["edgedraft-dashboard"]
    assert json.loads(config["data"]["edgedraft.json"]) == DASHBOARD
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
