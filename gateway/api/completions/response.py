"""A legacy completion as a stream of chunks, or as one body.

Choices are numbered across all prompts: the first n belong to prompt 0, the next n to prompt 1.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from gateway.api.chat.response import usage
from gateway.api.completions.request import CompletionRequest
from gateway.api.logprobs import LegacyLogprobs, mean_logprob
from gateway.http.errors import ApiError
from gateway.http.event_stream import DONE, error_frames, frame
from gateway.output.events import ChoiceFinished, OutputEvent, TextDelta
from gateway.sessions.generation import Generation


class CompletionStream:
    """Encodes a generation as completion chunks (event_stream.StreamEncoder)."""

    def __init__(self, generation: Generation, request: CompletionRequest, echoes: Sequence[str]) -> None:
        """`echoes` has one text per prompt, which the choices of that prompt begin with."""
        self._generation = generation
        self._request = request
        self._echoes = echoes
        self._head = _head(generation, request)
        self._logprobs = [
            LegacyLogprobs(generation.model.token_bytes, request.logprobs or 0) for _ in generation.choices
        ]
        # As OpenAI specifies, every chunk has the field if the last one has the usage.
        self._no_usage = {"usage": None} if request.include_usage else {}
        self._started: set[int] = set()  # choices that have had a chunk

    def encode(self, events: Sequence[OutputEvent]) -> Iterator[bytes]:
        return map(self._frame, events)

    async def finish(self) -> bytes:
        if not self._request.include_usage:
            return DONE
        totals = {"usage": usage(self._generation), "metrics": self._generation.metrics()}
        return frame(self._head | {"choices": []} | totals) + DONE

    def fail(self, error: ApiError) -> bytes:
        return error_frames(error)

    def _frame(self, event: OutputEvent) -> bytes:
        echo = ""
        if event.choice not in self._started:
            self._started.add(event.choice)
            echo = self._echoes[event.choice // self._request.choices]
        if isinstance(event, ChoiceFinished):
            return self._chunk(event.choice, echo, event.reason, edgedraft=self._generation.edgedraft(event.choice))
        if isinstance(event, TextDelta):
            return self._chunk(event.choice, echo + event.text, None, event)
        return b""

    def _chunk(self, choice: int, text: str, reason: str | None, delta: TextDelta | None = None, **root: Any) -> bytes:
        logprobs = None
        if self._request.logprobs is not None and delta:
            logprobs = self._logprobs[choice].of(delta.tokens, delta.logprobs)
        entry = {"index": choice, "text": text, "logprobs": logprobs, "finish_reason": reason}
        return frame(self._head | {"choices": [entry]} | self._no_usage | root)


class CompletionBody:
    """Collects a generation into one completion (generation_context.BodyBuilder).

    Where a prompt has more candidates than choices (`best_of`), its best ones are the choices.
    """

    def __init__(self, generation: Generation, request: CompletionRequest, echoes: Sequence[str]) -> None:
        """`echoes` has one text per prompt, which the choices of that prompt begin with."""
        self._generation = generation
        self._request = request
        self._echoes = echoes
        self._deltas: list[list[TextDelta]] = [[] for _ in generation.choices]

    def add(self, events: Sequence[OutputEvent]) -> None:
        for event in events:
            if isinstance(event, TextDelta):
                self._deltas[event.choice].append(event)

    async def document(self) -> dict[str, Any]:
        generation, request = self._generation, self._request
        choices = []
        for prompt, echo in enumerate(self._echoes):
            first = prompt * request.candidates
            for candidate in self._best(range(first, first + request.candidates), request.choices):
                deltas = self._deltas[candidate]
                choices.append(
                    {
                        "index": len(choices),
                        "text": echo + "".join(delta.text for delta in deltas),
                        "logprobs": await self._logprobs(deltas),
                        "finish_reason": generation.choices[candidate].output.finish_reason,
                    }
                )
        return {
            **_head(generation, request),
            "choices": choices,
            "usage": usage(generation),
            "metrics": generation.metrics(),
            "edgedraft": generation.edgedraft(),
        }

    def _best(self, candidates: range, count: int) -> list[int]:
        """The `count` candidates with the highest mean log-probability per token, best first; all in their order."""
        if len(candidates) == count:
            return list(candidates)

        def mean(candidate: int) -> float:
            return mean_logprob(entry for delta in self._deltas[candidate] for entry in delta.logprobs)

        return sorted(candidates, key=mean, reverse=True)[:count]

    async def _logprobs(self, deltas: Sequence[TextDelta]) -> dict[str, Any] | None:
        """In steps between which others run."""
        if self._request.logprobs is None:
            return None
        logprobs = LegacyLogprobs(self._generation.model.token_bytes, self._request.logprobs)
        fields = logprobs.of((), ())
        for delta in deltas:
            for name, values in logprobs.of(delta.tokens, delta.logprobs).items():
                if values is not None:
                    fields[name] += values
            await asyncio.sleep(0)
        return fields


def _head(generation: Generation, request: CompletionRequest) -> dict[str, Any]:
    return {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": generation.model.name,
        **request.tier,
    }
