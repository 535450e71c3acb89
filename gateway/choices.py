"""A request's choices: one session each, run side by side, their text merged as it comes."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from edgedraft.wire import FinishReason, Sampling
from gateway.accounts import Principal
from gateway.chat_request import ChatRequest
from gateway.errors import ApiError
from gateway.served_model import ServedModel
from gateway.session import Job, Session
from gateway.speculation_stats import SpeculationStats
from gateway.text import TextStream

DEFAULT_MAX_TOKENS = 32768  # output tokens where the request names no limit and the context would hold more
_SEEDS = 2**63


@dataclass(frozen=True, slots=True)
class Delta:
    """More text of one choice; never empty."""

    choice: int
    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """A choice's end. `tokens` are those that count: none behind a stop string."""

    choice: int
    reason: FinishReason
    tokens: int
    stats: SpeculationStats


Event = Delta | Finished


def jobs_for(request: ChatRequest, model: ServedModel, prompt: list[int], principal: Principal) -> list[Job]:
    """One job a choice. Raises ApiError 400 when the prompt leaves no room in the context."""
    room = model.context_length - len(prompt)
    if room < 1:
        raise ApiError(
            400,
            f"This model's maximum context length is {model.context_length} tokens. "
            f"However, your messages resulted in {len(prompt)} tokens.",
            param="messages",
            code="context_length_exceeded",
        )
    asked = request.max_completion_tokens or request.max_tokens or DEFAULT_MAX_TOKENS
    seed = secrets.randbelow(_SEEDS) if request.seed is None else request.seed % _SEEDS
    return [
        Job(
            model=model,
            prompt=prompt,
            sampling=_sampling(request, choice_seed(seed, choice)),
            max_tokens=min(asked, room),
            eos=() if request.ignore_eos else model.eos,
            owner=principal.agents_owner,
            tenant=principal.tenant,
            edge=request.edgedraft is None or request.edgedraft.edge,
        )
        for choice in range(request.n or 1)
    ]


def choice_seed(seed: int, choice: int) -> int:
    """Choice 0 takes the seed itself; the others one that follows from it and their number."""
    if choice == 0:
        return seed
    digest = hashlib.sha256(f"{seed}/{choice}".encode()).digest()
    return int.from_bytes(digest[:8]) % _SEEDS


def _sampling(request: ChatRequest, seed: int) -> Sampling:
    return Sampling(
        temperature=1.0 if request.temperature is None else request.temperature,
        top_k=max(0, request.top_k or 0),
        # 0 leaves the most probable token alone, as does any probability below its own.
        top_p=1.0 if request.top_p is None else max(request.top_p, 1e-9),
        min_p=request.min_p or 0.0,
        seed=seed,
    )


async def follow(session: Session, choice: int, model: ServedModel, stops: Sequence[str]) -> AsyncGenerator[Event]:
    """One choice's events. Raises what Session.run raises."""
    text = TextStream(model.tokenizer, stops)
    count, reason = 0, None
    async with aclosing(session.run()) as emissions:
        async for emission in emissions:
            piece = text.push(emission.tokens)
            count += piece.tokens
            reason = "stop" if piece.stopped else emission.finish
            ready = piece.text + (text.flush() if reason and not piece.stopped else "")
            if ready:
                yield Delta(choice, ready)
            if reason:
                break
    assert reason is not None
    yield Finished(choice, reason, count, session.stats)


async def merged(sources: Sequence[AsyncGenerator[Event]]) -> AsyncGenerator[Event]:
    """The events of all, as they come. The first exception ends all; closing this closes them."""
    queue: asyncio.Queue[Event | Exception | None] = asyncio.Queue()

    async def pump(source: AsyncGenerator[Event]) -> None:
        try:
            async with aclosing(source) as events:
                async for event in events:
                    queue.put_nowait(event)
            queue.put_nowait(None)
        except Exception as error:
            queue.put_nowait(error)

    tasks = [asyncio.create_task(pump(source)) for source in sources]
    try:
        running = len(tasks)
        while running:
            event = await queue.get()
            if event is None:
                running -= 1
            elif isinstance(event, Exception):
                raise event
            else:
                yield event
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
