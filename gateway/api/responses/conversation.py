"""A request's conversation: the items of earlier responses, then its own input, as items and as chat messages."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from gateway.accounts import Owner
from gateway.api.responses.items import Item, input_items, is_response_id, no_such_item, referenced
from gateway.api.responses.messages import chat_messages, turn_starts, without_beginning
from gateway.api.responses.request import ResponsesRequest
from gateway.api.responses.store import ChainTooLong, NotStored, ResponseStore
from gateway.http.errors import ApiError, database_down
from gateway.model.chat_template import ChatTemplateError, Message
from gateway.model.served_model import ServedModel
from gateway.prompt.chat import template_inputs
from gateway.prompt.tools import ToolUse
from gateway.storage.database import DatabaseDown

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
    return Conversation(before, input_items(request.input, response_id, stored), length)


async def _resolved(store: ResponseStore, owner: Owner, references: Mapping[str, str]) -> dict[str, Item]:
    responses = await store.several(owner, set(references.values()))
    items = {item["id"]: item for response in responses.values() for item in response.items}
    for identity in references:
        if identity not in items:
            raise no_such_item(identity, "input")
    return {identity: items[identity] for identity in references}


async def messages_of(
    model: ServedModel, request: ResponsesRequest, conversation: Conversation, tools: ToolUse | None
) -> list[Message]:
    """Returns messages for the model's template, truncated if the request asks for it. Raises ApiError 400."""
    messages: list[Message] = [*chat_messages(request.instructions, [*conversation.before, *conversation.own])]
    if request.truncation != "auto":
        return messages
    limit = model.context_length - min(request.output_limit or RESERVED_OUTPUT, model.context_length // 2)
    try:
        # Rendering a long conversation would block the event loop.
        return await asyncio.to_thread(_fitting, model, messages, request.chat_template_kwargs or {}, tools, limit)
    except ChatTemplateError as refusal:
        raise ApiError(400, str(refusal), param="input", code="invalid_messages") from None


def _fitting(
    model: ServedModel, messages: list[Message], options: Mapping[str, Any], tools: ToolUse | None, limit: int
) -> list[Message]:
    """Returns the longest suffix of at most `limit` tokens that starts with a user message; else the shortest."""

    def fits(messages: Sequence[Message]) -> bool:
        shown, variable = template_inputs(model, messages, tools)
        return len(model.encode(model.render_chat(shown, options, variable))) <= limit

    starts = turn_starts(messages)
    if not starts or fits(messages):
        return messages
    # Each text is counted by itself first, because rendering suffixes that are far too long would be slow.
    counts = [len(model.encode(message["content"])) for message in messages]
    ahead = list(accumulate(reversed(counts)))[::-1]
    starts = [start for start in starts if ahead[start] <= limit] or starts[-1:]
    at = bisect_left(starts, True, key=lambda start: fits(without_beginning(messages, start)))
    return without_beginning(messages, starts[min(at, len(starts) - 1)])
