"""`bench verify`: the cost of a packed step of the engine by sessions and rows, and the hardware's limit for it.

The demo target in this process, real sessions with 256 tokens of context. A session's rows are the last token of its
text and the draft nodes behind it, so one row is plain decoding. Every measured step starts from the same state.

The limit is the larger of two times: the bytes that the step must read at the memory bandwidth, and its floating-point
operations at the rate of a large matrix product, both measured in the same run.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from edgedraft.local.demo_model import DEMO_MODEL, resolve_model
from edgedraft.observability.progress import progress
from edgedraft.runtime.device import DTYPES
from loadtest.report import Result
from loadtest.settings import BenchSettings
from loadtest.step_timing import time_step
from loadtest.workloads import mixed_prompts
from verifier.engine.interface import Engine
from verifier.engine.target import load_target
from verifier.engine.transformers_engine import TransformersEngine
from verifier.settings import VerifierSettings

SESSIONS = (1, 4, 16)
ROWS = (1, 2, 4, 8, 16)
CONTEXT = 256  # a multiple of the KV cache's block, so that all of it is found again
REPEATS = 9


@dataclass
class StepTimes:
    """Seconds of the steps of one size."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class StepDemand:
    """The least a step needs: bytes to read and floating-point operations."""

    bytes: float
    flops: float


@dataclass(frozen=True)
class Hardware:
    """Measured: bytes read and floating-point operations per second."""

    bandwidth: float
    flops: float

    def seconds(self, need: StepDemand) -> tuple[float, float]:
        """The least time by memory and by arithmetic."""
        return need.bytes / self.bandwidth, need.flops / self.flops


def verify(settings: BenchSettings) -> Result:
    """1, 4 and 16 sessions with 1, 2, 4, 8 and 16 rows each."""
    model, card = load_target(
        VerifierSettings.model_validate(
            {"model": DEMO_MODEL, "device": "cpu", "dtype": settings.dtype, "threads": settings.threads}
            | {"kv_tokens": 2 * max(SESSIONS) * (CONTEXT + 2 * max(ROWS))}
        )
    )
    engine = TransformersEngine(model, card.vocab_size, card.context_length, max(SESSIONS))
    load_before = os.getloadavg()[0]
    before = measure_hardware(DTYPES[settings.dtype])
    cells = measure(engine, _contexts(max(SESSIONS)))
    after = measure_hardware(DTYPES[settings.dtype])
    hardware = Hardware(max(before.bandwidth, after.bandwidth), max(before.flops, after.flops))
    needs = {size: step_demand(*size, CONTEXT, DTYPES[settings.dtype]) for size in cells}
    rows = [_row(*size, cell, needs[size], hardware) for size, cell in cells.items()]
    wall = {size: median(cell.wall) for size, cell in cells.items()}
    cpu = {size: median(cell.cpu) for size, cell in cells.items()}
    return Result(
        f"a packed verify step, {settings.dtype}, context {CONTEXT}, threads: {settings.threads}",
        rows,
        {
            "1_session_8_rows_over_1_row_wall": wall[1, 8] / wall[1, 1],
            "1_session_8_rows_over_1_row_CPU": cpu[1, 8] / cpu[1, 1],
            "16_sessions_4_rows_over_1_row_wall": wall[16, 4] / wall[16, 1],
            "16_sessions_4_rows_over_1_row_CPU": cpu[16, 4] / cpu[16, 1],
        },
        {
            "model": DEMO_MODEL,
            "dtype": settings.dtype,
            "threads": settings.threads,
            "context": CONTEXT,
            "repeats": REPEATS,
            "bandwidth_GB_per_s": hardware.bandwidth / 1e9,
            "GEMM_GFLOP_per_s": hardware.flops / 1e9,
            "machine_load_before": load_before,
            "machine_load_after": os.getloadavg()[0],
        },
        [
            f"measured here: {hardware.bandwidth / 1e9:.1f} GB/s read, {hardware.flops / 1e9:.0f} GFLOP/s in a large "
            f"{settings.dtype} product; machine load {load_before:.1f} before, {os.getloadavg()[0]:.1f} after"
        ],
    )


def measure(engine: Engine, contexts: Sequence[Sequence[int]]) -> dict[tuple[int, int], StepTimes]:
    """Seconds of steps by (sessions, rows); sizes take turns, in a new random order each time."""
    sizes = [(sessions, rows) for sessions in SESSIONS for rows in ROWS]
    cells = {size: StepTimes() for size in sizes}
    rng = random.Random(1)
    with progress("measuring", (REPEATS + 1) * len(sizes), "steps") as advance:
        for repeat in range(REPEATS + 1):
            for size in rng.sample(sizes, len(sizes)):
                wall, cpu = time_step(engine, *size, contexts)
                if repeat:  # the first round only warms up
                    cells[size].wall.append(wall)
                    cells[size].cpu.append(cpu)
                advance()
    return cells


def step_demand(sessions: int, rows: int, context: int, dtype: torch.dtype) -> StepDemand:
    """For the demo target: every weight, key and value read once, every product computed once."""
    config = AutoConfig.from_pretrained(resolve_model(DEMO_MODEL)).get_text_config()
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    weights = sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, torch.nn.Linear))
    width = config.num_attention_heads * config.head_dim
    kv_values = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim  # per token
    attention = 4 * config.num_hidden_layers * width * (context + 1 + rows / 2)  # per row: scores and weighted sum
    return StepDemand(
        bytes=dtype.itemsize * (weights + sessions * (context + rows) * kv_values),
        flops=sessions * rows * (2 * weights + attention),
    )


def measure_hardware(dtype: torch.dtype) -> Hardware:
    """Bandwidth: the better of a large copy and a large sum. Arithmetic: a large square product."""
    source, target = torch.ones(1 << 26), torch.empty(1 << 26)
    copied = 2 * source.nbytes / _fastest_call(lambda: target.copy_(source))
    summed = source.nbytes / _fastest_call(source.sum)
    size = 2048
    a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    return Hardware(max(copied, summed), 2 * size**3 / _fastest_call(lambda: a @ b))


def _contexts(sessions: int) -> list[list[int]]:
    """A different text of CONTEXT + 1 tokens for each session."""
    tokenizer: Any = AutoTokenizer.from_pretrained(resolve_model(DEMO_MODEL))
    texts = [prompt.text for prompt in mixed_prompts()]
    return [
        tokenizer.encode(" ".join([*texts[start:], *texts[:start]]), add_special_tokens=False)[: CONTEXT + 1]
        for start in range(sessions)
    ]


def _row(sessions: int, rows: int, cell: StepTimes, need: StepDemand, hardware: Hardware) -> dict[str, Any]:
    memory, arithmetic = hardware.seconds(need)
    wall = median(cell.wall)
    return {
        "sessions": sessions,
        "rows_each": rows,
        "wall_ms": 1e3 * wall,
        "spread_ms": f"{1e3 * min(cell.wall):.4g}-{1e3 * max(cell.wall):.4g}",
        "CPU_ms": 1e3 * median(cell.cpu),
        "MB_to_read": need.bytes / 1e6,
        "GFLOP": need.flops / 1e9,
        "memory_limit_ms": 1e3 * memory,
        "arithmetic_limit_ms": 1e3 * arithmetic,
        "wall_over_limit": wall / max(memory, arithmetic),
    }


def _fastest_call(call: Callable[[], object], tries: int = 7) -> float:
    took = []
    for _ in range(tries):
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return min(took)
