"""Records of generations that ended, for tests of what reads them."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.accounts import Principal
from gateway.records.generation import GenerationRecord, Outcome
from gateway.records.speculation_stats import SpeculationStats

PRINCIPAL = Principal("key_1", "ann", "default", frozenset({"inference"}))


def generation_record(
    outcome: Outcome = "finished",
    stats: Sequence[SpeculationStats] = (),
    output_tokens: int = 7,
    first_text: float | None = None,
    per_token: float = 0.0,
    error: str = "",
) -> GenerationRecord:
    """`first_text` is in seconds after the beginning, `per_token` the seconds between tokens after it."""
    ended_at = (first_text or 0.0) + per_token * (output_tokens - 1)
    return GenerationRecord(
        operation="chat",
        model="toy",
        principal=PRINCIPAL,
        streamed=True,
        outcome=outcome,
        error=error,
        prompt_tokens=5,
        output_tokens=output_tokens,
        stats=tuple(stats) or (SpeculationStats(),),
        finish_reasons=("stop",),
        began_at=0.0,
        first_text_at=first_text,
        ended_at=ended_at,
    )
