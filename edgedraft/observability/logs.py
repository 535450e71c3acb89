"""Structured logs: one line per event on stderr, as text or JSON. They never contain prompts, texts or token ids.

Formatters of the standard library's logging. An event has a constant message and fields; fields of the current request
are added from `request_fields`. Spans are in tracing.py.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from edgedraft.private_files import make_private_file

LogFormat = Literal["text", "json"]

PACKAGES = ("edgedraft", "gateway", "verifier", "edge_agent", "loadtest")
MAX_FILE_BYTES = 4 << 20  # of a log file, before it is rotated
MAX_FIELD_CHARACTERS = 1024  # of a field's text: some values come from peers

# Fields added to each line of the current request: its id, and its trace id if it has one.
request_fields: ContextVar[Mapping[str, Any]] = ContextVar("request_fields", default=MappingProxyType({}))


def configure_logging(
    level: str, log_format: LogFormat = "text", *, file: Path | None = None, bounded: bool = False
) -> None:
    """Sets up the root logger of this process. Packages other than EdgeDraft's log warnings and errors only.

    With a `file`, lines go there and not to stderr; it is rotated at MAX_FILE_BYTES, with one predecessor. `bounded`
    gives each kind of line its budget: for a process whose lines a stranger causes.
    """
    handler: logging.Handler = logging.StreamHandler()
    if file:
        make_private_file(file)
        handler = RotatingFileHandler(file, maxBytes=MAX_FILE_BYTES, backupCount=1)
    if bounded:
        handler.addFilter(LineFilter())
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


class LineBudget:
    """A token bucket of log lines: `burst` at once, then `per_minute`."""

    def __init__(self, per_minute: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_minute / 60
        self._burst = burst
        self._clock = clock
        self._left, self._at = float(burst), clock()
        self._refused = 0

    def take(self) -> int | None:
        """None when the line is to be left out; else how many have been left out since the last one."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1:
            self._refused += 1
            return None
        self._left -= 1
        refused, self._refused = self._refused, 0
        return refused


class BoundedEvents:
    """Events that strangers cause: so many lines a minute; the next one says how many were left out."""

    def __init__(self, log: logging.Logger, per_minute: float = 12.0, burst: int = 10) -> None:
        self._log = log
        self._budget = LineBudget(per_minute, burst)

    def event(self, what: str, *, level: int = logging.INFO, **fields: Any) -> None:
        """As `event`, if the budget has a line left."""
        left_out = self._budget.take()
        if left_out is not None:
            event(self._log, what, level=level, **fields, left_out=left_out or None)


class LineFilter(logging.Filter):
    """Gives each place in the source that logs a budget of lines; the next line says how many were left out."""

    def __init__(self, per_minute: float = 0.5, burst: int = 30) -> None:
        super().__init__()
        self._per_minute = per_minute
        self._burst = burst
        self._budgets: dict[tuple[str, int], LineBudget] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        place = (record.pathname, record.lineno)
        budget = self._budgets.get(place)
        if budget is None:
            budget = self._budgets[place] = LineBudget(self._per_minute, self._burst)
        left_out = budget.take()
        if left_out:
            record.fields = {**getattr(record, "fields", {}), "left_out": left_out}
        return left_out is not None


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
