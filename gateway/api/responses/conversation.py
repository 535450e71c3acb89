"""A request's conversation: the items of earlier responses, then its own input, as items and as chat messages."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from gateway.accounts import Owner
from gateway.api.responses.items import Item, each_input_item, is_response_id, no_such_item, referenced
from gateway.api.responses.messages import chat_messages, turn_starts, without_beginning
from gateway.api.responses.request import ResponsesRequest
from gateway.api.responses.store import ChainTooLong, NotStored, ResponseStore
from gateway.http.errors import ApiError, database_down
from gateway.limits.request_bounds import MAX_CONVERSATION_ITEMS
from gateway.model.prompt_jobs import Message
from gateway.model.served_model import ServedModel
from gateway.prompt.preparation import PromptPreparation
from gateway.prompt.tools import ToolUse
from gateway.storage.database import DatabaseDown

ITEMS_PER_STEP = 256  # that are validated in one step of the event loop
RESERVED_OUTPUT = 1024  # output tokens that truncation reserves if the request sets no limit


@dataclass(frozen=True, slots=True)
class Conversation:
    """`own` are the request's items, `before` those of earlier responses; `length` counts responses, with this one."""

    before: list[Item]
    own: list[Item]
    length: int


async def read_conversation(
    store: ResponseStore | None, owner: Owner, request: ResponsesRequest, response_id: str
) -> Conversation:
    """Raises ApiError: 400 for invalid items and for missing items or responses, 503 when the database fails."""
    previous, references = request.previous_response_id, referenced(request.input)
    if store is None and (previous or references):
        param = "previous_response_id" if previous else "input"
        raise ApiError(
            400, "This gateway stores no responses; send the conversation's items.", param=param, code="not_stored"
        )
    before: list[Item] = []
    stored: dict[str, Item] = {}
    length = 1
    if store is not None:
        try:
            if previous:
                if not is_response_id(previous):
                    raise NotStored(previous)
                chain = await store.chain(owner, previous)
                before = [item for response in chain for item in response.items]
                if len(before) > MAX_CONVERSATION_ITEMS:
                    raise ChainTooLong(f"it has {len(before)} items, and {MAX_CONVERSATION_ITEMS} is the most")
                length += chain[-1].length
            if references:
                stored = await _resolved(store, owner, references)
        except NotStored as missing:
            raise ApiError(
                400,
                f"Previous response with id {str(missing)!r} not found.",
                param="previous_response_id",
                code="previous_response_not_found",
            ) from None
        except ChainTooLong as reason:
            message = f"The conversation cannot go on: {reason}. Send its items, or begin a new one."
            raise ApiError(400, message, param="previous_response_id", code="conversation_too_long") from None
        except DatabaseDown as error:
            raise database_down() from error
    own: list[Item] = []
    for item in each_input_item(request.input, response_id, stored):
        own.append(item)
        if len(own) % ITEMS_PER_STEP == 0:
            await asyncio.sleep(0)
    return Conversation(before, own, length)


async def _resolved(store: ResponseStore, owner: Owner, references: Mapping[str, str]) -> dict[str, Item]:
    responses = await store.several(owner, set(references.values()))
    items = {item["id"]: item for response in responses.values() for item in response.items}
    for identity in references:
        if identity not in items:
            raise no_such_item(identity, "input")
    return {identity: items[identity] for identity in references}


async def messages_of(
    prompts: PromptPreparation,
    model: ServedModel,
    request: ResponsesRequest,
    conversation: Conversation,
    tools: ToolUse | None,
) -> list[Message]:
    """Returns messages for the model's template, truncated if the request asks for it. Raises ApiError 400."""
    messages: list[Message] = [*chat_messages(request.instructions, [*conversation.before, *conversation.own])]
    if request.truncation != "auto":
        return messages
    limit = model.context_length - min(request.output_limit or RESERVED_OUTPUT, model.context_length // 2)
    options = request.chat_template_kwargs or {}

    async def fits(messages: Sequence[Message]) -> bool:
        return await prompts.fits(model, messages, options, tools, limit, "input")

    return await _longest_fitting(messages, fits)


async def _longest_fitting(
    messages: list[Message], fits: Callable[[Sequence[Message]], Awaitable[bool]]
) -> list[Message]:
    """Returns the longest suffix that fits and starts with a user message; the shortest of them if none does."""
    starts = turn_starts(messages)
    if not starts or await fits(messages):
        return messages
    first, last = 0, len(starts) - 1
    while first < last:
        middle = (first + last) // 2
        if await fits(without_beginning(messages, starts[middle])):
            last = middle
        else:
            first = middle + 1
    return without_beginning(messages, starts[first])
