"""What a request's answer is to follow: the responses before it, then its own input, as items and as messages."""

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

ROOM = 1024  # output tokens that truncation leaves room for where the request names no limit


@dataclass(frozen=True, slots=True)
class Conversation:
    """`own` are the request's items, `before` those of the responses that it follows; `length` counts them and it."""

    before: list[Item]
    own: list[Item]
    length: int


async def read_conversation(
    store: ResponseStore | None, owner: Owner, request: ResponsesRequest, response_id: str
) -> Conversation:
    """Raises ApiError: 400 for bad items and for what is not there, 503 when the database does not answer."""
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
    """For the model's template, the beginning left out where the request asks for that. Raises ApiError 400."""
    messages: list[Message] = [*chat_messages(request.instructions, [*conversation.before, *conversation.own])]
    if request.truncation != "auto":
        return messages
    limit = model.context_length - min(request.output_limit or ROOM, model.context_length // 2)
    try:
        # A long conversation takes a while; streams of others go on meanwhile.
        return await asyncio.to_thread(_fitting, model, messages, request.chat_template_kwargs or {}, tools, limit)
    except ChatTemplateError as refusal:
        raise ApiError(400, str(refusal), param="input", code="invalid_messages") from None


def _fitting(
    model: ServedModel, messages: list[Message], options: Mapping[str, Any], tools: ToolUse | None, limit: int
) -> list[Message]:
    """The longest end of a conversation that has at most `limit` tokens, cut where a user speaks; else the shortest."""

    def fits(messages: Sequence[Message]) -> bool:
        shown, variable = template_inputs(model, messages, tools)
        return len(model.encode(model.render_chat(shown, options, variable))) <= limit

    starts = turn_starts(messages)
    if not starts or fits(messages):
        return messages
    # Each text is counted by itself first: rendering ends that are far too long, again and again, would take too long.
    counts = [len(model.encode(message["content"])) for message in messages]
    ahead = list(accumulate(reversed(counts)))[::-1]
    starts = [start for start in starts if ahead[start] <= limit] or starts[-1:]
    at = bisect_left(starts, True, key=lambda start: fits(without_beginning(messages, start)))
    return without_beginning(messages, starts[min(at, len(starts) - 1)])
