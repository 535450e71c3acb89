"""The agent's OpenTelemetry spans: one per drafted session, a child of the gateway's span, with draft counts only.

Off unless the agent's owner configures OpenTelemetry on this machine. Used by the drafting thread only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_agent.drafting.stats import DraftStats
from edgedraft.observability.tracing import Tracing
from edgedraft.wire import Open

if TYPE_CHECKING:
    from opentelemetry.trace import Span


class DraftSpans:
    """Open spans by session number, which is unique within one attachment."""

    def __init__(self, tracing: Tracing, drafter: str) -> None:
        """`drafter` is the description of this agent's drafters, a span attribute."""
        self._tracing = tracing
        self._drafter = drafter
        self._spans: dict[int, Span] = {}

    def session_started(self, message: Open) -> None:
        """Start the session's span; for one that is open, record its restart as an event."""
        from opentelemetry.trace import SpanKind

        if span := self._spans.get(message.session):
            span.add_event("begun again", {"edgedraft.committed_before": len(message.committed)})
            return
        self._spans[message.session] = self._tracing.start_span(
            "draft",
            SpanKind.SERVER,
            message.trace,
            {
                "edgedraft.drafter": self._drafter,
                "gen_ai.usage.input_tokens": len(message.prompt),
                "edgedraft.committed_before": len(message.committed),
            },
        )

    def session_ended(self, session: int, how: str, counts: DraftStats) -> None:
        """End the session's span. The part of `how` after a colon is for the log only."""
        if span := self._spans.pop(session, None):
            span.set_attributes(
                {
                    "edgedraft.finish": how.partition(":")[0],
                    "edgedraft.draft.nodes": counts.drafted,
                    "edgedraft.draft.accepted": counts.accepted,
                    "edgedraft.committed": counts.committed,
                }
            )
            span.end()
