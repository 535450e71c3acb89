"""The gateway's spans and OpenTelemetry metrics: one span per generation, with a child span per agent that took part.

Names and buckets are those of the GenAI semantic conventions, in development upstream:
https://github.com/open-telemetry/semantic-conventions-genai/tree/main/docs/gen-ai. Other attributes begin
with `edgedraft.`. No span contains text; stop strings are left out too, because they may quote the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgedraft.observability.tracing import Tracing, epoch_ns, traceparent_of, valid_traceparent
from edgedraft.wire import Commit, Draft, Open, Sampling
from gateway.records.generation import GenerationRecord

if TYPE_CHECKING:
    from opentelemetry.trace import Span

PROVIDER = "edgedraft"
OPERATIONS = {"chat": "chat", "completions": "text_completion", "responses": "chat"}

DURATION = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
PER_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)


class GatewayTraces:
    """Starts the spans of an app and holds its instruments."""

    def __init__(self, tracing: Tracing) -> None:
        def histogram(name: str, text: str, buckets: Sequence[float]) -> Any:
            return tracing.meter.create_histogram(
                name, unit="s", description=text, explicit_bucket_boundaries_advisory=buckets
            )

        self.tracing = tracing
        server = "gen_ai.server."
        self.duration = histogram(server + "request.duration", "Time from request to last token", DURATION)
        self.first_token = histogram(server + "time_to_first_token", "Time from request to first text", FIRST_TOKEN)
        self.per_token = histogram(server + "time_per_output_token", "Time per token after the first text", PER_TOKEN)

    def start_generation(
        self,
        endpoint: str,
        model: str,
        headers: TraceHeaders,
        began_at: float,
        choices: int,
        parameters: GenerationParameters,
    ) -> GenerationSpan:
        """Starts the span of one request. `began_at` is by time.monotonic()."""
        from opentelemetry.trace import SpanKind

        operation = OPERATIONS[endpoint]
        sampling, max_tokens, input_tokens = parameters
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.request.model": model,
            "gen_ai.request.max_tokens": max_tokens,
            "gen_ai.request.temperature": sampling.temperature,
            "gen_ai.request.top_p": sampling.top_p,
            "gen_ai.request.frequency_penalty": sampling.frequency_penalty,
            "gen_ai.request.presence_penalty": sampling.presence_penalty,
            "gen_ai.usage.input_tokens": input_tokens,
        }
        if sampling.top_k:
            attributes["gen_ai.request.top_k"] = sampling.top_k
        if choices != 1:
            attributes["gen_ai.request.choice.count"] = choices
        traceparent, tracestate = headers
        span = self.tracing.start_span(
            f"{operation} {model}", SpanKind.SERVER, traceparent, attributes, at=began_at, tracestate=tracestate
        )
        return GenerationSpan(self, span, operation, model)


GenerationParameters = tuple[Sampling, int, int]  # sampling, max_tokens, prompt tokens
TraceHeaders = tuple[str, str]  # a valid traceparent and its tracestate


def trace_headers(traceparent: str, tracestate: str) -> TraceHeaders:
    """The trace context of a client's headers; ("", "") without a valid traceparent."""
    usable = valid_traceparent(traceparent)
    return usable, tracestate[:512] if usable else ""


class GenerationSpan:
    """The span of one generation, until `end`."""

    def __init__(self, traces: GatewayTraces, span: Span, operation: str, model: str) -> None:
        self._traces = traces
        self._span = span
        self._operation = operation
        self._model = model

    @property
    def traceparent(self) -> str:
        """The parent of the verifier's and the agents' spans."""
        return traceparent_of(self._span)

    def end(self, record: GenerationRecord) -> None:
        """The generation is over."""
        from opentelemetry.trace import StatusCode

        measured = {
            "gen_ai.operation.name": self._operation,
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.request.model": self._model,
            "gen_ai.response.model": self._model,
        }
        attributes: dict[str, Any] = {
            "gen_ai.response.model": self._model,
            "gen_ai.usage.output_tokens": record.output_tokens,
            "gen_ai.usage.cache_read.input_tokens": record.cached_tokens,
            "gen_ai.request.stream": record.streamed,
            "edgedraft.outcome": record.reported_outcome,
        }
        attributes |= {f"edgedraft.{name}": value for name, value in record.edgedraft.items()}
        if record.finish_reasons:
            attributes["gen_ai.response.finish_reasons"] = list(record.finish_reasons)
        if (first := record.time_to_first_text) is not None:
            self._traces.first_token.record(first, measured)
            if record.streamed:
                attributes["gen_ai.response.time_to_first_chunk"] = first
            if record.outcome == "finished" and (per_token := record.time_per_output_token) is not None:
                self._traces.per_token.record(per_token, measured)
        failure = {"error.type": record.error} if record.error else {}
        if failure:
            attributes |= failure
            self._span.set_status(StatusCode.ERROR)
        self._traces.duration.record(record.ended_at - record.began_at, measured | failure)
        self._span.set_attributes(attributes)
        self._span.end(epoch_ns(record.ended_at))


class SlotSpan:
    """The span of one session at one agent, from its opening there."""

    def __init__(self, tracing: Tracing, message: Open, drafter: str) -> None:
        from opentelemetry.trace import SpanKind

        self._span = tracing.start_span("edge agent", SpanKind.CLIENT, message.trace, {"edgedraft.drafter": drafter})
        self._drafts = self._nodes = self._accepted = 0

    def record_draft(self, draft: Draft) -> None:
        self._drafts += 1
        self._nodes += len(draft.tokens)
        if self._drafts == 1:
            self._span.add_event("first draft", {"edgedraft.draft.nodes": len(draft.tokens)})

    def record_commit(self, commit: Commit) -> None:
        self._accepted += commit.accepted

    def end(self, lost: bool) -> None:
        """The session ended at the agent, or with `lost` the agent was lost during it."""
        if lost:
            self._span.add_event("agent lost")
        self._span.set_attributes(
            {
                "edgedraft.drafts": self._drafts,
                "edgedraft.draft.nodes": self._nodes,
                "edgedraft.draft.accepted": self._accepted,
            }
        )
        self._span.end()
