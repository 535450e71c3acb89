"""A request's choices: one session each, run side by side, their text merged as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from edgedraft.proposers.prediction import count_accepted
from edgedraft.wire import FinishReason, TokenLogprobs
from gateway.output.detokenizer import TextStream
from gateway.output.events import Delta, Event, Finished, Reader
from gateway.sessions.session import Session, SessionRequest

SIDE_BY_SIDE = 32  # choices of one request that run at once; a long list of prompts would fill a verifier


async def follow(
    session: Session, choice: int, job: SessionRequest, stops: Sequence[str], reader: Reader
) -> AsyncGenerator[Event]:
    """One choice's events. Raises what Session.run raises."""
    silent = job.model.special_tokens - reader.wanted if reader.wanted else None
    text = TextStream(job.model.tokenizer, stops, silent)
    output: list[int] = []  # the tokens that count
    logprobs: list[TokenLogprobs] = []
    told = 0  # so many of both are in parts already
    reason: FinishReason | None = None
    async with aclosing(session.run()) as emissions:
        async for emission in emissions:
            piece = text.push(emission.tokens)
            output += emission.tokens[: piece.tokens]
            logprobs += emission.logprobs[: piece.tokens]
            ready, until = piece.text, told + piece.settled
            reason = "stop" if piece.stopped else emission.finish
            if reason and not piece.stopped:
                ready += text.flush()
                until = len(output) - (output[-1:] != [] and output[-1] in job.eos)
            if ready or (reason and logprobs and told < until):
                delta = Delta(choice, ready, tuple(output[told:until]), tuple(logprobs[told:until]))
                told = until
                for part in reader.read(delta):
                    yield part
            if reason:
                break
    assert reason is not None
    predicted = await asyncio.to_thread(count_accepted, job.prediction, output) if job.prediction else (0, 0)
    for event in reader.end(Finished(choice, reason, len(output), session.stats, predicted)):
        yield event


async def merged(sources: Sequence[AsyncGenerator[Event]]) -> AsyncGenerator[Event]:
    """The events of all, as they come, SIDE_BY_SIDE at once. The first exception ends all; closing this closes them."""
    if len(sources) == 1:  # neither task nor queue between a token and its client
        async with aclosing(sources[0]) as events:
            async for event in events:
                yield event
        return
    places = asyncio.Semaphore(SIDE_BY_SIDE)
    queue: asyncio.Queue[Event | Exception | None] = asyncio.Queue()

    async def pump(source: AsyncGenerator[Event]) -> None:
        try:
            async with places, aclosing(source) as events:
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
