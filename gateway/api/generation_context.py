"""A request that may generate, the same for every generating endpoint: key, limits, body, model, generation, response.

A stream's status is sent with the first frame, or after a few seconds without one; later errors are an error frame,
then [DONE]. The work for a complete body is cancelled when the client disconnects.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from fastapi import Request
from starlette.responses import Response

from edgedraft.grammar.service import GrammarChecker, GrammarService
from edgedraft.workers.pool import JobOwner, JobRefused, WorkersUnavailable
from gateway.accounts import Accounts, Principal
from gateway.api.parameters import Parameters
from gateway.http.authentication import authenticate
from gateway.http.bodies.json_body import JsonBodies
from gateway.http.disconnect import ClientGone, while_connected
from gateway.http.errors import (
    RATE_LIMIT,
    SERVER,
    ApiError,
    database_down,
    internal_error,
    overloaded,
    shutting_down,
    unavailable,
)
from gateway.http.event_stream import EventStream, KeepAlive, StreamEncoder
from gateway.http.json_response import json_response
from gateway.ledger import Ledger
from gateway.limits.admission import Admission, RateReservation
from gateway.model.prompt_workers import PromptWorkers
from gateway.model.served_model import ModelCatalog, ServedModel
from gateway.observability.metrics import Metrics
from gateway.observability.traces import GatewayTraces, trace_headers
from gateway.output.events import OutputEvent
from gateway.output.parser import OutputSyntax
from gateway.prompt.chat import PreparedChat
from gateway.prompt.preparation import PromptPreparation
from gateway.records.generation import GenerationRecord, Operation
from gateway.sessions.choices import SIDE_BY_SIDE
from gateway.sessions.errors import GrammarFailed, Overloaded, RequestRejected, SessionError, Unavailable
from gateway.sessions.generation import Generation, GenerationRequest, Recorder
from gateway.sessions.request import SessionRequest
from gateway.sessions.session import SessionFactory
from gateway.storage.database import DatabaseDown
from gateway.verifiers.pool import VerifierPool

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class GenerationDependencies:
    """What a generating endpoint needs. `open_timeout` is in seconds, the longest wait for a first verifier.

    With `control_in_prompts`, control tokens are found in prompts that are no chats.
    """

    accounts: Accounts
    admission: Admission
    verifiers: VerifierPool
    bodies: JsonBodies
    grammars: GrammarService
    prompts: PromptWorkers
    sessions: SessionFactory
    ledger: Ledger
    metrics: Metrics
    traces: GatewayTraces | None
    open_timeout: float
    control_in_prompts: bool
    keep_alive: KeepAlive


class BodyBuilder(Protocol):
    """Collects a generation's events into one response body."""

    def add(self, events: Sequence[OutputEvent], /) -> None: ...

    async def document(self) -> dict[str, Any]:
        """The body, when all events are added. It has the root field `edgedraft`."""
        ...


