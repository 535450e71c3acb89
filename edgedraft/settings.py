"""Base of all settings: each field is a flag (--like-this) and an environment variable (EDGEDRAFT_LIKE_THIS).

A flag takes precedence over the environment, which takes precedence over the default. The settings of each program are
in its own package (gateway/settings.py, ...).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from platformdirs import user_data_path
from pydantic import BeforeValidator, Field, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from edgedraft.observability.logs import LogFormat
from edgedraft.observability.tracing import OtelMode

Port = Annotated[int, Field(ge=0, le=65535)]
SECRET_ADVICE = "; a flag shows in the process list, its environment variable does not"
KEY_ADVICE = f"{SECRET_ADVICE}, nor does --key-file"
DATABASE_URL = f"sqlite+aiosqlite:///{user_data_path('edgedraft') / 'gateway.db'}"


def _split_list(value: Any) -> Any:
    """Parses a list given as a,b or as JSON; other types pass unchanged."""
    if not isinstance(value, str):
        return value
    return json.loads(value) if value.startswith("[") else [part.strip() for part in value.split(",")]


COMMA_SEPARATED = (NoDecode, BeforeValidator(_split_list))  # annotations of a list field


class Settings(BaseSettings):
    """Base of all settings: their sources, and the settings of logs."""

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

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="lowest level that is logged to stderr"
    )
    log_format: Annotated[LogFormat, Field(description="json for one JSON object per line")] = "text"


class KeySettings(Settings):
    """Base of the settings of commands that take a key."""

    key: str = ""
    key_file: Path | None = Field(None, description="file that holds the key; read where no key is given otherwise")

    @model_validator(mode="after")
    def _read_key_file(self) -> Self:
        if self.key_file and not self.key:
            self.key = read_key_file(self.key_file)
        return self


def read_key_file(file: Path) -> str:
    """The key in a file. Raises ValueError when it cannot be read."""
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from None


class TracedSettings(Settings):
    """Base of the settings of processes that export OpenTelemetry traces."""

    otel: Annotated[
        OtelMode,
        Field(description="OpenTelemetry: auto sends traces and metrics by OTLP if OTEL_EXPORTER_OTLP_ENDPOINT is set"),
    ] = "auto"
