"""The clients of the chaos test: requests through the openai package, many at once, to both gateways.

A client whose request is rejected (429, 503) or cannot connect tries the other gateway. After a 200 it does not retry:
that response is checked.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx
from openai import APIConnectionError, APIError, APIStatusError, APITimeoutError, AsyncOpenAI

from loadtest.workloads import mixed_prompts
from tests.support.topology import MODEL

TRIES = 200
PAUSE = 0.25  # seconds between two tries
RETRIABLE = frozenset({429, 503})


@dataclass(frozen=True)
class Case:
    """One request. With `logprobs` its tokens are compared one by one, else its text, its length and its end."""

    prompt: str
    temperature: float
    seed: int
    tokens: int
    stream: bool
    logprobs: bool


@dataclass(frozen=True)
class Answer:
    """The part of a response that must be the same whatever fails."""

    text: str
    finish: str | None
    output_tokens: int
    tokens: tuple[str, ...]


@dataclass
class Outcome:
    """The outcome of one case. `name` is the x-request-id of the admitted try, `rejected` has the others, and why."""

    case: Case
    name: str = ""
    mode: str = ""
    answer: Answer | None = None
    broken: str = ""
    rejected: dict[str, str] = field(default_factory=dict)
    gaps: list[float] = field(default_factory=list)  # seconds between two frames with text, of a stream


def cases(rng: random.Random, count: int) -> list[Case]:
    """Short prompts; half greedy and half not, half streamed and half not."""
    short = [prompt.text for prompt in mixed_prompts() if len(prompt.text) < 90]
    return [
        Case(
            prompt=f"{rng.choice(short)} (Question {index}.)",
            temperature=(0.0, 0.7)[index % 2],
            seed=rng.randrange(1 << 30),
            tokens=rng.randint(12, 24),
            stream=index // 2 % 2 == 0,
            logprobs=index // 4 % 4 == 0,
        )
        for index in range(count)
    ]


async def ask(
    client: AsyncOpenAI,
    case: Case,
    name: str,
    edge: bool,
    on_admitted: Callable[[], None] = lambda: None,
    gaps: list[float] | None = None,
) -> tuple[Answer, str]:
    """The answer and how it was made; `on_admitted` is called with the 200, `gaps` are added to. Raises APIError."""
    request: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": case.prompt}],
        "temperature": case.temperature,
        "seed": case.seed,
        "max_tokens": case.tokens,
        "logprobs": case.logprobs,
        "extra_headers": {"x-request-id": name},
        "extra_body": {"edgedraft": {"edge": edge}},
    }
    if not case.stream:
        completion = await client.chat.completions.create(**request)
        on_admitted()
        choice, made = completion.choices[0], (completion.model_extra or {})["edgedraft"]
        assert completion.usage
        tokens = tuple(entry.token for entry in (choice.logprobs and choice.logprobs.content) or ())
        text, finish = choice.message.content or "", choice.finish_reason
        return Answer(text, finish, completion.usage.completion_tokens, tokens), made["mode"]
    text, finish, made, tokens, output_tokens = "", None, {}, [], -1
    stream = await client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True})
    on_admitted()
    before: float | None = None
    async for chunk in stream:
        if chunk.choices:
            (choice,) = chunk.choices
            text += choice.delta.content or ""
            if choice.delta.content:
                now = time.monotonic()
                if gaps is not None and before is not None:
                    gaps.append(now - before)
                before = now
            assert finish is None or not choice.delta.content, "text after the end"
            finish = choice.finish_reason or finish
            made = (chunk.model_extra or {}).get("edgedraft") or made
            tokens += [entry.token for entry in (choice.logprobs and choice.logprobs.content) or ()]
        if chunk.usage:
            output_tokens = chunk.usage.completion_tokens
    return Answer(text, finish, output_tokens, tuple(tokens)), made.get("mode", "")


async def ask_until_admitted(clients: Sequence[AsyncOpenAI], case: Case, name: str, first: int) -> Outcome:
    """Send the request until a gateway admits it; returns the answer, or how it broke."""
    outcome = Outcome(case)
    for number in range(TRIES):
        this = f"{name}-{number}"
        admitted: list[bool] = []
        try:
            outcome.answer, outcome.mode = await ask(
                clients[(first + number) % len(clients)],
                case,
                this,
                True,
                partial(admitted.append, True),
                outcome.gaps,
            )
        except (APIError, httpx.HTTPError, AssertionError) as error:
            retriable = (isinstance(error, APIConnectionError) and not isinstance(error, APITimeoutError)) or (
                isinstance(error, APIStatusError) and error.status_code in RETRIABLE
            )
            if admitted or not retriable:
                outcome.name, outcome.broken = this, f"{type(error).__name__}: {error}"
                return outcome
            outcome.rejected[this] = f"{error!r}, {error.__cause__!r}"
            await asyncio.sleep(PAUSE)
        else:
            outcome.name = this
            return outcome
    outcome.broken = "no gateway admitted it"
    return outcome
