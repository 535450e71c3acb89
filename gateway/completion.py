"""The shapes of a chat completion: the body, and the chunks that a stream is made of.

Order and presence of fields are what strict clients want: one id and one `created` throughout, `finish_reason` on every
choice, `choices` empty only on the usage chunk, usage nowhere else.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing
from typing import Any

from gateway.choices import Delta, Event, Finished
from gateway.speculation_stats import SpeculationStats, edgedraft_field
from gateway.stream import DONE, frame


class Completion:
    """One response's constant fields and what has been learnt of its choices so far."""

    def __init__(self, model: str, choices: int, prompt_tokens: int) -> None:
        self.finished: dict[int, Finished] = {}
        self.first_text_at: float | None = None
        self.began_at = time.monotonic()
        self.prompt_tokens = prompt_tokens
        self._choices = choices
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    @property
    def output_tokens(self) -> int:
        return sum(choice.tokens for choice in self.finished.values())

    @property
    def stats(self) -> list[SpeculationStats]:
        return [choice.stats for choice in self.finished.values()]

    async def chunks(self, events: AsyncGenerator[Event], include_usage: bool) -> AsyncGenerator[bytes]:
        """The stream's frames. Closes `events`; raises what it raises."""
        speaking: set[int] = set()
        async with aclosing(events):
            async for event in self._observed(events):
                delta: dict[str, Any] = {}
                if event.choice not in speaking:
                    # The role comes with the first text; a choice without any still gets one.
                    speaking.add(event.choice)
                    delta = {"role": "assistant", "content": ""}
                    if isinstance(event, Finished):
                        yield self._chunk(event.choice, delta, None)
                if isinstance(event, Delta):
                    yield self._chunk(event.choice, delta | {"content": event.text}, None)
                else:
                    yield self._chunk(event.choice, {}, event.reason, edgedraft=edgedraft_field([event.stats]))
        if include_usage:
            yield frame(self._chunk_head() | {"choices": [], "usage": self._usage(), "metrics": self._metrics()})
        yield DONE

    async def body(self, events: AsyncGenerator[Event]) -> dict[str, Any]:
        """The whole response. Closes `events`; raises what it raises."""
        texts = [""] * self._choices
        async with aclosing(events):
            async for event in self._observed(events):
                if isinstance(event, Delta):
                    texts[event.choice] += event.text
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": None,
                "finish_reason": self.finished[index].reason,
            }
            for index, text in enumerate(texts)
        ]
        return {
            **self._head,
            "object": "chat.completion",
            "choices": choices,
            "usage": self._usage(),
            "metrics": self._metrics(),
            "edgedraft": edgedraft_field(self.stats),
        }

    async def _observed(self, events: AsyncIterable[Event]) -> AsyncGenerator[Event]:
        async for event in events:
            if isinstance(event, Finished):
                self.finished[event.choice] = event
            elif self.first_text_at is None:
                self.first_text_at = time.monotonic()
            yield event

    def _chunk_head(self) -> dict[str, Any]:
        return {**self._head, "object": "chat.completion.chunk"}

    def _chunk(self, choice: int, delta: dict[str, Any], reason: str | None, **root: Any) -> bytes:
        entry = {"index": choice, "delta": delta, "logprobs": None, "finish_reason": reason}
        return frame(self._chunk_head() | {"choices": [entry]} | root)

    def _usage(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.output_tokens,
            "total_tokens": self.prompt_tokens + self.output_tokens,
            "prompt_tokens_details": {"cached_tokens": max((stats.cached for stats in self.stats), default=0)},
            "completion_tokens_details": {"reasoning_tokens": 0},
        }

    def _metrics(self) -> dict[str, Any]:
        """As vLLM has it, for one choice only: several streams have no common acceptance."""
        alone = self.stats[0].speculative_decoding() if self._choices == 1 else None
        return {"speculative_decoding": alone}
