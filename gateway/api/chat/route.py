"""POST /v1/chat/completions."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from gateway.api.chat.request import ChatRequest, parse_chat_request, predicted_text, template_messages
from gateway.api.chat.response import ChatBody, ChatStream
from gateway.api.dependencies import GenerationDep
from gateway.api.generation_context import admit_request
from gateway.api.openapi import described
from gateway.api.session_requests import build_session_requests
from gateway.http.errors import ApiError
from gateway.model.chat_template import ChatTemplateError, Message
from gateway.model.served_model import ServedModel
from gateway.prompt.chat import prepare_chat

router = APIRouter()

RESPONSE_FIELDS = ("id", "object", "created", "model", "choices", "usage")


@router.post("/v1/chat/completions", **described(ChatRequest, *RESPONSE_FIELDS, streams=True))
async def chat_completions(http: Request, dependencies: GenerationDep) -> Response:
    async with admit_request(http, dependencies) as context:
        request = parse_chat_request(await context.body())
        context.reserve(request.choices)
        model = await context.model(request.model)
        chat = await prepare_chat(
            model,
            dependencies.grammars,
            template_messages(request.messages),
            request.chat_template_kwargs or {},
            request.tool_use(),
            request.output_format(request.response_format),
        )
        sessions = build_session_requests(
            request,
            model,
            chat.prompt,
            context.principal,
            choices=request.choices,
            param="messages",
            grammar=chat.grammar,
            prediction=await prediction_tokens(model, request),
        )
        generation = context.generation(
            "chat", sessions, request.stops, len(chat.prompt), stream=bool(request.stream), syntax=chat.syntax
        )
        if request.stream:
            return context.stream(generation, ChatStream(generation, request))
        return await context.complete(generation, ChatBody(generation, request))


async def chat_prompt(model: ServedModel, messages: Sequence[Message], options: Mapping[str, Any]) -> list[int]:
    """The prompt's token ids. `options` are variables of the chat template. Raises ApiError 400."""
    try:
        # In a thread, because rendering a long prompt would hold up other streams.
        return await asyncio.to_thread(model.encode_chat, messages, options)
    except ChatTemplateError as refusal:
        raise ApiError(400, str(refusal), param="messages", code="invalid_messages") from None


async def prediction_tokens(model: ServedModel, request: ChatRequest) -> list[int]:
    """The token ids of the request's `prediction`, empty without one. Raises ApiError 400."""
    if request.prediction is None:
        return []
    text = predicted_text(request.prediction)
    encoding = await asyncio.to_thread(model.tokenizer.encode, text, add_special_tokens=False)
    return encoding.ids
