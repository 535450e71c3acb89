"""What the clients of the chaos test ask, and how: the openai client, many streams at once, over both gateways.

A client that a gateway turns away, or that finds nobody there, asks the other one. Once it has its 200 it asks nobody
again: what it then got is what is judged.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx
from openai import APIConnectionError, APIError, APIStatusError, AsyncOpenAI

from loadtest.workloads import mixed
from tests.support.topology import MODEL

TRIES = 200
PAUSE = 0.25  # seconds between two tries
TURNED_AWAY = frozenset({429, 503})


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
    """What of it must be the same whatever happens."""

    text: str
    finish: str | None
    output_tokens: int
    tokens: tuple[str, ...]


@dataclass
class Told:
    """What became of one case. `name` is the x-request-id of the try that was let in, `turned` those of the others."""

    case: Case
    name: str = ""
    mode: str = ""
    answer: Answer | None = None
    broken: str = ""
    turned: list[str] = field(default_factory=list)


def cases(rng: random.Random, count: int) -> list[Case]:
    """Short prompts; half greedy and half not, half streamed and half not."""
    short = [prompt.text for prompt in mixed() if len(prompt.text) < 90]
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
    client: AsyncOpenAI, case: Case, name: str, edge: bool, let_in: Callable[[], None] = lambda: None
) -> tuple[Answer, str]:
    """The answer and how it was made; `let_in` is called with the 200. Raises APIError."""
    told: dict[str, Any] = {
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
        whole = await client.chat.completions.create(**told)
        let_in()
        choice, made = whole.choices[0], (whole.model_extra or {})["edgedraft"]
        assert whole.usage
        tokens = tuple(entry.token for entry in (choice.logprobs and choice.logprobs.content) or ())
        text, finish = choice.message.content or "", choice.finish_reason
        return Answer(text, finish, whole.usage.completion_tokens, tokens), made["mode"]
    text, finish, made, tokens, output_tokens = "", None, {}, [], -1
    stream = await client.chat.completions.create(**told, stream=True, stream_options={"include_usage": True})
    let_in()
    async for chunk in stream:
        if chunk.choices:
            (choice,) = chunk.choices
            text += choice.delta.content or ""
            assert finish is None or not choice.delta.content, "text after the end"
            finish = choice.finish_reason or finish
            made = (chunk.model_extra or {}).get("edgedraft") or made
            tokens += [entry.token for entry in (choice.logprobs and choice.logprobs.content) or ()]
        if chunk.usage:
            output_tokens = chunk.usage.completion_tokens
    return Answer(text, finish, output_tokens, tuple(tokens)), made.get("mode", "")


async def survive(clients: Sequence[AsyncOpenAI], case: Case, name: str, first: int) -> Told:
    """Ask until somebody lets it in; then the answer, or how it broke."""
    told = Told(case)
    for number in range(TRIES):
        this = f"{name}-{number}"
        entered: list[bool] = []
        try:
            told.answer, told.mode = await ask(
                clients[(first + number) % len(clients)], case, this, True, partial(entered.append, True)
            )
        except (APIError, httpx.HTTPError, AssertionError) as error:
            away = isinstance(error, APIConnectionError) or (
                isinstance(error, APIStatusError) and error.status_code in TURNED_AWAY
            )
            if entered or not away:
                told.name, told.broken = this, f"{type(error).__name__}: {error}"
                return told
            told.turned.append(this)
            await asyncio.sleep(PAUSE)
        else:
            told.name = this
            return told
    told.broken = "nobody let it in"
    return told
