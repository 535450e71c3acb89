"""The end of a generation as one record, which ledger, metrics, traces and log each read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from gateway.accounts import Principal
from gateway.records.speculation_stats import Mode, SpeculationStats, edgedraft_field

Operation = Literal["chat", "completions", "responses"]

# refused: no verifier took it. cancelled: the client disconnected, or the gateway stopped first; tokens so far count.
# failed: it ended early.
Outcome = Literal["finished", "cancelled", "failed", "refused"]
ReportedOutcome = Literal["finished", "cancelled", "failed"]  # of metrics, traces and log; the ledger has all four


@dataclass(frozen=True, slots=True)
class GenerationRecord:
    """One request's generation when it is over.

    `began_at`, `first_text_at` and `ended_at` are by time.monotonic(), in seconds. `error` is the type of the
    exception that ended it, empty for none. `stats` has one entry per choice, `finish_reasons` one per finished choice.
    `prompt_tokens` counts a prompt once, however many choices share it. `trace_id` is 32 hexadecimal digits, or None.
    """

    operation: Operation
    model: str
    principal: Principal
    streamed: bool
    outcome: Outcome
    error: str
    prompt_tokens: int
    output_tokens: int
    stats: tuple[SpeculationStats, ...]
    finish_reasons: tuple[str, ...]
    began_at: float
    first_text_at: float | None
    ended_at: float
    trace_id: str | None = None

    @property
    def reported_outcome(self) -> ReportedOutcome:
        return "failed" if self.outcome == "refused" else self.outcome

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens that the verifier took from its cache."""
        return max((stats.cached for stats in self.stats), default=0)

    @property
    def used_tokens(self) -> int:
        """What counts against the key's tokens per minute."""
        return 0 if self.outcome == "refused" else self.prompt_tokens + self.output_tokens

    @property
    def mode(self) -> Mode:
        return self.edgedraft["mode"]

    @property
    def edgedraft(self) -> dict[str, Any]:
        """The root field `edgedraft` of the response."""
        return edgedraft_field(self.stats)

    @property
    def time_to_first_text(self) -> float | None:
        """Seconds; None when there was no text."""
        return None if self.first_text_at is None else self.first_text_at - self.began_at

    @property
    def time_per_output_token(self) -> float | None:
        """Seconds per token after the first text; None for fewer than two tokens."""
        if self.first_text_at is None or self.output_tokens < 2:
            return None
        return (self.ended_at - self.first_text_at) / (self.output_tokens - 1)

    def log_fields(self) -> dict[str, Any]:
        """Its fields in the log line of the request."""
        return {
            "trace": self.trace_id,
            "operation": self.operation,
            "outcome": self.reported_outcome,
            "error": self.error or None,
            "key": self.principal.key_id,
            "model": self.model,
            "choices": len(self.stats),
            "prompt_tokens": self.prompt_tokens,
            "output_tokens": self.output_tokens,
            "first_text": self.time_to_first_text,
            "mode": self.mode,
        }
