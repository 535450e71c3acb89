"""One request's generation: runs its choices and makes the record of its end.

It does not use HTTP: the endpoints encode its events, and gateway/http sends them.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from edgedraft.observability.tracing import trace_id
from gateway.accounts import Principal
from gateway.ledger import Entry, Progress, counted_ns
from gateway.limits.admission import RateReservation
from gateway.output.choice_output import ChoiceOutput
from gateway.output.events import OutputEvent
from gateway.output.parser import OutputSyntax
from gateway.records.generation import GenerationRecord, Operation, Outcome
from gateway.records.speculation_stats import SpeculationStats, edgedraft_field
from gateway.sessions.choices import Choice, merge_events
from gateway.sessions.errors import RequestRejected, Unavailable, error_type
from gateway.sessions.request import SessionRequest
from gateway.sessions.session import SessionFactory
from gateway.storage.database import DatabaseDown

Recorder = Callable[[GenerationRecord], object]  # a consumer of the record: metrics, traces or log


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What a generation is to do. `sessions` has one request per choice, in the order of their numbers.

    `prompt_tokens` counts a prompt once, however many choices share it. `began_at` is when the HTTP request arrived, by
    time.monotonic(). `syntax` is None where all output is the answer. `left_out` are keywords of the request's schemas
    that the output need not follow, for the response to say so.
    """

    operation: Operation
    principal: Principal
    sessions: tuple[SessionRequest, ...]
    stops: tuple[str, ...]
    prompt_tokens: int
    began_at: float
    stream: bool = False
    syntax: OutputSyntax | None = None
    left_out: tuple[str, ...] = ()


class Generation:
    """One request's choices. Call `run` once. The properties may be read at any time and are final after `run`."""

    def __init__(
        self,
        request: GenerationRequest,
        sessions: SessionFactory,
        entry: Entry,
        rates: RateReservation,
        recorders: Sequence[Recorder] = (),
    ) -> None:
        """`entry` is its row of the ledger, `rates` what it reserves of the key's token rate."""
        self.request = request
        self.model = request.sessions[0].model
        self.choices = [
            Choice(
                session,
                sessions.create(session),
                ChoiceOutput(
                    number, session.model, session.eos, request.stops, request.syntax, session.sampling.min_tokens
                ),
            )
            for number, session in enumerate(request.sessions)
        ]
        self._entry = entry
        self._rates = rates
        self._recorders = recorders

    @property
    def prompt_tokens(self) -> int:
        return self.request.prompt_tokens

    @property
    def output_tokens(self) -> int:
        """The sum of Choice.output_tokens."""
        return sum(choice.output_tokens for choice in self.choices)

    @property
    def reasoning_tokens(self) -> int:
        """Of finished choices."""
        return sum(choice.output.reasoning_tokens for choice in self.choices)

    @property
    def cached_tokens(self) -> int:
        return max((stats.cached for stats in self.stats), default=0)

    @property
    def stats(self) -> list[SpeculationStats]:
        """One entry per choice."""
        return [choice.stats for choice in self.choices]

    def edgedraft(self, choice: int | None = None) -> dict[str, Any]:
        """The root field `edgedraft` of a response, or of the last chunk of one choice."""
        stats = self.stats if choice is None else [self.stats[choice]]
        left_out = self.request.left_out
        return edgedraft_field(stats) | ({"left_out_schema_keywords": list(left_out)} if left_out else {})

    def metrics(self) -> dict[str, Any]:
        """vLLM's root field `metrics`. It has one choice's acceptance; for several choices there is no common one."""
        single = self.stats[0].speculative_decoding() if len(self.choices) == 1 else None
        return {"speculative_decoding": single}

    @asynccontextmanager
    async def run(self) -> AsyncIterator[AsyncGenerator[list[OutputEvent]]]:
        """Yields an iterator over the events, one list per commit. Leaving the context cancels what still runs.

        However it ends, the record of the end is made once, after the last session has closed.

        Raises RequestRejected, Unavailable, DatabaseDown when the ledger cannot be written, and ApiError 429, before
        anything runs, when the key may not use so many tokens now.
        """
        sessions = self.request.sessions
        max_tokens = [session.max_tokens for session in sessions]
        await self._rates.take_tokens(self.prompt_tokens, max_tokens)
        await self._rates.reserve_spend(self.model.name, self.prompt_tokens, max_tokens)
        outcome: Outcome = "cancelled"
        error = ""
        # A single choice needs neither a task nor a queue.
        events = self.choices[0].events() if len(self.choices) == 1 else merge_events(self.choices)
        try:
            await self._entry.begin(lambda: Progress(self.output_tokens, counted_ns(self.stats)))
            async with aclosing(events):
                yield events
            outcome = "finished"
        except Exception as failure:
            outcome, error = self._outcome_of(failure), error_type(failure)
            raise
        finally:
            self._finish(outcome, error)

    def _outcome_of(self, failure: Exception) -> Outcome:
        if isinstance(failure, DatabaseDown):
            return "refused"
        if isinstance(failure, RequestRejected | Unavailable) and not any(stats.tokens for stats in self.stats):
            return "refused"
        return "failed"

    def _finish(self, outcome: Outcome, error: str) -> None:
        request = self.request
        record = GenerationRecord(
            operation=request.operation,
            model=self.model.name,
            principal=request.principal,
            streamed=request.stream,
            outcome=outcome,
            error=error,
            prompt_tokens=request.prompt_tokens,
            output_tokens=self.output_tokens,
            stats=tuple(self.stats),
            finish_reasons=tuple(choice.output.finish_reason for choice in self.choices if choice.output.finish_reason),
            began_at=request.began_at,
            first_text_at=min((at for choice in self.choices if (at := choice.first_text_at)), default=None),
            ended_at=time.monotonic(),
            trace_id=trace_id(request.sessions[0].trace),
        )
        ended = self._entry.end(record)
        self._rates.settle(record.used_tokens, ended.verifier_cost)
        for record_end in self._recorders:
            record_end(record)
