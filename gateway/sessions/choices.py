"""A generation's choices, one session each. Several run side by side; their events are merged as they arrive."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from gateway.output.choice_output import ChoiceOutput
from gateway.output.events import ChoiceFinished, OutputEvent, in_steps
from gateway.records.speculation_stats import SpeculationStats
from gateway.sessions.request import SessionRequest
from gateway.sessions.session import Session

SIDE_BY_SIDE = 32  # choices of one request that run at once; a long list of prompts would fill a verifier
MAX_UNREAD = 64  # lists of events of one request that its client has not read yet


class Choice:
    """One choice: its request, its session and its output so far."""

    def __init__(self, request: SessionRequest, session: Session, output: ChoiceOutput) -> None:
        self.request = request
        self.output = output
        self.prediction_tokens = 0, 0  # of the request's `prediction`: accepted, rejected
        self.first_text_at: float | None = None  # by time.monotonic(); reasoning and tool calls are text too
        self._session = session

    @property
    def stats(self) -> SpeculationStats:
        return self._session.stats

    @property
    def output_tokens(self) -> int:
        """Output tokens: up to the stop string once the choice has finished, until then all committed ones."""
        return len(self.output.tokens) if self.output.finish_reason else self.stats.tokens

    async def events(self) -> AsyncGenerator[list[OutputEvent]]:
        """Yields the events of each commit, none empty; those of one with many log-probabilities in several steps.

        Raises RequestRejected or Unavailable.

        Closing it cancels the session.
        """
        async with aclosing(self._session.run()) as commits:
            async for commit in commits:
                events = self.output.feed(commit.tokens, commit.logprobs, commit.finish)
                if self.output.finish_reason and (prediction := self.request.prediction):
                    # Counted in a thread: a long prediction would block the event loop.
                    self.prediction_tokens = await asyncio.to_thread(_count_accepted, prediction, self.output.tokens)
                if events:
                    if self.first_text_at is None and not isinstance(events[0], ChoiceFinished):
                        self.first_text_at = time.monotonic()
                    steps = in_steps(events) if self.request.logprobs >= 0 else (events,)
                    for number, part in enumerate(steps):
                        if number:
                            await asyncio.sleep(0)
                        yield part
                if self.output.finish_reason:
                    return


async def merge_events(choices: Sequence[Choice]) -> AsyncGenerator[list[OutputEvent]]:
    """Yields the events of several choices as they arrive; at most SIDE_BY_SIDE choices run at once.

    Choices whose events are not read wait, so that a slow client does not have them pile up.
    The first exception ends all of them. Closing the generator cancels all of them.
    """
    slots = asyncio.Semaphore(SIDE_BY_SIDE)
    queue: asyncio.Queue[list[OutputEvent] | Exception | None] = asyncio.Queue(MAX_UNREAD)

    async def pump(choice: Choice) -> None:
        try:
            async with slots, aclosing(choice.events()) as batches:
                async for events in batches:
                    await queue.put(events)
            await queue.put(None)
        except Exception as error:
            await queue.put(error)

    tasks = [asyncio.create_task(pump(choice)) for choice in choices]
    try:
        running = len(tasks)
        while running:
            events = await queue.get()
            if events is None:
                running -= 1
            elif isinstance(events, Exception):
                raise events
            else:
                yield events
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _count_accepted(prediction: Sequence[int], output: Sequence[int]) -> tuple[int, int]:
    from edgedraft.proposers.prediction import count_accepted  # when it is needed: it imports numpy, 25 MB

    return count_accepted(prediction, output)
