"""`bench quick`: datacenter-only and edge mode on one verifier, taking turns prompt by prompt.

It measures the verifier's work per output token; the agent's own time is not counted, since it is another machine's.
Texts are equal in float32. In lower precision another batch shape may flip a near tie: the table counts equal texts.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from openai import OpenAI
from rich.progress import track

from edgedraft.local.processes import Supervisor
from loadtest.metrics import read_metrics
from loadtest.report import Result
from loadtest.settings import BenchSettings
from loadtest.workloads import Prompt, mixed_prompts

MODES = ("datacenter", "edge")
MAX_TOKENS = 96


@dataclass
class ModeTotals:
    """One mode's totals over all prompts."""

    tokens: int = 0
    forwards: int = 0
    cpu_seconds: float = 0.0
    drafted: int = 0
    accepted: int = 0
    inter_token: list[float] = field(default_factory=list)  # mean seconds per token after the first, per prompt
    first_token: list[float] = field(default_factory=list)  # seconds
    texts: list[str] = field(default_factory=list)

    def row(self, mode: str, same: int) -> dict[str, Any]:
        return {
            "mode": mode,
            "same_text": f"{same}/{len(self.texts)}",
            "output_tokens": self.tokens,
            "tokens_per_verify": self.tokens / self.forwards,
            "acceptance": self.accepted / self.drafted if self.drafted else None,
            "verifier_forwards_per_token": self.forwards / self.tokens,
            "verifier_CPU_ms_per_token": 1e3 * self.cpu_seconds / self.tokens,
            "inter-token_ms": 1e3 * median(self.inter_token),
            "first_token_ms": 1e3 * median(self.first_token),
        }


def quick(settings: BenchSettings) -> Result:
    """24 prompts, greedy and at temperature 0.8, up to 96 tokens each, one at a time."""
    with tempfile.TemporaryDirectory() as folder, Supervisor("bench-key", Path(folder)) as stack:
        # Datacenter-only is plain decoding here, without the verifier's own proposals.
        verifier = stack.start_verifier("--threads", "1", "--dtype", settings.dtype, "--no-prompt-lookup")
        stack.start_gateway(verifier.address)
        stack.wait_for_verifier()
        stack.start_agent("--threads", "1", "--no-past-outputs")
        return compare(stack, verifier.address, settings.dtype)


def compare(
    stack: Supervisor, verifier_url: str, dtype: str, prompts: int = 24, max_tokens: int = MAX_TOKENS
) -> Result:
    """Both modes over the first `prompts` of the mixed prompts, on a running stack."""
    client = OpenAI(base_url=f"{stack.url}/v1", api_key=stack.key)
    model = client.models.list().data[0].id
    sides = {mode: ModeTotals() for mode in MODES}
    for mode in MODES:
        _run(client, model, Prompt("chat", "Say hello."), 0.0, mode, verifier_url, ModeTotals(), max_tokens)
    cases = [(prompt, temperature) for prompt in mixed_prompts()[:prompts] for temperature in (0.0, 0.8)]
    for number, (prompt, temperature) in enumerate(track(cases, "both modes in turn", transient=True)):
        for mode in MODES if number % 2 else reversed(MODES):
            _run(client, model, prompt, temperature, mode, verifier_url, sides[mode], max_tokens)
    datacenter, edge = sides["datacenter"], sides["edge"]
    same = sum(a == b for a, b in zip(datacenter.texts, edge.texts, strict=True))
    rows = [side.row(mode, same) for mode, side in sides.items()]
    ratios = {
        "edge_over_datacenter_verifier_forwards_per_token": _over(rows, "verifier_forwards_per_token"),
        "edge_over_datacenter_verifier_CPU_seconds_per_token": _over(rows, "verifier_CPU_ms_per_token"),
        "edge_over_datacenter_inter-token_latency": _over(rows, "inter-token_ms"),
    }
    used = {"model": model, "dtype": dtype, "prompts": len(cases), "max_tokens": max_tokens, "concurrency": 1}
    return Result("datacenter-only against edge, one verifier, one thread", rows, ratios, used)


def _over(rows: list[dict[str, Any]], column: str) -> float:
    return rows[1][column] / rows[0][column]


def _run(
    client: OpenAI,
    model: str,
    prompt: Prompt,
    temperature: float,
    mode: str,
    verifier_url: str,
    side: ModeTotals,
    max_tokens: int,
) -> None:
    before = verifier_counters(verifier_url)
    began = time.perf_counter()
    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": prompt.text}],
        temperature=temperature,
        seed=7,
        max_tokens=max_tokens,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"edgedraft": {"edge": mode == "edge"}},
    )
    text, arrivals, tokens = "", [], 0
    for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            text += chunk.choices[0].delta.content
            arrivals.append(time.perf_counter())
        if chunk.usage:
            tokens = chunk.usage.completion_tokens
    after = verifier_counters(verifier_url)
    used = {name: after[name] - before[name] for name in after}
    side.texts.append(text)
    side.tokens += tokens
    side.forwards += int(used["edgedraft_verifier_steps_total"])
    side.cpu_seconds += used["process_cpu_seconds_total"]
    side.drafted += int(used["edgedraft_verifier_draft_nodes_total"])
    side.accepted += int(used["edgedraft_verifier_draft_accepted_total"])
    side.first_token.append(arrivals[0] - began)
    if tokens > 1:
        side.inter_token.append((arrivals[-1] - arrivals[0]) / (tokens - 1))


def verifier_counters(url: str) -> dict[str, float]:
    """The counters of a verifier's /metrics, by name."""
    return {name: value for name, value in read_metrics(url).items() if name.endswith("_total")}
