"""POST /tokenize and /detokenize, in vLLM's shapes: prompts to token ids, and token ids to text."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from pydantic import ConfigDict
from starlette.responses import JSONResponse, Response

from gateway.api.chat.request import Messages, template_messages
from gateway.api.completions.request import Tokens, check_tokens
from gateway.api.dependencies import CatalogDep, GenerationDep
from gateway.api.generation_context import GenerationContext, admit_request
from gateway.api.openapi import described
from gateway.http.bodies.validation import Schema, validated
from gateway.http.errors import ApiError
from gateway.http.json_response import json_response
from gateway.model.served_model import ModelCatalog, ServedModel
from gateway.model.token_bytes import escape_bytes
from gateway.prompt.preparation import context_length_exceeded

router = APIRouter()


class TokenizeRequest(Schema):
    """A prompt, or the messages of a chat. `model` may be left out when one model is served."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["prompt"]}, {"required": ["messages"]}]})

    model: str | None = None
    prompt: str | None = None
    messages: Messages | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class DetokenizeRequest(Schema):
    """Token ids of a model. `model` may be left out when one model is served."""

    model: str | None = None
    tokens: Tokens


@router.post("/tokenize", **described(TokenizeRequest, "count", "max_model_len", "tokens"))
async def tokenize(http: Request, dependencies: GenerationDep, catalog: CatalogDep) -> Response:
    async with admit_request(http, dependencies) as context:
        request = validated(TokenizeRequest, await context.document())
        if (request.prompt is None) == (request.messages is None):
            raise ApiError(400, "Either prompt or messages must be given.", param="prompt", code="invalid_value")
        model = await _model(context, catalog, request.model)
        if request.messages is not None:
            options = request.chat_template_kwargs or {}
            tokens = (await context.prompts.render(model, template_messages(request.messages), options)).tokens
        else:
            special = request.add_special_tokens is not False
            (tokens,) = await context.prompts.encode(
                model, [request.prompt or ""], "prompt", with_ends=special, with_control=dependencies.control_in_prompts
            )
        strings = await asyncio.to_thread(_strings, model, tokens) if request.return_token_strs else None
        return await json_response(
            {
                "count": len(tokens),
                "max_model_len": model.context_length,
                "tokens": tokens,
                "token_strs": strings,
            }
        )


@router.post("/detokenize", **described(DetokenizeRequest, "prompt"))
async def detokenize(http: Request, dependencies: GenerationDep, catalog: CatalogDep) -> Response:
    async with admit_request(http, dependencies) as context:
        request = validated(DetokenizeRequest, await context.document())
        model = await _model(context, catalog, request.model)
        if request.tokens:
            check_tokens(model, request.tokens, "tokens")
        if len(request.tokens) > model.context_length:
            raise context_length_exceeded(model, f"{len(request.tokens)} tokens", "tokens")
        text = await model.decode(request.tokens)
        return JSONResponse({"prompt": text})


def _strings(model: ServedModel, tokens: Sequence[int]) -> list[str]:
    return [escape_bytes(model.token_bytes(token)) for token in tokens]


async def _model(context: GenerationContext, catalog: ModelCatalog, name: str | None) -> ServedModel:
    """Returns the named model, or the only one. Raises ApiError."""
    if name is not None:
        return await context.model(name)
    models = list(catalog)
    if len(models) != 1:
        raise ApiError(400, "Say which model; there is not exactly one.", param="model", code="invalid_value")
    return models[0]
