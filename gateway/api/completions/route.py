"""POST /v1/completions: continues prompts, without a chat template."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from gateway.api.chat.route import RESPONSE_FIELDS
from gateway.api.completions.request import CompletionRequest, check_tokens, parse_completion_request
from gateway.api.completions.response import CompletionBody, CompletionStream
from gateway.api.dependencies import GenerationDep
from gateway.api.generation_context import GenerationContext, admit_request
from gateway.api.openapi import described
from gateway.api.session_requests import build_session_requests
from gateway.model.served_model import ServedModel
from gateway.prompt.output_grammar import build_output_grammar

router = APIRouter()


@router.post("/v1/completions", **described(CompletionRequest, *RESPONSE_FIELDS, streams=True))
async def completions(http: Request, dependencies: GenerationDep) -> Response:
    async with admit_request(http, dependencies) as context:
        request = parse_completion_request(await context.document())
        context.reserve(len(request.prompts) * request.candidates)
        model = await context.model(request.model)
        prompts = await context.prepare(_prompt_tokens(context, model, request, dependencies.control_in_prompts))
        output_format = request.output_format()
        form = await context.prepare(output_format.servable(context.grammars)) if output_format else None
        grammar = build_output_grammar(form and form.fragment, None, None, {})
        sessions = [
            session
            for prompt in prompts
            for session in build_session_requests(
                request, model, prompt, context.principal, choices=request.candidates, param="prompt", grammar=grammar
            )
        ]
        left_out = form.left_out if form else ()
        generation = context.generation("completions", request, sessions, sum(map(len, prompts)), left_out=left_out)
        echoes = [await _echo(model, request, prompt) for prompt in request.prompts]
        if request.stream:
            return context.stream(generation, CompletionStream(generation, request, echoes))
        return await context.complete(generation, CompletionBody(generation, request, echoes))


async def _prompt_tokens(
    context: GenerationContext, model: ServedModel, request: CompletionRequest, with_control: bool
) -> list[list[int]]:
    """The tokens of each prompt; an empty one begins a new document. Raises ApiError 400."""
    texts = [prompt for prompt in request.prompts if isinstance(prompt, str)]
    encoded = iter(
        await context.prompts.encode(model, texts, "prompt", with_ends=True, with_control=with_control) if texts else ()
    )
    prompts = [next(encoded) if isinstance(prompt, str) else prompt for prompt in request.prompts]
    if model.document_start is not None:
        prompts = [prompt or [model.document_start] for prompt in prompts]
    for prompt in prompts:
        check_tokens(model, prompt)
    return prompts


async def _echo(model: ServedModel, request: CompletionRequest, prompt: str | list[int]) -> str:
    """The prompt's text if the request has `echo`, else ""."""
    if not request.echo:
        return ""
    return prompt if isinstance(prompt, str) else await model.decode(prompt)
