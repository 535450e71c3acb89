"""`bench seed --engines vllm`: vLLM alone, vLLM with its own speculation, and EdgeDraft over vLLM's engine.

It runs in an environment with vLLM. Each side's steps take the CPU seconds of its own process; clock, requests,
desktops and links are those of the experiment (experiment.py), greedy, in a closed loop.
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
from loadtest.seed.alone import Alone, Stepped
from loadtest.seed.bench import DEVICE, LINK, figures, means
from loadtest.seed.chats import Chat, chats, record, with_texts
from loadtest.seed.clock import Clock
from loadtest.seed.costs import Prices
from loadtest.seed.drafts import Drafts
from loadtest.seed.fleet import Load, System, Window, run, tokens_for, warm_for
from loadtest.seed.record import Record, read, record_file, write
from loadtest.seed.server import EDGE_LIMITS
from loadtest.seed.statistics import ratio
from loadtest.seed.streaming import Streaming
from loadtest.seed.target import Target, measured_steps
from loadtest.settings import BenchSettings
from verifier.engine.interface import Engine
from verifier.settings import VerifierSettings

SESSIONS = (1, 4, 16)
KV_TOKENS = 1 << 14
CONTEXT = 1024
STEP_TOKENS = 512
SPECULATION = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_min": 2, "prompt_lookup_max": 4}
NAMES = {"a": "vLLM alone", "b": "vLLM, its n-grams", "a'": "EdgeDraft, no desktop", "d": "EdgeDraft on vLLM"}
COLUMNS = ("tokens_per_s", "$_per_1M_used", "first_token_ms", "gap_ms", "gap_p99_ms", "tokens_per_verify")
OTHERS = ("a", "b", "a'")


def vllm(settings: BenchSettings) -> Result:
    """Raises VllmUnavailable where vLLM is not, PeerError when a process of it breaks."""
    from verifier.engine.on_vllm.start import load

    load_before = os.getloadavg()[0]
    asked = {
        "engine": "vllm",
        "model": DEMO_MODEL,
        "dtype": settings.dtype,
        "threads": 1,
        "kv_tokens": KV_TOKENS,
        "context_length": CONTEXT,
        "max_sessions": max(SESSIONS) + 1,
        "step_tokens": STEP_TOKENS,
    }
    begun = load(VerifierSettings.model_validate(asked))
    assert begun
    engine, card = begun
    made, drafts = _recorded(engine, card.eos, card.vocab_size, settings.dtype)
    target = Target(engine, time.process_time, lambda work, seconds: seconds, card.eos)
    with progress("measuring steps"):
        steps = measured_steps(target)
    with tempfile.TemporaryDirectory(prefix="edgedraft-bench-") as folder:
        processes = _start(settings, Path(folder))
        try:
            systems: dict[str, System] = {
                "a": Alone(Clock(), processes["a"], card.eos),
                "b": Alone(Clock(), processes["b"], card.eos),
                "a'": Streaming(Clock(), target, steps, None),
                "d": Streaming(Clock(), target, steps, (DEVICE, LINK, drafts), limits=EDGE_LIMITS),
            }
            windows = _serve(systems, made, settings.repeats)
        finally:
            for process in processes.values():
                process.stop()
    prices = Prices.read()
    found = {
        (sessions, name): [figures(window, "d" if name == "d" else "a", sessions, prices) for window in every]
        for (sessions, name), every in windows.items()
    }
    ratios = {
        f"{title}_d_over_{other},_{n}_streams": ratio(
            [each[column] for each in found[n, "d"]], [each[column] for each in found[n, other]]
        )
        for title, column in {"throughput": "tokens_per_s", "cost_used": "$_per_1M_used", "gap": "gap_ms"}.items()
        for other in OTHERS
        for n in SESSIONS
    }
    return Result(
        f"vLLM and EdgeDraft on it, {settings.dtype}, one core; desktops: {DEVICE.name}, {1e3 * LINK.trip:.0f} ms away",
        [_row(NAMES[name], sessions, found[sessions, name]) for sessions in SESSIONS for name in NAMES],
        {name: each.value for name, each in ratios.items()},
        {
            "model": DEMO_MODEL,
            "dtype": settings.dtype,
            "repeats": settings.repeats,
            "vllm": processes["a"].note,
            "speculation": SPECULATION,
            "step_ms": {n: 1e3 * steps.seconds(n) for n in (1, 2, 4, 8, 16, 32, 64)},
            "intervals": {name: (each.low, each.high) for name, each in ratios.items()},
            "machine_load_before": load_before,
            "machine_load_after": os.getloadavg()[0],
        },
        ["every token was held to the target's own text", "(b) speculates with " + str(SPECULATION)],
        by="load",
    )


def _recorded(engine: Engine, eos: tuple[int, ...], vocab: int, dtype: str) -> tuple[list[Chat], Drafts]:
    """The requests with vLLM's own texts, and the draft model with what it guessed in earlier runs."""
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(DEMO_MODEL))
    made = chats(tokenizer, 0.0)
    drafts = Drafts(vocab, threads=1)
    file = record_file("vllm", DEMO_MODEL, dtype, made)
    kept = read(file)
    if kept:
        drafts.remember(kept.guesses)
        return with_texts(made, kept.texts["0.0"]), drafts
    made = record(made, engine, eos, max(SESSIONS))
    write(file, Record({"0.0": [chat.text for chat in made]}, drafts.known))
    return made, drafts


def _start(settings: BenchSettings, folder: Path) -> dict[str, Stepped]:
    config = {"dtype": settings.dtype, "context": CONTEXT, "step_tokens": STEP_TOKENS, "sessions": max(SESSIONS) + 1}
    setup = config | {"model": resolve_model(DEMO_MODEL), "kv_bytes": 1 << 30}
    processes: dict[str, Stepped] = {}
    for name, speculation in {"a": None, "b": SPECULATION}.items():
        with progress(f"loading {NAMES[name]}"):
            processes[name] = Stepped(setup | {"speculation": speculation}, folder / f"{name}.log")
    return processes


def _serve(systems: Mapping[str, System], asked: Sequence[Chat], repeats: int) -> dict[tuple[int, str], list[Window]]:
    """They take turns at each load; a repeat is the same requests for all of them."""
    windows: dict[tuple[int, str], list[Window]] = {(n, name): [] for n in SESSIONS for name in systems}
    with progress("serving", len(windows) * repeats, "runs") as advance:
        for repeat in range(repeats):
            for sessions in SESSIONS:
                for name, system in systems.items():
                    load = Load(sessions, tokens=tokens_for(sessions), warm=warm_for(sessions))
                    windows[sessions, name].append(run(system, asked, load, repeat))
                    advance(note=f"{NAMES[name]}, {sessions} streams")
    return windows


def _row(way: str, sessions: int, every: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"way": way, "load": "1 stream" if sessions == 1 else f"{sessions} streams"} | means(every, COLUMNS)
