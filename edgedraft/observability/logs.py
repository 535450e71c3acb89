"""Logs: one line an event on stderr, as text or as JSON. Prompts, texts and token ids never enter them.

What an event is about are its fields, not words in its message. The request that a task works for is known to all
lines that it writes. Spans are tracing.py's, figures are each process's metrics'.
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
MAX_FIELD_CHARACTERS = 1024  # characters of a field's text: some come from peers

# Fields of every line that is written for the same request: its id, and its trace's if it has one.
request_fields: ContextVar[Mapping[str, Any]] = ContextVar("request_fields", default=MappingProxyType({}))


def configure_logging(level: str, log_format: LogFormat = "text") -> None:
    """Set up logging for a process; `level` and `form` are settings.log_level and log_format.

    Other packages than ours are heard from warnings on only, whatever the level.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    wanted = logging.getLevelNamesMapping()[level.upper()]
    # Libraries' debug lines hold what ours never do: headers with keys, frames, SQL with its values.
    logging.basicConfig(level=max(wanted, logging.WARNING), handlers=[handler], force=True)
    for ours in PACKAGES:
        logging.getLogger(ours).setLevel(wanted)


def event(log: logging.Logger, what: str, *, level: int = logging.INFO, **fields: Any) -> None:
    """Log that `what` happened, a few words that are always the same, with what it is about; None is left out."""
    if log.isEnabledFor(level):
        log.log(level, "%s", what, extra={"fields": fields}, stacklevel=2)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (RFC 3339), level, logger, event, the fields, and a traceback if there is one."""

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
    """For people: time, level, logger, event, then name=value; a value is quoted where it could be misread."""

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
    plain = text.isprintable() and text and not any(sign in text for sign in ' "=')
    return text if plain else json.dumps(text)