class GenerationContext:
    """One authenticated request that holds a place of its key's concurrency limit; `admit_request` makes it."""

    def __init__(
        self,
        http: Request,
        dependencies: GenerationDependencies,
        principal: Principal,
        rates: RateReservation,
        reservations: ExitStack,
    ) -> None:
        """`reservations` holds the places; closing it gives them back."""
        self.principal = principal
        self._owner = owner = JobOwner(principal.key_id, 1.0 + (principal.limits.priority or 0), rates.charge_work)
        self.grammars = GrammarChecker(dependencies.grammars, owner)
        self.prompts = PromptPreparation(dependencies.prompts, owner)
        self._http = http
        self._dependencies = dependencies
        self._rates = rates
        self._reservations = reservations

    async def document(self) -> dict[str, Any]:
        """The body, a JSON object. Raises ApiError and JobRefused as JsonBodies.read does."""
        return await self._dependencies.bodies.read(self._http, self._owner)

    def reserve(self, generations: int) -> None:
        """Reserves places for so many generations in all, as far as they run at once. Raises ApiError 429."""
        more = min(generations, SIDE_BY_SIDE) - 1
        self._reservations.enter_context(self._dependencies.admission.reserve_concurrency(self.principal, more))

    async def model(self, name: str) -> ServedModel:
        """Raises ApiError: 404 for a model that is not served, 503 when no verifier connected in time."""
        verifiers = self._dependencies.verifiers
        if not len(verifiers.catalog):
            with suppress(ClientGone):
                await while_connected(self._http.receive, verifiers.wait_for_model(self._dependencies.open_timeout))
        return find_model(verifiers.catalog, name)

    async def prepare(self, work: Coroutine[Any, Any, T]) -> T:
        """Returns the result of `work`, which is cancelled when the client disconnects. Raises ApiError 499 then.

        The body must have been read before.
        """
        try:
            return await while_connected(self._http.receive, work)
        except ClientGone:
            raise ApiError(499, "The client closed the connection.") from None

    def generation(
        self,
        operation: Operation,
        parameters: Parameters,
        sessions: Sequence[SessionRequest],
        prompt_tokens: int,
        *,
        syntax: OutputSyntax | None = None,
        left_out: Sequence[str] = (),
    ) -> Generation:
        """The request's generation, recorded by ledger, metrics, traces and log. The others as in GenerationRequest."""
        stream = bool(parameters.stream)
        state, headers = self._http.scope["state"], self._http.headers
        dependencies, principal, began_at = self._dependencies, self.principal, state["began_at"]
        model = sessions[0].model.name
        trace = trace_headers(headers.get("traceparent", ""), headers.get("tracestate", ""))
        recorders: list[Recorder] = [dependencies.metrics.generation_ended, _log_recorder(state)]
        parent = trace[0]
        if dependencies.traces:
            asked = (sessions[0].sampling, sessions[0].max_tokens, prompt_tokens)
            span = dependencies.traces.start_generation(operation, model, trace, began_at, len(sessions), asked)
            recorders.append(span.end)
            parent = span.traceparent
        entry = dependencies.ledger.new_entry(
            principal, state["request_id"], model, operation, stream, prompt_tokens, len(sessions), began_at
        )
        request = GenerationRequest(
            operation=operation,
            principal=principal,
            sessions=tuple(replace(session, trace=parent, request=entry.id) for session in sessions),
            stops=parameters.stops,
            prompt_tokens=prompt_tokens,
            began_at=began_at,
            stream=stream,
            syntax=syntax,
            left_out=tuple(left_out),
        )
        return Generation(request, dependencies.sessions, entry, self._rates, recorders)

    def chat_generation(
        self, operation: Operation, parameters: Parameters, sessions: Sequence[SessionRequest], chat: PreparedChat
    ) -> Generation:
        """The generation of an answer to `chat`, which `sessions` have as their prompt."""
        return self.generation(
            operation, parameters, sessions, len(chat.prompt), syntax=chat.syntax, left_out=chat.left_out
        )

    def stream(self, generation: Generation, encoder: StreamEncoder[list[OutputEvent]]) -> Response:
        """A response that runs the generation and holds the places until the stream ends."""
        return EventStream(
            generation.run(), encoder, to_api_error, self._reservations.pop_all().close, self._dependencies.keep_alive
        )

    async def complete(self, generation: Generation, builder: BodyBuilder) -> Response:
        """Runs the generation. Returns one JSON body; the header x-edgedraft-mode repeats its field `edgedraft.mode`.

        Raises ApiError.
        """

        async def collect() -> dict[str, Any]:
            async with generation.run() as batches:
                async for events in batches:
                    builder.add(events)
            return await builder.document()

        try:
            document = await while_connected(self._http.receive, collect())
        except ClientGone:
            return Response(status_code=499)
        except asyncio.CancelledError:
            raise shutting_down() from None
        except Exception as error:
            raise to_api_error(error, started=False) from error
        return await json_response(document, {"x-edgedraft-mode": document["edgedraft"]["mode"]})


@asynccontextmanager
async def admit_request(http: Request, dependencies: GenerationDependencies) -> AsyncIterator[GenerationContext]:
    """Authenticates the request and reserves one place before its body is read, so that reading is bounded too.

    The places are given back when the context ends, or with the stream that the request is answered with. Raises
    ApiError: 401 or 403 for the key, 429 when the key is at a limit, 503 without a database.
    """
    principal = await authenticate(dependencies.accounts, http.headers, "inference")
    with ExitStack() as reservations:
        reservations.enter_context(dependencies.admission.reserve_concurrency(principal, 1))
        rates = await dependencies.admission.admit(principal, http.scope["state"].setdefault("headers", {}))
        reservations.callback(rates.close)
        yield GenerationContext(http, dependencies, principal, rates, reservations)


def find_model(catalog: ModelCatalog, name: str) -> ServedModel:
    """Raises ApiError: 404 for a model that is not served, 503 while no verifier has connected yet."""
    model = catalog.get(name)
    if model:
        return model
    if not len(catalog):
        raise ApiError(503, "No verifier is connected yet.", kind=SERVER, code="no_verifier", retry_after=1)
    raise ApiError(404, f"The model {name[:200]!r} does not exist.", param="model", code="model_not_found")


def to_api_error(error: Exception, started: bool) -> ApiError:
    """What a client receives when a generation fails, before or after the first frame of its stream.

    Raises `error` itself where nothing was sent and the error is not one that a generation is expected to raise.
    """
    match error:
        case ApiError():
            return error
        case DatabaseDown():
            return database_down()
        case GrammarFailed():
            return ApiError(400, f"The generation ended early: {error}", code="grammar_failed")
        case JobRefused():
            return overloaded(error)
        case WorkersUnavailable():
            return unavailable(error)
        case SessionError() if started:
            message = f"The generation could not be finished: {error}"
            return ApiError(503, message, kind=SERVER, code="verifier_unavailable")
        case RequestRejected():
            return ApiError(400, f"The model refused this request: {error}", code="refused")
        case Overloaded():
            message = f"No verifier took this request: {error}"
            return ApiError(429, message, kind=RATE_LIMIT, code="overloaded", retry_after=error.retry_after)
        case Unavailable():
            message = f"No verifier took this request: {error}"
            return ApiError(503, message, kind=SERVER, code="unavailable", retry_after=error.retry_after)
    if not started:
        raise error
    log.exception("a stream failed")
    return internal_error()


def _log_recorder(state: dict[str, Any]) -> Recorder:
    fields: dict[str, Any] = {}
    state["log_fields"] = fields

    def record_end(record: GenerationRecord) -> None:
        fields.update(record.log_fields())

    return record_end
