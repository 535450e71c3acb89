"""POST /v1/chat/completions: from the request's bytes to sessions, and from their text to the response."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from gateway.caller import admitted
from gateway.chat_answer import body, chunks
from gateway.chat_request import parse_chat_request, template_messages
from gateway.chat_template import Message, TemplateRefusal
from gateway.errors import ApiError
from gateway.jobs import jobs_for
from gateway.served_model import ServedModel

router = APIRouter()


@router.post("/v1/chat/completions")
async def chat_completions(http: Request) -> Response:
    async with admitted(http) as caller:
        request = parse_chat_request(await caller.body())
        caller.admit(request.choices)
        model = await caller.model(request.model)
        prompt = await chat_prompt(model, template_messages(request), request.chat_template_kwargs or {})
        jobs = jobs_for(request, model, prompt, caller.principal, choices=request.choices, param="messages")
        generation = caller.generation("chat", jobs, request.stops, len(prompt))
        if request.stream:
            return caller.stream(chunks(generation, request.include_usage))
        return await caller.whole(body(generation))


async def chat_prompt(model: ServedModel, messages: Sequence[Message], options: Mapping[str, Any]) -> list[int]:
    """The prompt's tokens. `options` are variables for the template. Raises ApiError 400."""
    try:
        # A long prompt takes a while; streams of others go on meanwhile.
        return await asyncio.to_thread(model.prompt, messages, options)
    except TemplateRefusal as refusal:
        raise ApiError(400, str(refusal), param="messages", code="invalid_messages") from None
