"""`bench prefix`: time to first token of the second turn of a conversation of 2,000 tokens.

Three sides, one request at a time through gateway and verifier, without an agent: cold, a conversation that is new to
the verifier; warm, one whose first turn was answered for the same tenant; and the same one for another tenant, which
must not hit the prefix cache. The first turn is not timed. No two conversations begin with the same block.
"""

from __future__ import annotations

import os
import random
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam
from rich.progress import track

from edgedraft.child_process import python_command
from edgedraft.local.processes import Supervisor
from loadtest.report import Result
from loadtest.settings import BenchSettings
from loadtest.workloads import mixed_prompts

SIDES = ("cold", "warm", "other tenant")
REPEATS = 9
ANSWER_TOKENS = 48  # of the first turn
TIMED_TOKENS = 4  # of the second: only the first is timed
FIRST_QUESTION = "Which of these notes are about travelling? Name their numbers."
SECOND_QUESTION = "Thank you. Which of the others would you answer first, and why?"

Messages = list[ChatCompletionMessageParam]


@dataclass(frozen=True)
class Sample:
    """One second turn: seconds to first token, the prompt's tokens, and how many of them were cached."""

    seconds: float
    prompt: int
    cached: int


def prefix(settings: BenchSettings) -> Result:
    """Each repeat has two new conversations of the same length; the sides take turns in being first."""
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder, Supervisor("bench-key", Path(folder)) as stack:
        database = f"sqlite+aiosqlite:///{Path(folder) / 'gateway.db'}"
        keys = {tenant: _create_key(database, tenant) for tenant in ("tenant-1", "tenant-2")}
        verifier = stack.start_verifier("--threads", str(settings.threads), "--dtype", settings.dtype)
        stack.start_gateway(verifier.address, flags=("--port", "0", "--database", database))
        stack.wait_for_verifier()
        one, two = (OpenAI(base_url=f"{stack.url}/v1", api_key=key, max_retries=0) for key in keys.values())
        model = one.models.list().data[0].id
        samples: dict[str, list[Sample]] = {side: [] for side in SIDES}
        for client in (one, two):
            _complete(client, model, [{"role": "user", "content": "Say hello."}], TIMED_TOKENS)
        for repeat in track(range(REPEATS), "cold, warm and other tenant in turn", transient=True):
            known, unknown = first_turn(2 * repeat), first_turn(2 * repeat + 1)
            answer, _ = _complete(one, model, known, ANSWER_TOKENS)
            requests = {"cold": (one, unknown), "warm": (one, known), "other tenant": (two, known)}
            for side in side_order(repeat):
                client, before = requests[side]
                _, sample = _complete(client, model, second_turn(before, answer), TIMED_TOKENS)
                samples[side].append(sample)
    used = {
        "model": model,
        "dtype": settings.dtype,
        "threads": settings.threads,
        "repeats": REPEATS,
        "first_answer_tokens": ANSWER_TOKENS,
        "machine_load_before": load_before,
        "machine_load_after": os.getloadavg()[0],
    }
    note = f"machine load {load_before:.1f} before, {used['machine_load_after']:.1f} after"
    return Result("first token of a second turn, medians", rows(samples), ratios(samples), used, [note])


def first_turn(number: int) -> Messages:
    """A conversation for each number below 100, all of the same length: the same notes in another order."""
    notes = [prompt.text for prompt in mixed_prompts()] * 2
    random.Random(number).shuffle(notes)
    listed = "\n".join(f"{i}. {note}" for i, note in enumerate(notes, 1))
    return [
        {"role": "system", "content": f"{number:02d} is the number of this conversation. You help to sort notes."},
        {"role": "user", "content": f"These are my notes.\n{listed}\n{FIRST_QUESTION}"},
    ]


def second_turn(before: Messages, answer: str) -> Messages:
    return [*before, {"role": "assistant", "content": answer}, {"role": "user", "content": SECOND_QUESTION}]


def side_order(repeat: int) -> Sequence[str]:
    """The sides, each of them first in every third repeat."""
    first = repeat % len(SIDES)
    return SIDES[first:] + SIDES[:first]


def rows(samples: Mapping[str, Sequence[Sample]]) -> list[dict[str, Any]]:
    """Median, fastest and slowest of each side."""
    return [
        {
            "side": side,
            "prompt_tokens": int(median(sample.prompt for sample in taken)),
            "cached_tokens": int(median(sample.cached for sample in taken)),
            "first_token_ms": 1e3 * median(sample.seconds for sample in taken),
            "fastest_ms": 1e3 * min(sample.seconds for sample in taken),
            "slowest_ms": 1e3 * max(sample.seconds for sample in taken),
        }
        for side, taken in samples.items()
    ]


def ratios(samples: Mapping[str, Sequence[Sample]]) -> dict[str, float]:
    cold, warm, other = (median(sample.seconds for sample in samples[side]) for side in SIDES)
    return {"ttft_cold_over_warm": cold / warm, "ttft_other_tenant_over_cold": other / cold}


def _create_key(database: str, tenant: str) -> str:
    arguments = ("keys", "create", "--database", database, "--tenant", tenant)
    made = subprocess.run(python_command("edgedraft.cli", *arguments), check=True, capture_output=True, text=True)
    return made.stdout.strip()


def _complete(client: OpenAI, model: str, messages: Messages, tokens: int) -> tuple[str, Sample]:
    """The answer and its sample."""
    began = time.perf_counter()
    stream = client.chat.completions.create(
        model=model,
        messages=messages,
        temperature=0,
        max_tokens=tokens,
        stream=True,
        stream_options={"include_usage": True},
    )
    text, seconds, prompt, cached = "", 0.0, 0, 0
    for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            seconds = seconds or time.perf_counter() - began
            text += chunk.choices[0].delta.content
        if chunk.usage:
            assert chunk.usage.prompt_tokens_details is not None
            prompt, cached = chunk.usage.prompt_tokens, chunk.usage.prompt_tokens_details.cached_tokens or 0
    assert text, "an answer without text has no time to first token"
    return text, Sample(seconds, prompt, cached)
