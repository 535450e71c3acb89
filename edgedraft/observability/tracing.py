"""OpenTelemetry of a process: its exporters, and trace context across processes.

When it is off, a process has no Tracing and does not import OpenTelemetry's SDK. The spans of each program are defined
in its traces.py; none contains prompts, texts, token ids or keys.

Sources: https://www.w3.org/TR/trace-context/ for the traceparent,
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/ for the OTEL_* variables.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from edgedraft import __version__

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, SpanKind

log = logging.getLogger(__name__)

OtelMode = Literal["auto", "off", "otlp", "console"]

ENDPOINT_VARIABLES = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
)  # if either is set, auto means otlp
CLOSE_SECONDS = 3.0  # that the end of a process waits for unsent data
_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})", re.ASCII)


class TracingUnavailable(Exception):
    """Tracing is on and its exporter is not installed."""


class Tracing:
    """Creates spans and instruments. Call close() at the end of the process."""

    def __init__(self, spans: TracerProvider, measurements: MeterProvider) -> None:
        self._tracer_provider = spans
        self._meter_provider = measurements
        self._tracer = spans.get_tracer("edgedraft", __version__)
        self.meter = measurements.get_meter("edgedraft", __version__)

    def start_span(
        self,
        name: str,
        kind: SpanKind,
        parent: str | Span,
        attributes: Mapping[str, Any],
        at: float | None = None,
        tracestate: str = "",
    ) -> Span:
        """Starts a span. `parent` is a span of this process, a traceparent of another one, or "" for none.

        `at` is the start time by time.monotonic(); None is now.
        """
        return self._tracer.start_span(
            name,
            context=_context(parent, tracestate),
            kind=kind,
            attributes=dict(attributes),
            start_time=epoch_ns(at) if at is not None else None,
        )

    def close(self) -> None:
        """Sends unsent data, for CLOSE_SECONDS at most, so that an unreachable collector does not delay the exit."""

        def end() -> None:
            self._tracer_provider.shutdown()
            self._meter_provider.shutdown()

        thread = threading.Thread(target=end, daemon=True)
        thread.start()
        thread.join(CLOSE_SECONDS)


def start_tracing(otel: OtelMode, service: str) -> Tracing | None:
    """Returns the Tracing of this process, or None if it is off. Raises TracingUnavailable.

    OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER and OTEL_EXPORTER_OTLP_* have their standard meaning.
    """
    if otel == "auto":
        otel = "otlp" if any(os.environ.get(name) for name in ENDPOINT_VARIABLES) else "off"
    if otel == "off" or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    try:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

        if otel == "console":
            span_exporter, metric_exporter = ConsoleSpanExporter(out=sys.stderr), ConsoleMetricExporter(out=sys.stderr)
        else:
            from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            span_exporter, metric_exporter = OTLPSpanExporter(), OTLPMetricExporter()
    except ImportError as missing:
        raise TracingUnavailable(f"{missing}: traces need pip install 'edgedraft[otel]'") from None
    resource = Resource.create(
        {"service.name": os.environ.get("OTEL_SERVICE_NAME", service), "service.version": __version__}
    )
    spans = TracerProvider(resource=resource)
    spans.add_span_processor(BatchSpanProcessor(span_exporter))
    return Tracing(spans, MeterProvider([PeriodicExportingMetricReader(metric_exporter)], resource=resource))


def valid_traceparent(header: str) -> str:
    """Returns the header if it is a traceparent of version 00, else ""."""
    return header if _TRACEPARENT.fullmatch(header) else ""


def trace_id(traceparent: str) -> str | None:
    """The trace id of a valid traceparent; None for ""."""
    return traceparent[3:35] or None


def traceparent_of(span: Span) -> str:
    """The traceparent that continues this span's trace in another process."""
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


def epoch_ns(at: float) -> int:
    """Converts a time.monotonic() to nanoseconds since the epoch."""
    return time.time_ns() - int(1e9 * (time.monotonic() - at))


def _context(parent: str | Span, tracestate: str) -> Context:
    from opentelemetry import trace
    from opentelemetry.context import Context

    if not isinstance(parent, str):
        return trace.set_span_in_context(parent, Context())
    found = _TRACEPARENT.fullmatch(parent)
    if not found:
        return Context()
    remote = trace.SpanContext(
        trace_id=int(found[1], 16),
        span_id=int(found[2], 16),
        is_remote=True,
        trace_flags=trace.TraceFlags(int(found[3], 16) & trace.TraceFlags.SAMPLED),
        trace_state=trace.TraceState.from_header([tracestate]) if tracestate else None,
    )
    return trace.set_span_in_context(trace.NonRecordingSpan(remote), Context())
