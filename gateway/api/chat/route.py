"""POST /v1/chat/completions: from the request's bytes to sessions, and from their text to the response."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from gateway.api.caller import admitted
from gateway.api.chat.request import ChatRequest, parse_chat_request, predicted_text, template_messages
from gateway.api.chat.response import body, chunks
from gateway.api.jobs import jobs_for
from gateway.api.openapi import described
from gateway.http.errors import ApiError
from gateway.model.chat_template import ChatTemplateError, Message
from gateway.model.served_model import ServedModel
from gateway.prompt.chat import prepare_chat

router = APIRouter()

ANSWER = ("id", "object", "created", "model", "choices", "usage")


@router.post("/v1/chat/completions", **described(ChatRequest, *ANSWER, streams=True))
async def chat_completions(http: Request) -> Response:
    async with admitted(http) as caller:
        request = parse_chat_request(await caller.body())
        caller.admit(request.choices)
        model = await caller.model(request.model)
        plan = await prepare_chat(
            model,
            caller.services.grammars,
            template_messages(request.messages),
            request.chat_template_kwargs or {},
            request.tool_use(),
            request.output_format(request.response_format),
        )
        prediction = await predicted(model, request)
        jobs = jobs_for(
            request,
            model,
            plan.prompt,
            caller.principal,
            choices=request.choices,
            param="messages",
            grammar=plan.grammar,
            prediction=prediction,
        )
        generation = caller.generation("chat", jobs, request.stops, len(plan.prompt), plan.make_reader)
        if request.stream:
            return caller.stream(chunks(generation, request))
        return await caller.whole(body(generation, request))


async def chat_prompt(model: ServedModel, messages: Sequence[Message], options: Mapping[str, Any]) -> list[int]:
    """The prompt's tokens. `options` are variables for the template. Raises ApiError 400."""
    try:
        # A long prompt takes a while; streams of others go on meanwhile.
        return await asyncio.to_thread(model.encode_chat, messages, options)
    except ChatTemplateError as refusal:
        raise ApiError(400, str(refusal), param="messages", code="invalid_messages") from None


async def predicted(model: ServedModel, request: ChatRequest) -> list[int]:
    """The tokens that the client expects, none if it says nothing of it. Raises ApiError 400."""
    if request.prediction is None:
        return []
    text = predicted_text(request.prediction)
    encoding = await asyncio.to_thread(model.tokenizer.encode, text, add_special_tokens=False)
    return encoding.ids
