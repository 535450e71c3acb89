"""What sampling adds to a step, beside the greedy one that step costs are measured with: noise, and top_p."""

from __future__ import annotations

from statistics import median

import torch

from edgedraft.sampling.sampler import sample_rows
from edgedraft.wire import Sampling
from loadtest.gpu_check.costs.timing import time_call
from loadtest.gpu_check.report import Section
from loadtest.report import Result

VOCAB, TINY_VOCAB = 151936, 512
ROWS_EACH = 8
SESSIONS = (1, 16, 64)
REPEATS, TINY_REPEATS = 5, 1
SAMPLINGS = {
    "greedy_ms": Sampling(temperature=0),
    "temperature_ms": Sampling(temperature=0.8, seed=1),
    "top_p_ms": Sampling(temperature=0.8, top_p=0.95, seed=1),
}


@torch.inference_mode()
def time_sampling(section: Section, device: torch.device, tiny: bool) -> None:
    """As verification does it: all rows of a session at once, one session after the other."""
    vocab, sizes = (TINY_VOCAB, SESSIONS[:2]) if tiny else (VOCAB, SESSIONS)
    table: list[dict[str, float]] = []
    for sessions in sizes:
        logits = torch.randn((sessions, ROWS_EACH, vocab), device=device).to(torch.bfloat16)

        def sample(sampling: Sampling, logits: torch.Tensor = logits) -> None:
            for rows in logits:
                sample_rows(rows, sampling, range(ROWS_EACH))

        row: dict[str, float] = {"sessions": sessions, "rows_each": ROWS_EACH}
        for name, sampling in SAMPLINGS.items():
            call_seconds = time_call(lambda: sample(sampling), device, TINY_REPEATS if tiny else REPEATS)  # noqa: B023
            row[name] = 1e3 * median(call_seconds)
        table.append(row)
    section.tables.append(Result(f"sampling over a vocabulary of {vocab}", table, {}, {}))
