"""A request's choices: one session each, run side by side, their text merged as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from gateway.events import Delta, Event, Finished, Reader
from gateway.served_model import ServedModel
from gateway.session import Session
from gateway.text import TextStream


async def follow(
    session: Session, choice: int, model: ServedModel, stops: Sequence[str], reader: Reader
) -> AsyncGenerator[Event]:
    """One choice's events. Raises what Session.run raises."""
    text = TextStream(model.tokenizer, stops)
    count, reason = 0, None
    waiting: list[int] = []  # tokens whose text is not out yet
    async with aclosing(session.run()) as emissions:
        async for emission in emissions:
            piece = text.push(emission.tokens)
            count += piece.tokens
            waiting += emission.tokens
            reason = "stop" if piece.stopped else emission.finish
            ready, settled = piece.text, piece.settled
            if reason and not piece.stopped:
                ready, settled = ready + text.flush(), len(waiting)
            if ready:
                for part in reader.read(Delta(choice, ready, tuple(waiting[:settled]))):
                    yield part
                del waiting[:settled]
            if reason:
                break
    assert reason is not None
    for event in reader.end(Finished(choice, reason, count, session.stats)):
        yield event


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
