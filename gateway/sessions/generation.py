"""One request's generation: its choices' events, what was learnt of them, and the books when it is over.

Every endpoint that generates uses it. How a response looks is the endpoint's; how it is answered (status, errors in
mid-stream, disconnects) is caller.py's.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import Any, Literal

from edgedraft.observability.tracing import trace_id
from gateway.accounts import Principal
from gateway.http.errors import database_down
from gateway.ledger import Entry, Outcome
from gateway.limits.admission import RateReservation
from gateway.observability.traces import GenerationSpan, TraceHeaders
from gateway.output.events import Event, Finished, MakeReader, PlainText
from gateway.services import Services
from gateway.sessions.choices import follow, merged
from gateway.sessions.session import Overloaded, RequestRejected, Session, SessionRequest, Unavailable
from gateway.sessions.speculation_stats import SpeculationStats, edgedraft_field
from gateway.storage.database import DatabaseDown

Operation = Literal["chat", "completions", "responses"]
ReportedOutcome = Literal[
    "finished", "cancelled", "failed"
]  # what metrics, traces and the log tell apart; the ledger knows more


class Generation:
    """`events` runs it, once. The other fields are right at any time, and complete when the events are over."""

    def __init__(
        self,
        services: Services,
        principal: Principal,
        ticket: RateReservation,
        request_id: str,
        operation: Operation,
        jobs: Sequence[SessionRequest],
        stops: Sequence[str],
        prompt_tokens: int,
        make_reader: MakeReader = PlainText,
        trace: TraceHeaders = ("", ""),
        began_at: float | None = None,
    ) -> None:
        """One choice a job, numbered in order. `prompt_tokens` counts a prompt once, however many choices share it.

        `trace` is the one that the client is in, `began_at` when its request came, by time.monotonic().
        """
        self.model = jobs[0].model.name
        self.began_at = time.monotonic() if began_at is None else began_at
        self.streamed = False
        self.facts: dict[str, Any] = {}  # of its end, for the line that tells of the request
        self._span: GenerationSpan | None = None
        if services.traces:
            asked = (jobs[0].sampling, jobs[0].max_tokens, prompt_tokens)
            self._span = services.traces.start_generation(operation, self.model, trace, self.began_at, len(jobs), asked)
        parent = self._span.traceparent if self._span else trace[0]
        self.jobs = tuple(replace(job, trace=parent) for job in jobs) if parent else tuple(jobs)
        self.operation: Operation = operation
        self.principal = principal
        self.request_id = request_id
        self.prompt_tokens = prompt_tokens
        self.first_text_at: float | None = None
        self.finished: dict[int, Finished] = {}
        self._services = services
        self._ticket = ticket
        self._stops = tuple(stops)
        self._make_reader = make_reader
        settings = services.settings
        self._sessions = [
            Session(
                job,
                services.verifiers,
                services.agents,
                services.metrics,
                settings.open_timeout,
                settings.silence_timeout,
            )
            for job in self.jobs
        ]

    @property
    def output_tokens(self) -> int:
        """Of the choices that have finished those that count, of the others all that are committed."""
        return sum(
            self.finished[choice].tokens if choice in self.finished else stats.tokens
            for choice, stats in enumerate(self.stats)
        )

    @property
    def reasoning_tokens(self) -> int:
        """Of the choices that have finished, those of thinking."""
        return sum(choice.reasoning for choice in self.finished.values())

    @property
    def cached_tokens(self) -> int:
        return max((stats.cached for stats in self.stats), default=0)

    @property
    def stats(self) -> list[SpeculationStats]:
        """Of all choices, as far as they have come."""
        return [session.stats for session in self._sessions]

    def made(self) -> dict[str, Any]:
        """The root field `edgedraft` of a response."""
        return edgedraft_field(self.stats)

    def metrics(self) -> dict[str, Any]:
        """vLLM's root field `metrics`, for one choice only: several streams have no common acceptance."""
        alone = self.stats[0].speculative_decoding() if len(self.jobs) == 1 else None
        return {"speculative_decoding": alone}

    async def events(self) -> AsyncGenerator[Event]:
        """All choices' events; afterwards, however it ends, the books.

        Raises what Session.run raises; closing it cancels every session at once. Before anything runs, ApiError: 429
        where the key may not have so many tokens now, 503 where the ledger cannot be written.
        """
        entry = self._services.ledger.new_entry(
            self.principal,
            self.request_id,
            self.model,
            self.operation,
            self.streamed,
            self.prompt_tokens,
            len(self.jobs),
            self.began_at,
        )
        await self._ticket.take_tokens(self.prompt_tokens, [job.max_tokens for job in self.jobs])
        outcome: Outcome = "cancelled"
        error = ""
        sources = [
            follow(session, choice, job, self._stops, self._make_reader())
            for choice, (session, job) in enumerate(zip(self._sessions, self.jobs, strict=True))
        ]
        events = merged(sources)
        try:
            await entry.begin()
            async for event in events:
                self._note(event)
                yield event
            outcome = "finished"
        except DatabaseDown as failure:
            outcome, error = "refused", _error_type(failure)
            raise database_down() from failure
        except (RequestRejected, Unavailable) as failure:
            outcome = "failed" if any(stats.tokens for stats in self.stats) else "refused"
            error = _error_type(failure)
            raise
        except Exception as failure:
            outcome, error = "failed", _error_type(failure)
            raise
        finally:
            await events.aclose()
            self._account(outcome, error, entry)

    def _note(self, event: Event) -> None:
        if isinstance(event, Finished):
            self.finished[event.choice] = event
        elif self.first_text_at is None:
            self.first_text_at = time.monotonic()

    def _account(self, outcome: Outcome, error: str, entry: Entry) -> None:
        made = self.made()
        first_text = per_token = None
        if self.first_text_at is not None:
            first_text = self.first_text_at - self.began_at
        entry.end(outcome, self.stats, self.output_tokens, first_text)
        self._ticket.settle(0 if outcome == "refused" else self.prompt_tokens + self.output_tokens)
        metrics = self._services.metrics
        told: ReportedOutcome = "failed" if outcome == "refused" else outcome
        metrics.requests.labels(self.model, told, made["mode"]).inc()
        metrics.prompt_tokens.labels(self.model).inc(self.prompt_tokens)
        metrics.output_tokens.labels(self.model).inc(self.output_tokens)
        if first_text is not None and self.first_text_at is not None:
            metrics.first_token.labels(self.model).observe(first_text)
            if self.output_tokens > 1:
                per_token = (time.monotonic() - self.first_text_at) / (self.output_tokens - 1)
        metrics.live.record_end(self.principal.agents_owner, made["mode"], first_text, per_token)
        self.facts |= {
            "trace": trace_id(self.jobs[0].trace),
            "operation": self.operation,
            "outcome": told,
            "error": error or None,
            "key": self.principal.key_id,
            "model": self.model,
            "choices": len(self.jobs),
            "prompt_tokens": self.prompt_tokens,
            "output_tokens": self.output_tokens,
            "first_text": first_text,
            "mode": made["mode"],
        }
        if self._span:
            self._span.end(
                outcome=told,
                error=error,
                streamed=self.streamed,
                first_text_at=self.first_text_at,
                output_tokens=self.output_tokens,
                cached_tokens=self.cached_tokens,
                reasons=[self.finished[choice].reason for choice in sorted(self.finished)],
                speculation=made,
            )


# Names in logs and in the span attribute error.type, which stay when a class is renamed.
_ERROR_TYPES: dict[type[Exception], str] = {RequestRejected: "Refused", Overloaded: "Crowded"}


def _error_type(failure: Exception) -> str:
    return _ERROR_TYPES.get(type(failure), type(failure).__name__)
