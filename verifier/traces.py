"""The verifier's OpenTelemetry spans: one per session under the gateway's span, a child for prefill, events for steps.

Spans hold counts and times, never tokens. Only the engine's thread uses them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgedraft.observability.tracing import Tracing, epoch_ns
from edgedraft.wire import Commit, Open

if TYPE_CHECKING:
    from opentelemetry.trace import Span

MAX_STEP_EVENTS = 64  # per session; the span's attributes count all of its steps


@dataclass(slots=True)
class _SessionSpan:
    """A session's span and the sums for its attributes."""

    span: Span
    prefill: Span | None = None
    decoding: bool = False
    steps: int = 0
    verify_steps: int = 0
    nodes: int = 0
    accepted: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    compute_seconds: float = 0.0


class SessionSpans:
    """Spans by the engine's session keys. Times are time.monotonic()."""

    def __init__(self, tracing: Tracing, model: str) -> None:
        self._tracing = tracing
        self._model = model
        self._sessions: dict[int, _SessionSpan] = {}

    def record_open(self, key: int, message: Open, received_at: float, ahead: int | None) -> None:
        """A session was opened. `ahead` is how many others are before it in the admission queue, None if it runs."""
        from opentelemetry.trace import SpanKind

        span = self._tracing.start_span(
            f"verify {self._model}",
            SpanKind.SERVER,
            message.trace,
            {
                "gen_ai.request.model": self._model,
                "gen_ai.usage.input_tokens": len(message.prompt),
                "edgedraft.committed_before": len(message.committed),
            },
            at=received_at,
        )
        if not span.is_recording():
            return
        if ahead is not None:
            span.add_event("queued", {"edgedraft.queue.ahead": ahead}, epoch_ns(received_at))
        self._sessions[key] = _SessionSpan(span)

    def record_step(self, key: int, began: float) -> None:
        """The session is in the step that began at `began`. Until its first commit it is in prefill."""
        from opentelemetry.trace import SpanKind

        session = self._sessions.get(key)
        if session and not session.decoding and not session.prefill:
            session.prefill = self._tracing.start_span("prefill", SpanKind.INTERNAL, session.span, {}, at=began)

    def record_commit(self, key: int, commit: Commit, now: float) -> None:
        session = self._sessions.get(key)
        if session is None:
            return
        if session.prefill:
            session.cached_tokens = commit.cached
            session.prefill.set_attribute("gen_ai.usage.cache_read.input_tokens", commit.cached)
            session.prefill.end(epoch_ns(now))
            session.prefill, session.decoding = None, True
        session.steps += 1
        session.verify_steps += commit.nodes > 0
        session.nodes += commit.nodes
        session.accepted += commit.accepted
        session.output_tokens += len(commit.tokens)
        session.compute_seconds += commit.seconds
        if session.steps <= MAX_STEP_EVENTS:
            session.span.add_event(
                "verify" if commit.nodes else "decode",
                {
                    "edgedraft.draft.nodes": commit.nodes,
                    "edgedraft.draft.accepted": commit.accepted,
                    "edgedraft.committed": len(commit.tokens),
                    "edgedraft.window": commit.window,
                },
                epoch_ns(now),
            )
        if commit.finish:
            self._end(key, commit.finish)

    def record_failure(self, key: int, error_type: str) -> None:
        """The session ends by an error of the verifier."""
        from opentelemetry.trace import StatusCode

        if session := self._sessions.get(key):
            session.span.set_attribute("error.type", error_type)
            session.span.set_status(StatusCode.ERROR)
            self._end(key, "error")

    def record_close(self, key: int) -> None:
        """The gateway ended the session, or its link closed. Unknown ones are ignored."""
        self._end(key, "cancelled")

    def _end(self, key: int, finish: str) -> None:
        session = self._sessions.pop(key, None)
        if session is None:
            return
        if session.prefill:
            session.prefill.end()
        session.span.set_attributes(
            {
                "edgedraft.finish": finish,
                "edgedraft.rounds": session.steps,
                "edgedraft.draft.rounds": session.verify_steps,
                "edgedraft.draft.nodes": session.nodes,
                "edgedraft.draft.accepted": session.accepted,
                "gen_ai.usage.output_tokens": session.output_tokens,
                "gen_ai.usage.cache_read.input_tokens": session.cached_tokens,
                "edgedraft.verifier.seconds": round(session.compute_seconds, 6),
            }
        )
        session.span.end()
