"""`bench specedge --engines vllm`: vLLM, vLLM with its own speculation, and EdgeDraft on vLLM's engine.

Runs in an environment with vLLM. Each side's steps take the CPU seconds of its own process; clock, requests, devices
and links are those of experiment.py, greedy, in a closed loop.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from edgedraft.local.demo_model import DEMO_MODEL, resolve_model
from edgedraft.observability.progress import progress
from loadtest.report import Result
from loadtest.settings import BenchSettings
from loadtest.simulator.clock import Clock
from loadtest.simulator.draft_model import MemoizedDraftModel
from loadtest.simulator.load import Load, System, run, tokens_for, warmup_for
from loadtest.simulator.measurement import Measurement
from loadtest.simulator.profiles import EdgeProfile
from loadtest.simulator.recorded_chats import RecordedChat, make_chats, record_texts, with_texts
from loadtest.simulator.recordings import Recording, read_recording, recording_file, write_recording
from loadtest.simulator.systems.edgedraft import DatacenterOnly, EdgeDraft
from loadtest.simulator.target import Target, measure_steps
from loadtest.specedge.preparation import DEVICE, GREEDY, LINK
from loadtest.specedge.prices import Prices
from loadtest.specedge.systems import EDGEDRAFT, mean_columns, summarize
from loadtest.specedge.vllm_system import VllmProcess, VllmSystem
from loadtest.statistics import ratio
from verifier.engine.interface import Engine
from verifier.settings import VerifierSettings

CONCURRENCIES = (1, 4, 16)
KV_TOKENS = 1 << 14
CONTEXT = 1024
STEP_TOKENS = 512
SPECULATION = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_min": 2, "prompt_lookup_max": 4}
VLLM, VLLM_NGRAM, NO_AGENTS = "vllm", "vllm_ngram", "edgedraft_no_agents"
SYSTEMS = {
    VLLM: "vLLM alone",
    VLLM_NGRAM: "vLLM, its n-grams",
    NO_AGENTS: "EdgeDraft, no agents",
    EDGEDRAFT: "EdgeDraft on vLLM",
}
BASELINES = (VLLM, VLLM_NGRAM, NO_AGENTS)
COLUMNS = (
    "tokens_per_s",
    "$_per_1M_used",
    "first_token_ms",
    "inter_token_ms",
    "inter_token_p99_ms",
    "tokens_per_verify",
)
RATIO_COLUMNS = {"throughput": "tokens_per_s", "cost_used": "$_per_1M_used", "inter_token": "inter_token_ms"}


def compare_on_vllm(settings: BenchSettings) -> Result:
    """Raises VllmUnavailable without vLLM, PeerError when a vLLM process fails."""
    from verifier.engine.on_vllm.start import load

    load_before = os.getloadavg()[0]
    options = {
        "engine": "vllm",
        "model": DEMO_MODEL,
        "dtype": settings.dtype,
        "threads": 1,
        "kv_tokens": KV_TOKENS,
        "context_length": CONTEXT,
        "max_sessions": max(CONCURRENCIES) + 1,
        "step_tokens": STEP_TOKENS,
    }
    loaded = load(VerifierSettings.model_validate(options))
    assert loaded
    engine, card = loaded
    chats, draft_model = _recorded(engine, card.eos, card.vocab_size, settings.dtype)
    target = Target(engine, time.process_time, lambda scheduled, seconds: seconds, card.eos)
    with progress("measuring steps"):
        steps = measure_steps(target)
    with tempfile.TemporaryDirectory(prefix="edgedraft-bench-") as folder:
        processes = _start(settings, Path(folder))
        try:
            systems: dict[str, System] = {
                VLLM: VllmSystem(Clock(), processes[VLLM], card.eos),
                VLLM_NGRAM: VllmSystem(Clock(), processes[VLLM_NGRAM], card.eos),
                NO_AGENTS: DatacenterOnly(Clock(), target, steps),
                EDGEDRAFT: EdgeDraft(Clock(), target, steps, EdgeProfile(DEVICE, LINK, draft_model)),
            }
            runs = _run_all(systems, chats, settings.repeats)
        finally:
            for process in processes.values():
                process.stop()
    prices = Prices.of(settings)
    summaries = {
        (n, name): [summarize(measured, prices, n if name == EDGEDRAFT else 0) for measured in every]
        for (n, name), every in runs.items()
    }
    ratios = {
        f"{title}_{EDGEDRAFT}_over_{other},_{n}_streams": ratio(
            [summary[column] for summary in summaries[n, EDGEDRAFT]],
            [summary[column] for summary in summaries[n, other]],
        )
        for title, column in RATIO_COLUMNS.items()
        for other in BASELINES
        for n in CONCURRENCIES
    }
    return Result(
        f"vLLM and EdgeDraft on it, {settings.dtype}, one core; devices: {DEVICE.name}, {1e3 * LINK.rtt:.0f} ms away",
        [_row(SYSTEMS[name], n, summaries[n, name]) for n in CONCURRENCIES for name in SYSTEMS],
        {name: found.value for name, found in ratios.items()},
        {
            "model": DEMO_MODEL,
            "dtype": settings.dtype,
            "repeats": settings.repeats,
            "vllm": processes[VLLM].note,
            "speculation": SPECULATION,
            "step_ms": {n: 1e3 * steps.seconds(n) for n in (1, 2, 4, 8, 16, 32, 64)},
            "intervals": {name: (found.low, found.high) for name, found in ratios.items()},
            "machine_load_before": load_before,
            "machine_load_after": os.getloadavg()[0],
        },
        [
            "every token was compared with the target's own text",
            f"{SYSTEMS[VLLM_NGRAM]} speculates with {SPECULATION}",
        ],
        by="load",
    )


def _recorded(
    engine: Engine, eos: tuple[int, ...], vocab_size: int, dtype: str
) -> tuple[list[RecordedChat], MemoizedDraftModel]:
    """The requests with vLLM's own texts, and the draft model with the proposals of earlier runs."""
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(DEMO_MODEL))
    chats = make_chats(tokenizer, GREEDY)
    draft_model = MemoizedDraftModel(vocab_size, threads=1)
    file = recording_file("vllm", DEMO_MODEL, dtype, chats)
    recording = read_recording(file)
    if recording:
        draft_model.preload(recording.proposals)
        return with_texts(chats, recording.texts[str(GREEDY)]), draft_model
    chats = record_texts(chats, engine, eos, max(CONCURRENCIES))
    write_recording(file, Recording({str(GREEDY): [chat.text for chat in chats]}, draft_model.recorded))
    return chats, draft_model


