"""The verifier's spans: one a session, under the gateway's, its prefill as a child and its verify rounds as events.

They tell how much of what was done and when, never which tokens. Used by the engine's thread alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgedraft.observability.tracing import Tracing, wall
from edgedraft.wire import Commit, Open

if TYPE_CHECKING:
    from opentelemetry.trace import Span

ROUNDS_TOLD = 64  # verify rounds of a session that get an event each; the span's attributes count all of them


@dataclass(slots=True)
class _Traced:
    """A session's span and what is summed up for it."""

    span: Span
    prefill: Span | None = None
    decoding: bool = False
    rounds: int = 0
    drafted_rounds: int = 0
    nodes: int = 0
    accepted: int = 0
    output: int = 0
    cached: int = 0
    seconds: float = 0.0


class SessionSpans:
    """Spans by the engine's keys. Times are time.monotonic()."""

    def __init__(self, tracing: Tracing, model: str) -> None:
        self._tracing = tracing
        self._model = model
        self._sessions: dict[int, _Traced] = {}

    def opened(self, key: int, message: Open, at: float, ahead: int | None) -> None:
        """A session came in at `at`; with `ahead` it waits for room behind so many others."""
        from opentelemetry.trace import SpanKind

        span = self._tracing.begin(
            f"verify {self._model}",
            SpanKind.SERVER,
            message.trace,
            {
                "gen_ai.request.model": self._model,
                "gen_ai.usage.input_tokens": len(message.prompt),
                "edgedraft.committed_before": len(message.committed),
            },
            at=at,
        )
        if not span.is_recording():
            return
        if ahead is not None:
            span.add_event("queued", {"edgedraft.queue.ahead": ahead}, wall(at))
        self._sessions[key] = _Traced(span)

    def stepped(self, key: int, began: float) -> None:
        """The session is in the step that began then: its prompt is going in if nothing was committed yet."""
        from opentelemetry.trace import SpanKind

        traced = self._sessions.get(key)
        if traced and not traced.decoding and not traced.prefill:
            traced.prefill = self._tracing.begin("prefill", SpanKind.INTERNAL, traced.span, {}, at=began)

    def committed(self, key: int, commit: Commit, now: float) -> None:
        traced = self._sessions.get(key)
        if traced is None:
            return
        if traced.prefill:
            traced.cached = commit.cached
            traced.prefill.set_attribute("gen_ai.usage.cache_read.input_tokens", commit.cached)
            traced.prefill.end(wall(now))
            traced.prefill, traced.decoding = None, True
        traced.rounds += 1
        traced.drafted_rounds += commit.nodes > 0
        traced.nodes += commit.nodes
        traced.accepted += commit.accepted
        traced.output += len(commit.tokens)
        traced.seconds += commit.seconds
        if traced.rounds <= ROUNDS_TOLD:
            traced.span.add_event(
                "verify" if commit.nodes else "decode",
                {
                    "edgedraft.draft.nodes": commit.nodes,
                    "edgedraft.draft.accepted": commit.accepted,
                    "edgedraft.committed": len(commit.tokens),
                    "edgedraft.window": commit.window,
                },
                wall(now),
            )
        if commit.finish:
            self._end(key, commit.finish)

    def failed(self, key: int, why: str) -> None:
        """The session ends because of the verifier's own fault, of the kind `why`."""
        from opentelemetry.trace import StatusCode

        if traced := self._sessions.get(key):
            traced.span.set_attribute("error.type", why)
            traced.span.set_status(StatusCode.ERROR)
            self._end(key, "error")

    def closed(self, key: int) -> None:
        """Its gateway ended it, or is gone; one that has ended already is ignored."""
        self._end(key, "cancelled")

    def _end(self, key: int, how: str) -> None:
        traced = self._sessions.pop(key, None)
        if traced is None:
            return
        if traced.prefill:
            traced.prefill.end()
        traced.span.set_attributes(
            {
                "edgedraft.finish": how,
                "edgedraft.rounds": traced.rounds,
                "edgedraft.draft.rounds": traced.drafted_rounds,
                "edgedraft.draft.nodes": traced.nodes,
                "edgedraft.draft.accepted": traced.accepted,
                "gen_ai.usage.output_tokens": traced.output,
                "gen_ai.usage.cache_read.input_tokens": traced.cached,
                "edgedraft.verifier.seconds": round(traced.seconds, 6),
            }
        )
        traced.span.end()
