"""One request's use of the prompt workers: whose jobs they are, and what a client is told when they cannot be done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

from edgedraft.workers.pool import JobOwner
from gateway.http.errors import SERVER, ApiError
from gateway.model.control_tokens import PromptTooLong
from gateway.model.prompt_jobs import Message
from gateway.model.prompt_workers import PromptRefused, PromptsUnavailable, PromptWorkers, RenderedPrompt
from gateway.model.served_model import ServedModel
from gateway.prompt.tools import ToolUse, tool_definition


class PromptPreparation:
    """`param` in its methods is the parameter that the texts came in, which errors name.

    They raise ApiError: 400 for texts that are too long or cannot be served, 503 without workers. They also raise
    JobRefused when too much of the key's waits already.
    """

    def __init__(self, workers: PromptWorkers, owner: JobOwner) -> None:
        self._workers = workers
        self._owner = owner

    async def render(
        self,
        model: ServedModel,
        messages: Sequence[Message],
        options: Mapping[str, Any],
        tools: ToolUse | None = None,
        param: str = "messages",
    ) -> RenderedPrompt:
        """The prompt of a chat. `options` are variables of the chat template."""
        check_characters(model, _characters(messages), param)
        try:
            return await self._workers.render(model, messages, options, _definitions(tools), self._owner)
        except (PromptTooLong, PromptRefused, PromptsUnavailable) as error:
            raise _to_api_error(error, model, param) from None

    async def fits(
        self,
        model: ServedModel,
        messages: Sequence[Message],
        options: Mapping[str, Any],
        tools: ToolUse | None,
        max_tokens: int,
        param: str,
    ) -> bool:
        """Whether the prompt of a chat has so many tokens at most."""
        if _characters(messages) > model.max_characters:
            return False
        try:
            await self._workers.render(model, messages, options, _definitions(tools), self._owner, max_tokens)
        except PromptTooLong:
            return False
        except (PromptRefused, PromptsUnavailable) as error:
            raise _to_api_error(error, model, param) from None
        return True

    async def encode(
        self,
        model: ServedModel,
        texts: Sequence[str],
        param: str,
        *,
        with_ends: bool = False,
        with_control: bool = False,
        max_tokens: int | None = None,
    ) -> list[list[int]]:
        """The tokens of texts; parameters as in PromptTokenizer.encode_plain, by default for the model's context."""
        if max_tokens is None:
            check_characters(model, max(map(len, texts), default=0), param)
        try:
            return await self._workers.encode(
                model,
                texts,
                self._owner,
                with_ends=with_ends,
                with_control=with_control,
                max_tokens=max_tokens,
            )
        except (PromptTooLong, PromptRefused, PromptsUnavailable) as error:
            raise _to_api_error(error, model, param) from None


def context_length_exceeded(model: ServedModel, size: str, param: str) -> ApiError:
    """The error for a prompt of this size, such as "9000 tokens", in OpenAI's words."""
    return ApiError(
        400,
        f"This model's maximum context length is {model.context_length} tokens. "
        f"However, your {param} resulted in {size}.",
        param=param,
        code="context_length_exceeded",
    )


def check_characters(model: ServedModel, characters: int, param: str) -> None:
    """Raises ApiError 400 for a text of more characters than the model's tokenizer may be given."""
    if characters <= model.max_characters:
        return
    if model.characters_per_token:
        tokens = ceil(characters / model.characters_per_token)
        raise context_length_exceeded(model, f"at least {tokens} tokens", param)
    # How many tokens they would be is not known.
    raise context_length_exceeded(model, f"{characters} characters, of which {model.max_characters} are read", param)


def _characters(messages: Sequence[Message]) -> int:
    """Of what every template shows: templates leave out earlier reasoning, and white space around a content."""
    return sum(len(message["content"].strip()) for message in messages)


def _definitions(tools: ToolUse | None) -> list[dict[str, Any]] | None:
    return [tool_definition(function) for function in tools.functions] if tools else None


def _to_api_error(
    error: PromptTooLong | PromptRefused | PromptsUnavailable, model: ServedModel, param: str
) -> ApiError:
    match error:
        case PromptTooLong():
            return context_length_exceeded(model, f"at least {error.num_tokens} tokens", param)
        case PromptRefused():
            return ApiError(400, str(error), param=param, code="invalid_messages")
    message = f"Prompts cannot be prepared now: {error}"
    return ApiError(503, message, kind=SERVER, code="unavailable", retry_after=1)
