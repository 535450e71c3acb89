"""Which values the chart's schema rejects, and with which messages; and that it knows the settings of this version."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from helm_python import HelmError

from edgedraft import __version__
from gateway.settings import GatewaySettings
from tests.charts.rendering import CHART, render
from tests.charts.settings_schema import SCHEMA, SET_FOR_GATEWAYS, SET_FOR_VERIFIERS, camel, definitions
from verifier.settings import VerifierSettings

SCHEMA_TEXT = SCHEMA.read_text()


def test_the_schema_knows_the_settings_of_this_version() -> None:
    known = json.loads(SCHEMA_TEXT)["definitions"]
    for name, definition in definitions().items():
        assert known[name] == definition, "run: python -m tests.charts.settings_schema"


def test_what_the_chart_sets_itself_are_settings() -> None:
    assert set(GatewaySettings.model_fields) >= SET_FOR_GATEWAYS
    assert set(VerifierSettings.model_fields) >= SET_FOR_VERIFIERS


def test_setting_names_convert_to_camel_case_and_back() -> None:
    for name in [*GatewaySettings.model_fields, *VerifierSettings.model_fields]:
        assert re.sub("[A-Z]", lambda letter: "_" + letter[0].lower(), camel(name)) == name


def test_every_value_has_a_place_in_the_schema_and_the_other_way_round() -> None:
    schema = json.loads(SCHEMA_TEXT)

    def check(values: Any, known: dict[str, Any], path: str) -> None:
        known = schema["definitions"][known["$ref"].rpartition("/")[2]] if "$ref" in known else known
        if not isinstance(values, dict) or "properties" not in known or not values:
            return
        optional = {"global", "claims"} | ({"limits", "requests"} if path.endswith("resources") else set())
        assert set(known["properties"]) - set(values) <= optional, path
        for name, value in values.items():
            check(value, known["properties"][name], f"{path}.{name}")

    check(yaml.safe_load((CHART / "values.yaml").read_text()), schema, "")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"gateway": {"replicas": "two"}}, "at '/gateway/replicas': got string, want integer"),
        ({"gatway": {}}, "additional properties 'gatway' not allowed"),
        (
            {"gateway": {"settings": {"maxSessionPerKey": 3}}},
            "at '/gateway/settings': additional properties 'maxSessionPerKey' not allowed",
        ),
        ({"gateway": {"settings": {"verifierToken": "x"}}}, "additional properties 'verifierToken' not allowed"),
        ({"gateway": {"settings": {"openTimeout": 0}}}, "at '/gateway/settings/openTimeout': exclusiveMinimum: got 0"),
        ({"verifiers": {"q": {"replicas": 1}}}, "at '/verifiers/q': missing property 'model'"),
        (
            {"verifiers": {"q": {"model": "a", "settings": {"dtype": "int3"}}}},
            "at '/verifiers/q/settings/dtype': value must be one of 'auto', 'float32', 'bfloat16', 'float16'",
        ),
        ({"verifiers": {"Q_1": {"model": "a"}}}, "invalid propertyName 'Q_1'"),
        ({"verifiers": {"q": {"model": "a", "gpus": -1}}}, "at '/verifiers/q/gpus': minimum: got -1, want 0"),
        (
            {"verifiers": {"q": {"model": "a", "engine": "transformers", "nodes": 2}}},
            "at '/verifiers/q/nodes': maximum: got 2, want 1",
        ),
        (
            {"verifiers": {"q": {"model": "a", "engine": "transformers", "engineArgs": ["--enforce-eager"]}}},
            "at '/verifiers/q/engineArgs': maxItems: got 1, want 0",
        ),
        ({"verifiers": {"q": {"model": "a", "nodes": 2}}}, "verifiers.q: nodes and engineArgs need engine: vllm"),
        (
            {"verifierDefaults": {"nodes": 2}, "verifiers": {"q": {"model": "a"}}},
            "verifiers.q: nodes and engineArgs need engine: vllm",
        ),
        (
            {"verifiers": {"q-2": {"model": "a", "engine": "vllm", "nodes": 2}}},
            "verifiers.q-2: with nodes a name must not end in a number",
        ),
        (
            {"verifiers": {"q": {"model": "a", "engine": "vllm", "engineArgs": ["--max-num-batched-tokens", 5]}}},
            "at '/verifiers/q/engineArgs/1': got number, want string",
        ),
        (
            {"verifiers": {"q": {"model": "a", "engine": "vllm", "engineArgs": "--enforce-eager"}}},
            "at '/verifiers/q/engineArgs': got string, want array",
        ),
        ({"verifiers": {"q": {"model": "a", "engine": "sglang"}}}, "value must be one of 'transformers', 'vllm'"),
        ({"verifiers": {"q": {"model": "a", "modelCache": {"type": "nfs"}}}}, "at '/verifiers/q/modelCache/type'"),
        ({"database": {"url": "mysql://x"}}, "at '/database/url': 'mysql://x' does not match pattern"),
        ({"redis": {"url": "http://x"}}, "at '/redis/url'"),
        ({"externalVerifiers": ["10.0.0.9:9000"]}, "at '/externalVerifiers/0'"),
        ({"database": {"embedded": {"image": "postgres:latest"}}}, "at '/database/embedded/image'"),
        ({"database": {"embedded": {"image": "postgres"}}}, "at '/database/embedded/image'"),
        ({"ingress": {"controller": "envoy"}}, "at '/ingress/controller': value must be one of 'nginx'"),
        ({"ingress": {"enabled": True}}, "ingress.enabled needs ingress.host"),
        ({"httpRoute": {"enabled": True}}, "httpRoute.enabled needs httpRoute.parentRefs"),
        ({"verifiers": {"q": {"model": "a", "modelCache": {"type": "claim"}}}}, "needs modelCache.existingClaim"),
        ({"verifiers": {"q": {"model": "a", "modelCache": {"type": "host"}}}}, "needs modelCache.hostPath"),
        (
            {"networkPolicy": {"egress": {"enabled": True}}, "redis": {"url": "redis://x"}},
            "outside the release needs rules in networkPolicy.egress.gateway",
        ),
    ],
)
def test_invalid_values_are_rejected_by_name(values: dict[str, Any], said: str) -> None:
    with pytest.raises(HelmError, match=re.escape(said)):
        render(values)


def test_every_value_has_a_comment() -> None:
    """In a comment of its own, beside it or above its group."""
    text = (CHART / "values.yaml").read_text()
    for section in re.split(r"\n(?=\S)", text):
        assert "#" in section or _commented_above(text, section), section.splitlines()[0]


def _commented_above(text: str, section: str) -> bool:
    return text[: text.index(section)].rstrip("\n").rpartition("\n")[2].startswith("#")


def test_the_chart_is_of_this_version() -> None:
    metadata = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert metadata["appVersion"] == __version__
