"""`bench engine`: plain decoding by this engine and by others, with the same weights, number format and prompts.

Each system is a process of its own (peers/engines/), all loaded before the first measurement; they take turns, so
that other load on the machine affects all alike. Every session generates the same number of tokens, end-of-sequence
tokens are ignored, and no system finds an earlier prompt in its cache.

A job of one token per session is measured beside each: its time is that of the prompts, and the rest of the longer
job's is decoding alone. A process's CPU seconds count.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from transformers import AutoTokenizer

from edgedraft.local.demo_model import DEMO_MODEL, resolve_model
from edgedraft.observability.progress import progress
from loadtest.peers.engines.process import BenchJob, Peer, PeerError, System
from loadtest.peers.engines.runner import Setup
from loadtest.report import Result
from loadtest.settings import BenchSettings
from loadtest.workloads import mixed_prompts, prompt_tokens

SESSIONS = (1, 4, 16, 32)
TOKENS = 48
REPEATS = 3
STEP_TOKENS = 512

OURS, ON_VLLM, GENERATE = "edgedraft", "edgedraft on vLLM", "transformers generate"
FIGURES = (
    "tokens_per_CPU_s",
    "spread",
    "tokens_per_s",
    "decoding_tokens_per_CPU_s",
    "decoding_spread",
    "same_text",
)

Decode = Callable[[list[int]], str]


@dataclass
class Repeats:
    """One system at one number of sessions: every repeat's job, and its job of one token."""

    jobs: list[BenchJob] = field(default_factory=list)
    prompts_only: list[BenchJob] = field(default_factory=list)

    def rates(self, sessions: int) -> dict[str, list[float]]:
        """Output tokens per CPU and wall second of complete jobs, and per CPU second of decoding alone, by repeat."""
        pairs = list(zip(self.jobs, self.prompts_only, strict=True))
        decoded = sessions * (TOKENS - 1)
        return {
            "cpu": [sessions * TOKENS / job.cpu for job in self.jobs],
            "wall": [sessions * TOKENS / job.wall for job in self.jobs],
            "decode_cpu": [decoded / (job.cpu - first.cpu) for job, first in pairs],
        }


def engine(settings: BenchSettings) -> Result:
    """Output tokens per CPU second of every system that is installed, at 1, 4, 16 and 32 sessions."""
    systems = [
        *([System(OURS, "run_edgedraft", sys.executable)] if "transformers" in settings.engines else []),
        *([System(ON_VLLM, "run_edgedraft_vllm", settings.bench_vllm_python)] if "vllm" in settings.engines else []),
        System(GENERATE, "run_generate", sys.executable),
        System("transformers generate_batch", "run_generate_batch", sys.executable),
        System("llama.cpp", "run_llamacpp", settings.bench_llamacpp_python, wants_gguf=True),
        System("vLLM", "run_vllm", settings.bench_vllm_python),
    ]
    folder = Path(resolve_model(DEMO_MODEL))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompts = _prompts(tokenizer)

    def decode(ids: list[int]) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=True))

    longest = max(map(len, prompts)) + TOKENS
    setup = Setup(
        model=str(folder),
        dtype=settings.dtype,
        threads=settings.threads,
        sessions=max(SESSIONS),
        context=-(-longest // 64) * 64,
        step_tokens=STEP_TOKENS,
    )
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="edgedraft-bench-") as scratch:
        cells, notes = compare(systems, setup, prompts, Path(scratch))
    used = {
        "model": DEMO_MODEL,
        "dtype": settings.dtype,
        "threads": settings.threads,
        "output_tokens": TOKENS,
        "prompt_tokens": sum(map(len, prompts)) / len(prompts),
        "repeats": REPEATS,
        "systems": notes,
        "machine_load_before": load_before,
        "machine_load_after": os.getloadavg()[0],
    }
    rows = table(systems, cells, notes, decode, tokenizer.eos_token_id)
    title = f"plain decoding, {settings.dtype}, threads: {settings.threads}, {TOKENS} tokens per session"
    described = [f"{name}: {note}" for name, note in notes.items()]
    return Result(title, rows, ratios(cells), used, described)