def _start(settings: BenchSettings, folder: Path) -> dict[str, VllmProcess]:
    config = {
        "dtype": settings.dtype,
        "context": CONTEXT,
        "step_tokens": STEP_TOKENS,
        "sessions": max(CONCURRENCIES) + 1,
    }
    setup = config | {"model": resolve_model(DEMO_MODEL), "kv_bytes": 1 << 30}
    processes: dict[str, VllmProcess] = {}
    for name, speculation in {VLLM: None, VLLM_NGRAM: SPECULATION}.items():
        with progress(f"loading {SYSTEMS[name]}"):
            processes[name] = VllmProcess(setup | {"speculation": speculation}, folder / f"{name}.log")
    return processes


def _run_all(
    systems: Mapping[str, System], chats: Sequence[RecordedChat], repeats: int
) -> dict[tuple[int, str], list[Measurement]]:
    """Systems take turns at each load; within a repeat all get the same requests."""
    runs: dict[tuple[int, str], list[Measurement]] = {(n, name): [] for n in CONCURRENCIES for name in systems}
    with progress("closed loop", len(runs) * repeats, "runs") as advance:
        for repeat in range(repeats):
            for n in CONCURRENCIES:
                for name, system in systems.items():
                    load = Load(n, tokens=tokens_for(n), warmup_tokens=warmup_for(n))
                    runs[n, name].append(run(system, chats, load, repeat))
                    advance(note=f"{SYSTEMS[name]}, {n} streams")
    return runs


def _row(system: str, concurrency: int, summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    load = "1 stream" if concurrency == 1 else f"{concurrency} streams"
    return {"system": system, "load": load} | mean_columns(summaries, COLUMNS)
