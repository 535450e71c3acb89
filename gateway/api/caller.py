"""Who asks for a generation and how the answer reaches them, the same for every endpoint that generates.

Before: key, room for the generations, the body, the model. After: the status goes out with the first frame of a stream
and what goes wrong later is an error frame, then [DONE]; a body that is awaited whole is given up when the client
disconnects.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from typing import Any

from fastapi import Request
from starlette.responses import JSONResponse, Response

from gateway.accounts import Principal
from gateway.http.authentication import authenticate
from gateway.http.body import read_body
from gateway.http.disconnect import ClientGone, while_connected
from gateway.http.errors import RATE_LIMIT, SERVER, ApiError, shutting_down
from gateway.http.event_stream import EventStream, failed_end
from gateway.limits.admission import RateReservation
from gateway.model.served_model import ServedModel
from gateway.observability.traces import trace_headers
from gateway.output.events import MakeReader, PlainText
from gateway.services import Services, services_of
from gateway.sessions.choices import SIDE_BY_SIDE
from gateway.sessions.generation import Generation, Operation
from gateway.sessions.session import Overloaded, RequestRejected, SessionRequest, Unavailable

log = logging.getLogger(__name__)


class GenerationContext:
    """One authenticated request that has a place to generate; `admitted` makes it."""

    def __init__(
        self, http: Request, services: Services, principal: Principal, ticket: RateReservation, places: ExitStack
    ) -> None:
        self.http = http
        self.services = services
        self.principal = principal
        self._ticket = ticket
        self._generation: Generation | None = None
        self._places = places
        self._generation: Generation | None = None

    async def body(self) -> bytes:
        """Raises ApiError 413 when it is too large."""
        return await read_body(self.http)

    def admit(self, generations: int) -> None:
        """Have room for so many generations in all, as far as they run at once. Raises ApiError 429."""
        more = min(generations, SIDE_BY_SIDE) - 1
        self._places.enter_context(self.services.admission.reserve_concurrency(self.principal, more))

    async def model(self, name: str) -> ServedModel:
        """Raises ApiError: 404 for a model that is not served, 503 when no verifier came in time."""
        if not len(self.services.verifiers.catalog):
            # As long as a request would be held that runs already.
            patience = self.services.settings.open_timeout
            with suppress(ClientGone):
                await while_connected(self.http.receive, self.services.verifiers.wait_for_model(patience))
        return find_model(self.services, name)

    def generation(
        self,
        operation: Operation,
        jobs: Sequence[SessionRequest],
        stops: Sequence[str],
        prompt_tokens: int,
        make_reader: MakeReader = PlainText,
    ) -> Generation:
        state, headers = self.http.scope["state"], self.http.headers
        self._generation = generation = Generation(
            self.services,
            self.principal,
            self._ticket,
            state["request_id"],
            operation,
            jobs,
            stops,
            prompt_tokens,
            make_reader,
            trace_headers(headers.get("traceparent", ""), headers.get("tracestate", "")),
            state["began_at"],
        )
        state["facts"] = generation.facts
        return generation

    def stream(self, frames: AsyncGenerator[bytes], failure: Callable[[str, str], bytes] = failed_end) -> Response:
        """Answer with these frames. `failure` ends a stream that has begun: message and code to bytes."""
        if self._generation:
            self._generation.streamed = True
        return EventStream(_with_failures(frames, failure), self._places.pop_all().close, failure)

    async def whole(self, body: Coroutine[Any, Any, dict[str, Any]]) -> Response:
        """Answer with one JSON body, its work cancelled when the client disconnects.

        The header x-edgedraft-mode repeats the body's field `edgedraft`. Raises ApiError.
        """
        try:
            document = await while_connected(self.http.receive, body)
        except ClientGone:
            return Response(status_code=499)
        except asyncio.CancelledError:
            raise shutting_down() from None
        except (RequestRejected, Unavailable) as error:
            raise _before_the_first_token(error) from error
        return JSONResponse(document, headers={"x-edgedraft-mode": document["edgedraft"]["mode"]})


@asynccontextmanager
async def admitted(http: Request) -> AsyncIterator[GenerationContext]:
    """The caller behind a request, holding one place: the body and its tokenizing are bounded too.

    Its places are given back when the context ends, or with the stream that it answers with. Raises ApiError: 401 or
    403 for the key, 429 when it has or runs as much as it may, 503 without a database.
    """
    services = services_of(http)
    principal = await authenticate(services.accounts, http.headers, "inference")
    with ExitStack() as places:
        places.enter_context(services.admission.reserve_concurrency(principal, 1))
        ticket = await services.admission.admit(principal, http.scope["state"].setdefault("headers", {}))
        yield GenerationContext(http, services, principal, ticket, places)


def find_model(services: Services, name: str) -> ServedModel:
    """Raises ApiError: 404 for a model that is not served, 503 while no verifier has been heard of at all."""
    model = services.verifiers.catalog.get(name)
    if model:
        return model
    if not len(services.verifiers.catalog):
        raise ApiError(503, "No verifier is connected yet.", kind=SERVER, code="no_verifier", retry_after=1)
    raise ApiError(404, f"The model {name[:200]!r} does not exist.", param="model", code="model_not_found")


async def _with_failures(frames: AsyncGenerator[bytes], failure: Callable[[str, str], bytes]) -> AsyncGenerator[bytes]:
    """The frames; what goes wrong after the first of them becomes the last."""
    started = False
    try:
        async for frame in frames:
            started = True
            yield frame
        return
    except (RequestRejected, Unavailable) as error:
        if not started:
            raise _before_the_first_token(error) from error
        last = failure(f"The generation could not be finished: {error}", "verifier_unavailable")
    except Exception:
        if not started:
            raise
        log.exception("a stream failed")
        last = failure("The gateway failed on this request.", "internal_error")
    finally:
        await frames.aclose()
    yield last


def _before_the_first_token(error: RequestRejected | Unavailable) -> ApiError:
    if isinstance(error, RequestRejected):
        return ApiError(400, f"The model refused this request: {error}", code="refused")
    message = f"No verifier took this request: {error}"
    if isinstance(error, Overloaded):
        return ApiError(429, message, kind=RATE_LIMIT, code="overloaded", retry_after=error.retry_after)
    return ApiError(503, message, kind=SERVER, code="unavailable", retry_after=error.retry_after)
