"""The gateway's spans and OpenTelemetry metrics: one span per generation, with a child span per agent that took part.

Names and buckets are those of the GenAI semantic conventions, in development upstream:
https://github.com/open-telemetry/semantic-conventions-genai/tree/main/docs/gen-ai. Other attributes begin
with `edgedraft.`. No span contains text; stop strings are left out too, because they may quote the prompt.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from edgedraft.observability.tracing import Tracing, epoch_ns, traceparent_of, valid_traceparent
from edgedraft.wire import Commit, Draft, Open, Sampling

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
        self.per_token = histogram(server + "time_per_output_token", "Time a token after the first text", PER_TOKEN)

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
        return GenerationSpan(self, span, operation, model, began_at)


GenerationParameters = tuple[Sampling, int, int]  # sampling, max_tokens, prompt tokens
TraceHeaders = tuple[str, str]  # a valid traceparent and its tracestate


def trace_headers(traceparent: str, tracestate: str) -> TraceHeaders:
    """The trace context of a client's headers; ("", "") without a valid traceparent."""
    usable = valid_traceparent(traceparent)
    return usable, tracestate[:512] if usable else ""


class GenerationSpan:
    """The span of one generation, until `end`."""

    def __init__(self, traces: GatewayTraces, span: Span, operation: str, model: str, began_at: float) -> None:
        self._traces = traces
        self._span = span
        self._operation = operation
        self._model = model
        self._began_at = began_at

    @property
    def traceparent(self) -> str:
        """The parent of the verifier's and the agents' spans."""
        return traceparent_of(self._span)

    def end(
        self,
        *,
        outcome: Literal["finished", "cancelled", "failed"],
        error: str,
        streamed: bool,
        first_text_at: float | None,
        output_tokens: int,
        cached_tokens: int,
        reasons: Sequence[str],
        speculation: dict[str, Any],
    ) -> None:
        """The generation is over. `error` is a kind of failure, `speculation` the response's field `edgedraft`."""
        from opentelemetry.trace import StatusCode

        now = time.monotonic()
        measured = {
            "gen_ai.operation.name": self._operation,
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.request.model": self._model,
            "gen_ai.response.model": self._model,
        }
        attributes: dict[str, Any] = {
            "gen_ai.response.model": self._model,
            "gen_ai.usage.output_tokens": output_tokens,
            "gen_ai.usage.cache_read.input_tokens": cached_tokens,
            "gen_ai.request.stream": streamed,
            "edgedraft.outcome": outcome,
        }
        attributes |= {f"edgedraft.{name}": value for name, value in speculation.items()}
        if reasons:
            attributes["gen_ai.response.finish_reasons"] = list(reasons)
        if first_text_at is not None:
            first = first_text_at - self._began_at
            self._traces.first_token.record(first, measured)
            if streamed:
                attributes["gen_ai.response.time_to_first_chunk"] = first
            if outcome == "finished" and output_tokens > 1:
                self._traces.per_token.record((now - first_text_at) / (output_tokens - 1), measured)
        if error:
            attributes["error.type"] = error
            self._span.set_status(StatusCode.ERROR)
        self._traces.duration.record(now - self._began_at, measured | ({"error.type": error} if error else {}))
        self._span.set_attributes(attributes)
        self._span.end(epoch_ns(now))


class SlotSpan:
    """The span of one session at one agent, from its opening there."""

    def __init__(self, tracing: Tracing, message: Open, drafter: str) -> None:
        from opentelemetry.trace import SpanKind

        self._span = tracing.start_span("edge agent", SpanKind.CLIENT, message.trace, {"edgedraft.drafter": drafter})
        self._drafts = self._nodes = self._accepted = 0

    def drafted(self, draft: Draft) -> None:
        self._drafts += 1
        self._nodes += len(draft.tokens)
        if self._drafts == 1:
            self._span.add_event("first draft", {"edgedraft.draft.nodes": len(draft.tokens)})

    def committed(self, commit: Commit) -> None:
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