def compare(
    systems: Sequence[System], setup: Setup, prompts: Sequence[list[int]], folder: Path
) -> tuple[dict[str, dict[int, Repeats]], dict[str, str]]:
    """Every system's repeats by number of sessions, without those that are missing or failed, and a note on each."""
    notes: dict[str, str] = {}
    peers: list[Peer] = []
    try:
        for system in systems:
            if not system.python:
                notes[system.name] = "not installed"
                continue
            model = _gguf(setup, folder) if system.wants_gguf else setup.model
            with progress(f"loading {system.name}"):
                try:
                    peers.append(Peer(system, replace(setup, model=model), folder))
                except OSError as error:
                    notes[system.name] = f"not installed: {error}"
                    continue
                _try(peers, peers[-1], notes, peers[-1].wait_ready)
        for peer in list(peers):
            notes[peer.system.name] = peer.note
            _try(peers, peer, notes, lambda: [peer.run(prompts[:n], 2) for n in (1, len(prompts))])  # noqa: B023
        cells: dict[str, dict[int, Repeats]] = {peer.system.name: {n: Repeats() for n in SESSIONS} for peer in peers}
        with progress("measuring", REPEATS * len(SESSIONS) * len(peers), "jobs") as advance:
            for repeat in range(REPEATS):
                for sessions in SESSIONS:
                    first = repeat % max(1, len(peers))
                    for peer in peers[first:] + peers[:first]:
                        cell, chosen = cells[peer.system.name][sessions], prompts[:sessions]
                        _try(peers, peer, notes, lambda: _measure(peer, cell, chosen))  # noqa: B023
                        advance(note=f"{peer.system.name}, {sessions} sessions")
        return {peer.system.name: cells[peer.system.name] for peer in peers}, notes
    finally:
        for peer in peers:
            peer.stop()


def table(
    systems: Sequence[System],
    cells: Mapping[str, Mapping[int, Repeats]],
    notes: Mapping[str, str],
    decode: Decode,
    eos: int,
) -> list[dict[str, Any]]:
    """A row per system and number of sessions; a system without a measurement has one row with the reason."""
    rows: list[dict[str, Any]] = []
    for name in [system.name for system in systems]:
        if name not in cells:
            rows.append({"system": name, "sessions": notes[name].split(":")[0]} | dict.fromkeys(FIGURES))
            continue
        for sessions, cell in cells[name].items():
            rates = cell.rates(sessions)
            reference = cells.get(GENERATE, {}).get(sessions)
            figures = (
                median(rates["cpu"]),
                _spread(rates["cpu"]),
                median(rates["wall"]),
                median(rates["decode_cpu"]),
                _spread(rates["decode_cpu"]),
                None if reference is None else _agreement(cell, reference, decode, eos),
            )
            rows.append({"system": name, "sessions": sessions} | dict(zip(FIGURES, figures, strict=True)))
    return rows


def ratios(cells: Mapping[str, Mapping[int, Repeats]]) -> dict[str, float]:
    """This engine's rates per CPU second over each other system's: complete jobs and decoding alone."""
    over: dict[str, float] = {}
    ours = [name for name in (OURS, ON_VLLM) if name in cells]
    for clock, what in (("cpu", ""), ("decode_cpu", "decoding_")):
        for mine, name in ((mine, name) for mine in ours for name in cells if name not in ours):
            for sessions, cell in cells[name].items():
                key = f"{what}tokens_per_CPU_s_{mine}_over_{name}_at_{sessions}".replace(" ", "_")
                rate = median(cells[mine][sessions].rates(sessions)[clock])
                over[key] = rate / median(cell.rates(sessions)[clock])
    return over


def _spread(values: Sequence[float]) -> str:
    return f"±{(max(values) - min(values)) / 2 / median(values):.0%}"


def _agreement(cell: Repeats, reference: Repeats, decode: Decode, eos: int) -> float:
    """The share of sessions whose text is that of transformers' generate, up to its first end-of-sequence token."""
    same = 0
    for mine, theirs in zip(cell.jobs[-1].outputs, reference.jobs[-1].outputs, strict=True):
        assert isinstance(theirs, list)
        ends = theirs.index(eos) if eos in theirs else len(theirs)
        text = mine if isinstance(mine, str) else decode(mine)
        # An incomplete character at the end is shown by some systems only.
        same += text.startswith(decode(theirs[:ends]).rstrip("\ufffd"))
    return same / len(cell.jobs[-1].outputs)


def _measure(peer: Peer, cell: Repeats, prompts: Sequence[list[int]]) -> None:
    first = peer.run(prompts, 1)
    cell.jobs.append(peer.run(prompts, TOKENS))
    cell.prompts_only.append(first)


def _try(peers: list[Peer], peer: Peer, notes: dict[str, str], call: Callable[[], object]) -> None:
    """A system that fails is removed from the run with a note; the others continue."""
    try:
        call()
    except PeerError as error:
        notes[peer.system.name] = f"failed: {error}"
        peer.stop()
        if peer in peers:
            peers.remove(peer)


def _prompts(tokenizer: Any) -> list[list[int]]:
    """One rendered prompt for each of the most sessions; the first ones are repeated."""
    ids = [prompt_tokens(tokenizer, prompt.text) for prompt in mixed_prompts()]
    return (ids * -(-max(SESSIONS) // len(ids)))[: max(SESSIONS)]


def _gguf(setup: Setup, folder: Path) -> str:
    from loadtest.peers.engines.write_gguf import write_gguf

    file = folder / f"{setup.dtype}.gguf"
    write_gguf(Path(setup.model), file, setup.dtype)
    return str(file)
