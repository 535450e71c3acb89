"""Renders and tokenizes prompts in worker processes, shared fairly between keys.

The gateway's own process runs no chat template and tokenizes no prompt: both can be made to take any time and memory.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgedraft.wire import ModelCard
from edgedraft.workers.limits import WorkerLimits
from edgedraft.workers.memory import trim_memory
from edgedraft.workers.pool import JobFailed, JobOwner, JobSetup, JobTooCostly, WorkerPool, WorkersUnavailable
from gateway.model.control_tokens import PromptTooLong
from gateway.model.prompt_jobs import (
    Encode,
    Encoded,
    Inspect,
    Inspected,
    Message,
    PromptJob,
    PromptResult,
    Refused,
    Render,
    TooLong,
    decode_result,
    encode_message,
    unpack_tokens,
)
from gateway.model.served_model import ServedModel, UnusableCard, prompt_setup

MAX_WORKERS = 4
LIMITS = WorkerLimits(cpu_seconds=10.0, wall_seconds=60.0, memory_bytes=2 << 30, output_bytes=1 << 26)
_CARDS = JobOwner("model cards")


class PromptRefused(Exception):
    """The template does not take these messages, or they take too much to prepare; the text is for the client."""


class PromptsUnavailable(Exception):
    """No worker can be started now."""


@dataclass(frozen=True, slots=True)
class RenderedPrompt:
    """`tokens` are its ids, `ending` is the last part of its text."""

    tokens: list[int]
    ending: str


class PromptWorkers:
    """Use `close` at the end."""

    def __init__(self, limits: WorkerLimits = LIMITS) -> None:
        size = min(MAX_WORKERS, max(2, os.cpu_count() or 1))
        self._pool = WorkerPool("gateway.model.prompt_worker", limits, size)

    async def load_model(self, card: ModelCard) -> ServedModel:
        """The card's model, when a worker has loaded its tokenizer and its template. Raises UnusableCard."""
        try:
            inspected = decode_result(await self._pool.run(encode_message(Inspect()), _CARDS, prompt_setup(card)))
        except (JobFailed, JobTooCostly, WorkersUnavailable) as error:
            raise UnusableCard(str(error)) from error
        assert isinstance(inspected, Inspected)
        model = await asyncio.to_thread(ServedModel.from_card, card, inspected.supports_tools)
        await asyncio.to_thread(trim_memory)
        return model

    async def render(
        self,
        model: ServedModel,
        messages: Sequence[Message],
        options: Mapping[str, Any],
        tools: Sequence[Mapping[str, Any]] | None,
        owner: JobOwner,
        max_tokens: int | None = None,
    ) -> RenderedPrompt:
        """The prompt of a chat, up to where the assistant's message begins. `tools` have the form of OpenAI's API, and
        the arguments of earlier calls any.

        Raises PromptTooLong above `max_tokens`, by default the model's context, PromptRefused, PromptsUnavailable, and
        JobRefused.
        """
        job = Render(
            [dict(message) for message in messages],
            dict(options),
            None if tools is None else [dict(tool) for tool in tools],
            model.tool_call_format is None,
            model.context_length if max_tokens is None else max_tokens,
        )
        encoded = await self._run(model.setup, job, owner)
        return RenderedPrompt(unpack_tokens(encoded.tokens[0]), encoded.ending)

    async def encode(
        self,
        model: ServedModel,
        texts: Sequence[str],
        owner: JobOwner,
        *,
        with_ends: bool = False,
        with_control: bool = False,
        max_tokens: int | None = None,
    ) -> list[list[int]]:
        """The tokens of texts, each by itself; parameters as in PromptTokenizer.encode_plain. Raises as `render`."""
        limit = model.context_length if max_tokens is None else max_tokens
        encoded = await self._run(model.setup, Encode(list(texts), limit, with_ends, with_control), owner)
        return [unpack_tokens(tokens) for tokens in encoded.tokens]

    def close(self) -> None:
        self._pool.close()

    async def _run(self, setup: JobSetup, job: PromptJob, owner: JobOwner) -> Encoded:
        try:
            content = encode_message(job)
        except OverflowError:
            raise PromptRefused("a whole number has more than 64 bits") from None
        try:
            result: PromptResult = decode_result(await self._pool.run(content, owner, setup))
        except JobTooCostly:
            raise PromptRefused("the prompt needs too much time or memory to prepare") from None
        except JobFailed as error:
            raise PromptRefused(str(error)) from None
        except WorkersUnavailable as error:
            raise PromptsUnavailable(str(error)) from None
        match result:
            case TooLong():
                raise PromptTooLong(result.num_tokens)
            case Refused():
                raise PromptRefused(result.reason)
        assert isinstance(result, Encoded)
        return result
