"""POST /v1/chat/completions: from the request's bytes to sessions, and from their text to the response."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import ExitStack, suppress

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from gateway.accounts import Principal
from gateway.authentication import authenticate
from gateway.chat_request import ChatRequest, parse_chat_request, template_messages
from gateway.chat_template import TemplateRefusal
from gateway.choices import Event, follow, jobs_for, merged
from gateway.completion import Completion
from gateway.errors import SERVER, ApiError, shutting_down
from gateway.race import ClientGone, while_connected
from gateway.request_body import read_body
from gateway.served_model import ServedModel
from gateway.services import Services, services_of
from gateway.session import Crowded, Job, Refused, Session, Unavailable
from gateway.speculation_stats import edgedraft_field
from gateway.stream import DONE, EventStream, error_frame

log = logging.getLogger(__name__)

router = APIRouter()


@router.post("/v1/chat/completions")
async def chat_completions(http: Request) -> Response:
    services = services_of(http)
    principal = await authenticate(services.accounts, http.headers, "inference")
    with ExitStack() as admitted:
        # One place before the body is read, for bodies and their tokenizing are bounded too; the rest once n is known.
        admitted.enter_context(services.admission.hold(principal.key_id, 1))
        request = parse_chat_request(await read_body(http))
        admitted.enter_context(services.admission.hold(principal.key_id, (request.n or 1) - 1))
        if not len(services.verifiers.catalog):
            await _first_verifier(http, services)
        model = find_model(services, request.model)
        prompt = await _prompt(model, request)
        jobs = jobs_for(request, model, prompt, principal)
        completion = Completion(model.name, len(jobs), len(prompt))
        events = _run(http, services, principal, jobs, request.stops, completion)
        if request.stream:
            frames = _frames(completion.chunks(events, request.include_usage))
            return EventStream(frames, ended=admitted.pop_all().close)
        return await _whole(http, completion, events)


async def _whole(http: Request, completion: Completion, events: AsyncGenerator[Event]) -> Response:
    try:
        body = await while_connected(http.receive, completion.body(events))
    except ClientGone:
        return Response(status_code=499)
    except asyncio.CancelledError:
        raise shutting_down() from None
    except (Refused, Unavailable) as error:
        raise _before_the_first_token(error) from error
    return JSONResponse(body, headers={"x-edgedraft-mode": body["edgedraft"]["mode"]})


def find_model(services: Services, name: str) -> ServedModel:
    """Raises ApiError: 404 for a model that is not served, 503 while no verifier has been heard of at all."""
    model = services.verifiers.catalog.get(name)
    if model:
        return model
    if not len(services.verifiers.catalog):
        raise ApiError(503, "No verifier is connected yet.", kind=SERVER, code="no_verifier", retry_after=1)
    raise ApiError(404, f"The model {name!r} does not exist.", param="model", code="model_not_found")


async def _first_verifier(http: Request, services: Services) -> None:
    """Hold a request that came before the first verifier, for as long as a running one would be held."""
    with suppress(ClientGone):
        await while_connected(http.receive, services.verifiers.first_model(services.settings.open_timeout))


async def _prompt(model: ServedModel, request: ChatRequest) -> list[int]:
    messages = template_messages(request)
    try:
        # A long prompt takes a while; streams of others go on meanwhile.
        return await asyncio.to_thread(model.prompt, messages, request.chat_template_kwargs or {})
    except TemplateRefusal as refusal:
        raise ApiError(400, str(refusal), param="messages", code="invalid_messages") from None


async def _run(
    http: Request,
    services: Services,
    principal: Principal,
    jobs: list[Job],
    stops: tuple[str, ...],
    completion: Completion,
) -> AsyncGenerator[Event]:
    """All choices' events; afterwards, however it ends, the books."""
    settings = services.settings
    outcome = "cancelled"
    sessions = [
        Session(
            job, services.verifiers, services.agents, services.metrics, settings.open_timeout, settings.silence_timeout
        )
        for job in jobs
    ]
    events = merged([follow(session, k, jobs[k].model, stops) for k, session in enumerate(sessions)])
    try:
        async for event in events:
            yield event
        outcome = "finished"
    except Exception:
        outcome = "failed"
        raise
    finally:
        await events.aclose()
        _account(http, services, principal, jobs[0].model.name, completion, sessions, outcome)


def _account(
    http: Request,
    services: Services,
    principal: Principal,
    model: str,
    completion: Completion,
    sessions: list[Session],
    outcome: str,
) -> None:
    made = edgedraft_field([session.stats for session in sessions])
    metrics = services.metrics
    metrics.requests.labels(model, outcome, made["mode"]).inc()
    metrics.prompt_tokens.labels(model).inc(completion.prompt_tokens)
    metrics.output_tokens.labels(model).inc(completion.output_tokens)
    first_text = None
    if completion.first_text_at is not None:
        first_text = completion.first_text_at - completion.began_at
        metrics.first_token.observe(first_text)
    log.info(
        "chat %s request=%s key=%s model=%s choices=%d prompt_tokens=%d output_tokens=%d first_text=%s mode=%s",
        outcome,
        http.scope["state"]["request_id"],
        principal.key_id,
        model,
        len(sessions),
        completion.prompt_tokens,
        completion.output_tokens,
        "none" if first_text is None else f"{first_text:.3f}s",
        made["mode"],
    )


async def _frames(chunks: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """The chunks; what goes wrong after the first of them becomes an error frame."""
    started = False
    try:
        async for chunk in chunks:
            started = True
            yield chunk
        return
    except (Refused, Unavailable) as error:
        if not started:
            raise _before_the_first_token(error) from error
        failure = error_frame(f"The generation could not be finished: {error}", "verifier_unavailable")
    except Exception:
        if not started:
            raise
        log.exception("a stream failed")
        failure = error_frame("The gateway failed on this request.", "internal_error")
    finally:
        await chunks.aclose()
    yield failure
    yield DONE


def _before_the_first_token(error: Refused | Unavailable) -> ApiError:
    if isinstance(error, Refused):
        return ApiError(400, f"The model refused this request: {error}", code="refused")
    code = "overloaded" if isinstance(error, Crowded) else "unavailable"
    message = f"No verifier took this request: {error}"
    return ApiError(503, message, kind=SERVER, code=code, retry_after=error.retry_after)
