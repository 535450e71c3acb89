"""The shapes of a legacy completion: the body, and the chunks that a stream is made of.

Choices are numbered through all prompts: prompt 0 has the first n, prompt 1 the next.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from gateway.api.chat.response import usage
from gateway.api.completions.request import CompletionRequest
from gateway.api.logprobs import LegacyLogprobs, mean_logprob
from gateway.http.event_stream import DONE, frame
from gateway.output.events import Delta, Finished
from gateway.sessions.generation import Generation
from gateway.sessions.speculation_stats import edgedraft_field


async def chunks(generation: Generation, request: CompletionRequest, echoes: Sequence[str]) -> AsyncGenerator[bytes]:
    """The stream's frames. `echoes` has a text a prompt, which its choices begin with.

    Raises what the generation raises; closing it cancels that.
    """
    head = _head(generation, request)
    token_bytes = generation.jobs[0].model.token_bytes
    lists = [LegacyLogprobs(token_bytes, request.logprobs or 0) for _ in generation.jobs]

    def chunk(choice: int, text: str, reason: str | None, *said: Delta, **root: Any) -> bytes:
        logprobs = None
        if request.logprobs is not None and said:
            logprobs = lists[choice].of(said[0].tokens, said[0].logprobs)
        entry = {"index": choice, "text": text, "logprobs": logprobs, "finish_reason": reason}
        return frame(head | {"choices": [entry]} | root)

    speaking: set[int] = set()
    async with aclosing(generation.events()) as events:
        async for event in events:
            echo = ""
            if event.choice not in speaking:
                speaking.add(event.choice)
                echo = echoes[event.choice // request.choices]
            if isinstance(event, Delta):
                yield chunk(event.choice, echo + event.text, None, event)
            elif isinstance(event, Finished):
                yield chunk(event.choice, echo, event.reason, edgedraft=edgedraft_field([event.stats]))
    if request.include_usage:
        yield frame(head | {"choices": [], "usage": usage(generation), "metrics": generation.metrics()})
    yield DONE


async def body(generation: Generation, request: CompletionRequest, echoes: Sequence[str]) -> dict[str, Any]:
    """The whole response. Raises what the generation raises."""
    deltas: list[list[Delta]] = [[] for _ in generation.jobs]
    async with aclosing(generation.events()) as events:
        async for event in events:
            if isinstance(event, Delta):
                deltas[event.choice].append(event)
    choices = []
    for prompt, echo in enumerate(echoes):
        first = prompt * request.candidates
        for candidate in _best(deltas, range(first, first + request.candidates), request.choices):
            said = deltas[candidate]
            choices.append(
                {
                    "index": len(choices),
                    "text": echo + "".join(delta.text for delta in said),
                    "logprobs": _logprobs(generation, request, said),
                    "finish_reason": generation.finished[candidate].reason,
                }
            )
    return {
        **_head(generation, request),
        "choices": choices,
        "usage": usage(generation),
        "metrics": generation.metrics(),
        "edgedraft": generation.made(),
    }


def _best(deltas: Sequence[Sequence[Delta]], candidates: range, count: int) -> list[int]:
    """The `count` candidates with the highest mean log-probability per token, best first; as they come if all are."""
    if len(candidates) == count:
        return list(candidates)

    def mean(candidate: int) -> float:
        return mean_logprob(entry for delta in deltas[candidate] for entry in delta.logprobs)

    return sorted(candidates, key=mean, reverse=True)[:count]


def _logprobs(generation: Generation, request: CompletionRequest, said: Sequence[Delta]) -> dict[str, Any] | None:
    if request.logprobs is None:
        return None
    tokens = [token for delta in said for token in delta.tokens]
    entries = [entry for delta in said for entry in delta.logprobs]
    return LegacyLogprobs(generation.jobs[0].model.token_bytes, request.logprobs).of(tokens, entries)


def _head(generation: Generation, request: CompletionRequest) -> dict[str, Any]:
    return {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": generation.model,
        **request.tier,
    }
