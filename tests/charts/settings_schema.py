"""The part of values.schema.json that says what `settings` of gateways and verifiers may hold, made from settings.py.

`python -m tests.charts.settings_schema` writes it into the chart's schema; a test fails when that is due.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgedraft.settings import Settings
from gateway.settings import GatewaySettings
from verifier.settings import VerifierSettings

SCHEMA = Path(__file__).parents[2] / "charts/edgedraft/values.schema.json"

# What the chart itself sets, from values of their own or from Secrets.
SET_FOR_GATEWAYS = frozenset(
    {"host", "port", "verifier", "verifier_token", "database", "db_upgrade", "key", "key_file", "prices", "drain_grace"}
    | {"redis", "replica_secret", "replica_host", "replica_port", "advertise"}
)
SET_FOR_VERIFIERS = frozenset(
    {
        "host",
        "port",
        "model",
        "served_name",
        "verifier_token",
        "allow_unauthenticated",
        "drain_grace",
        "engine",
        "engine_args",
    }
)


def definitions() -> dict[str, Any]:
    """The schema's two definitions, by name."""
    return {
        "gatewaySettings": _properties(GatewaySettings, SET_FOR_GATEWAYS),
        "verifierSettings": _properties(VerifierSettings, SET_FOR_VERIFIERS),
    }


def camel(name: str) -> str:
    """A setting's name as values spell it."""
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _properties(kind: type[Settings], left_out: frozenset[str]) -> dict[str, Any]:
    fields = kind.model_json_schema()["properties"]
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {camel(name): _of(field) for name, field in fields.items() if name not in left_out},
    }


def _of(field: dict[str, Any]) -> dict[str, Any]:
    choices = [choice for choice in field.get("anyOf", []) if choice.get("type") != "null"]
    types = {"anyOf": choices} if len(choices) > 1 else choices[0] if choices else field
    kept = ("type", "enum", "items", "minimum", "maximum", "exclusiveMinimum", "anyOf")
    return {key: types[key] for key in kept if key in types} | {"description": field["description"]}


def main() -> None:
    schema = json.loads(SCHEMA.read_text())
    schema["definitions"].update(definitions())
    SCHEMA.write_text(json.dumps(schema, indent=2) + "\n")


if __name__ == "__main__":
    main()
