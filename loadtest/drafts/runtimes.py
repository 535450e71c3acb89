"""The shipped draft model on each runtime that is installed here: the time of a draft forward, and first guesses.

A part of `bench draft`. The runtimes take turns, text by text, so that what else the machine does slows each alike.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from edge_agent.drafters.interface import Drafter, DraftRequest
from edge_agent.onnx.drafter import OnnxDrafter
from edge_agent.onnx.export import export_draft
from edge_agent.onnx.model import load_model
from edge_agent.onnx.providers import installed
from edgedraft.wire import Sampling
from loadtest.report import Result

POSITIONS = (1, 4)  # of one session's tree in a draft forward
KV_TOKENS = 32768


def onnx_drafters(draft: Path, folder: Path, vocab_size: int, threads: int) -> dict[str, Drafter]:
    """Drafters by name, one per execution provider that is installed; the draft model is exported to `folder`."""
    export_draft(str(draft), folder)
    models = [load_model(folder, provider, threads) for provider in installed()]
    return {
        f"ONNX Runtime, {model.device.description}, {model.variant}": OnnxDrafter(model, vocab_size, KV_TOKENS)
        for model in models
    }


def compare_runtimes(
    drafters: Mapping[str, Drafter], texts: Sequence[tuple[list[int], list[int], Sampling]], threads: int
) -> Result:
    """Draft along texts, each a prompt, its answer and their sampling, one token further at a time.

    The first drafter is the one that the others are compared with.
    """
    seconds: dict[tuple[str, int], list[float]] = {(name, n): [] for name in drafters for n in POSITIONS}
    hits = dict.fromkeys(drafters, 0)
    for key, (prompt, answer, sampling) in enumerate(texts):
        for name, drafter in drafters.items():
            drafter.open(key)
            for at in range(len(answer)):
                text = [*prompt, *answer[:at]]
                for n in POSITIONS:
                    # The first request is for the end of the text, the others for tokens that may follow it.
                    paths = [[], *([answer[at] ^ i] for i in range(1, n))]
                    requests = [DraftRequest(key, text + path, len(text), at + len(path), sampling) for path in paths]
                    began = time.perf_counter()
                    found = drafter.propose(requests)
                    while not all(proposal.complete for proposal in found):
                        found = drafter.propose(requests)
                    if at:
                        seconds[name, n].append(time.perf_counter() - began)
                    if n == 1:
                        hits[name] += found[0].tokens[:1] == (answer[at],)
            drafter.close(key)
    positions = sum(len(answer) for _, answer, _ in texts)
    first = next(iter(drafters))
    rows: list[dict[str, Any]] = []
    for name in drafters:
        times = {f"ms, {n} position{'s' * (n > 1)}": 1e3 * median(seconds[name, n]) for n in POSITIONS}
        faster = median(seconds[first, 1]) / median(seconds[name, 1])
        rows.append({"runtime": name, **times, "speed": faster, "first guess right": hits[name] / positions})
    return Result(
        f"the draft model on each runtime, {threads} thread{'s' * (threads > 1)}",
        rows,
        {},
        {"positions": positions},
        ["first guess right: share of the target's tokens that the draft model proposes first"],
    )
