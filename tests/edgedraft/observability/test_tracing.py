"""Whether tracing is on, where spans go, and that a trace survives the way from one process to another."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

import pytest
from opentelemetry.trace import SpanKind

from edgedraft.observability.tracing import Tracing, start_tracing, trace_id, traceparent_of, valid_traceparent
from tests.support.in_memory_tracing import PARENT, TRACE, TRACEPARENT, InMemoryTracing, ids
from tests.support.otlp_receiver import OtlpReceiver, attributes


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


def test_tracing_is_off_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert start_tracing("auto", "x") is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    assert start_tracing("off", "x") is None
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert start_tracing("auto", "x") is None


def test_when_off_opentelemetry_is_not_imported() -> None:
    code = (
        "import sys, gateway.main, verifier.traces, edge_agent.traces;"
        "from edgedraft.observability.tracing import start_tracing;"
        "start_tracing('auto', 'x'); print([m for m in sys.modules if m.startswith('opentelemetry.sdk')])"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert out.stdout.strip() == "[]"


def test_a_collector_gets_spans_and_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    with OtlpReceiver() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        tracing = start_tracing("auto", "edgedraft-test")
        assert tracing
        began = time.monotonic() - 2
        span = tracing.start_span(
            "work", SpanKind.SERVER, TRACEPARENT, {"edgedraft.rounds": 3}, at=began, tracestate="a=b"
        )
        tracing.start_span("part", SpanKind.INTERNAL, span, {}).end()
        span.end()
        tracing.meter.create_histogram("edgedraft.test", unit="s").record(0.5)
        tracing.close()
        assert {"work", "part"} == {got.name for got in collector.of("edgedraft-test")}
        assert collector.metrics["edgedraft.test"].histogram.data_points[0].sum == 0.5
    (work,) = [got for _, got in collector.spans if got.name == "work"]
    assert (work.trace_id.hex(), work.parent_span_id.hex(), work.trace_state) == (TRACE, PARENT, "a=b")
    assert attributes(work.attributes) == {"edgedraft.rounds": 3}
    assert 1.9e9 < work.end_time_unix_nano - work.start_time_unix_nano < 20e9


def test_an_unreachable_collector_does_not_delay_the_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:  # takes connections and never answers
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{mute.getsockname()[1]}")
        tracing = start_tracing("auto", "x")
        assert tracing
        tracing.start_span("work", SpanKind.SERVER, "", {}).end()
        began = time.monotonic()
        tracing.close()
        assert time.monotonic() - began < 6


def test_a_trace_continues_with_the_same_id() -> None:
    there, here = InMemoryTracing(), InMemoryTracing()
    upper = there.start_span("upper", SpanKind.SERVER, TRACEPARENT, {})
    here.start_span("lower", SpanKind.SERVER, traceparent_of(upper), {}).end()
    upper.end()
    trace, span, parent = ids(there.spans[0])
    assert (trace, parent) == (TRACE, PARENT)
    assert ids(here.spans[0])[::2] == (TRACE, span)


def test_an_unsampled_parent_stays_unsampled() -> None:
    tracing: Tracing = InMemoryTracing()
    span = tracing.start_span("work", SpanKind.SERVER, f"00-{TRACE}-{PARENT}-00", {})
    assert not span.is_recording()
    assert traceparent_of(span) == f"00-{TRACE}-{traceparent_of(span)[36:52]}-00"


@pytest.mark.parametrize(
    "header",
    [
        "",
        "rubbish",
        f"01-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        TRACEPARENT.upper(),
        TRACEPARENT + "\n",
        TRACEPARENT + "-more",
    ],
)
def test_an_invalid_traceparent_is_dropped(header: str) -> None:
    assert valid_traceparent(header) == ""
    tracing = InMemoryTracing()
    tracing.start_span("work", SpanKind.SERVER, header, {}).end()
    assert ids(tracing.spans[0])[2] == ""
    assert trace_id(valid_traceparent(TRACEPARENT)) == TRACE
