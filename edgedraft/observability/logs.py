"""Structured logs: one line per event on stderr, as text or JSON. They never contain prompts, texts or token ids.

Formatters of the standard library's logging. An event has a constant message and fields; fields of the current request
are added from `request_fields`. Spans are in tracing.py.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Literal

LogFormat = Literal["text", "json"]

PACKAGES = ("edgedraft", "gateway", "verifier", "edge_agent", "loadtest")
MAX_FIELD_CHARACTERS = 1024  # of a field's text: some values come from peers

# Fields added to each line of the current request: its id, and its trace id if it has one.
request_fields: ContextVar[Mapping[str, Any]] = ContextVar("request_fields", default=MappingProxyType({}))


def configure_logging(level: str, log_format: LogFormat = "text") -> None:
    """Sets up the root logger of this process. Packages other than EdgeDraft's log warnings and errors only."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    level_number = logging.getLevelNamesMapping()[level.upper()]
    # Debug lines of libraries contain keys in headers, frames and SQL parameters.
    logging.basicConfig(level=max(level_number, logging.WARNING), handlers=[handler], force=True)
    for package in PACKAGES:
        logging.getLogger(package).setLevel(level_number)


def event(log: logging.Logger, what: str, *, level: int = logging.INFO, **fields: Any) -> None:
    """Logs the event `what`, a constant text, with its fields; fields that are None are left out."""
    if log.isEnabledFor(level):
        log.log(level, "%s", what, extra={"fields": fields}, stacklevel=2)


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time (RFC 3339), level, logger, event, the fields, and a traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        for name, value in _fields(record).items():
            line.setdefault(name, value)
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """Time, level, logger, event, then name=value; values with spaces, quotes or "=" are quoted."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", datefmt="%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={_format_value(value)}" for name, value in _fields(record).items())
        return super().formatMessage(record) + fields


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = {**request_fields.get(), **getattr(record, "fields", {})}
    return {
        name: value[:MAX_FIELD_CHARACTERS] if isinstance(value, str) else value
        for name, value in fields.items()
        if value is not None
    }


def _format_value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    plain = text.isprintable() and text and not any(character in text for character in ' "=')
    return text if plain else json.dumps(text)
