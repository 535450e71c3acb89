"""The agent's spans: one a session that it drafts for, under the gateway's, with counts of its draft and nothing else.

Off unless this agent's owner configures OpenTelemetry on this machine. Used by the drafting thread alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_agent.drafting.stats import DraftStats
from edgedraft.observability.tracing import Tracing
from edgedraft.wire import Open

if TYPE_CHECKING:
    from opentelemetry.trace import Span


class DraftSpans:
    """Spans by the gateway's session numbers, which no two sessions of one attachment share."""

    def __init__(self, tracing: Tracing, drafter: str) -> None:
        """`drafter` is how this agent describes what it drafts with."""
        self._tracing = tracing
        self._drafter = drafter
        self._spans: dict[int, Span] = {}

    def session_started(self, message: Open) -> None:
        """A session is drafted for from now on; one that begins again from a new place is told as an event."""
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
        """`how` may say more behind a colon, which is for the log alone."""
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
