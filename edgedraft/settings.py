"""What all settings share: one field is one flag (--like-this) and one variable (EDGEDRAFT_LIKE_THIS).

Precedence is flag, environment, default. Each program's settings are in its own package (gateway/settings.py, ...);
they hold names, bounds and defaults. What a setting does is documented where it is used.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from platformdirs import user_data_path
from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from edgedraft.observability.logs import LogFormat
from edgedraft.observability.tracing import OtelMode

Port = Annotated[int, Field(ge=0, le=65535)]
DATABASE_URL = f"sqlite+aiosqlite:///{user_data_path('edgedraft') / 'gateway.db'}"


def _split_list(value: Any) -> Any:
    """A list as a flag or a variable spells it: a,b or JSON."""
    if not isinstance(value, str):
        return value
    return json.loads(value) if value.startswith("[") else [part.strip() for part in value.split(",")]


COMMA_SEPARATED = (NoDecode, BeforeValidator(_split_list))  # annotations of a field that takes a list


class Settings(BaseSettings):
    """Base of all: where values come from, and what every process has."""

    model_config = SettingsConfigDict(
        env_prefix="EDGEDRAFT_",
        extra="ignore",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_exit_on_error=False,
        cli_shortcuts={"json-file": "json", "since": "from", "until": "to"},
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="what is logged, to stderr")
    log_format: Annotated[LogFormat, Field(description="json for one JSON object a line")] = "text"


class TracedSettings(Settings):
    """Those of the processes that OpenTelemetry can look into."""

    otel: Annotated[
        OtelMode,
        Field(description="OpenTelemetry: auto sends traces and metrics by OTLP if OTEL_EXPORTER_OTLP_ENDPOINT is set"),
    ] = "auto"
