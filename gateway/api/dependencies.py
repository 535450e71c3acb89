"""FastAPI dependencies of the API's routes: the app's parts, and the principal behind a request's key.

app.py puts each part on `app.state` under the name that is read here.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from gateway.accounts import Accounts, Principal
from gateway.agents.registry import AgentRegistry
from gateway.api.generation_context import GenerationDependencies
from gateway.api.responses.store import ResponseStore
from gateway.http.authentication import authenticate
from gateway.http.bodies.json_body import JsonBodies
from gateway.http.errors import ApiError
from gateway.ledger import Prices
from gateway.model.served_model import ModelCatalog
from gateway.observability.metrics import Metrics
from gateway.storage.database import Database
from gateway.verifiers.pool import VerifierPool

# The functions are async because FastAPI runs others in a thread.


async def _accounts(request: Request) -> Accounts:
    return request.app.state.accounts


async def _agents(request: Request) -> AgentRegistry:
    return request.app.state.agents


async def _bodies(request: Request) -> JsonBodies:
    return request.app.state.bodies


async def _catalog(request: Request) -> ModelCatalog:
    return request.app.state.verifiers.catalog


async def _database(request: Request) -> Database:
    return request.app.state.database


async def _generation(request: Request) -> GenerationDependencies:
    return request.app.state.generation


async def _metrics(request: Request) -> Metrics:
    return request.app.state.metrics


async def _prices(request: Request) -> Prices:
    return request.app.state.ledger.prices


async def _responses(request: Request) -> ResponseStore | None:
    return request.app.state.responses


async def _verifiers(request: Request) -> VerifierPool:
    return request.app.state.verifiers


AccountsDep = Annotated[Accounts, Depends(_accounts)]
AgentsDep = Annotated[AgentRegistry, Depends(_agents)]
BodiesDep = Annotated[JsonBodies, Depends(_bodies)]
CatalogDep = Annotated[ModelCatalog, Depends(_catalog)]
DatabaseDep = Annotated[Database, Depends(_database)]
GenerationDep = Annotated[GenerationDependencies, Depends(_generation)]
MetricsDep = Annotated[Metrics, Depends(_metrics)]
PricesDep = Annotated[Prices, Depends(_prices)]
ResponsesDep = Annotated[ResponseStore | None, Depends(_responses)]  # None where responses are not stored
VerifiersDep = Annotated[VerifierPool, Depends(_verifiers)]


async def _metered(request: Request, accounts: Accounts, scope: str | None) -> Principal:
    principal = await authenticate(accounts, request.headers, scope)
    await request.app.state.admission.take_read(principal)
    return principal


async def _any_principal(request: Request, accounts: AccountsDep) -> Principal:
    return await _metered(request, accounts, scope=None)


async def _inference_principal(request: Request, accounts: AccountsDep) -> Principal:
    return await _metered(request, accounts, "inference")


async def _edge_principal(request: Request, accounts: AccountsDep) -> Principal:
    return await _metered(request, accounts, "edge")


async def _admin_principal(request: Request, accounts: AccountsDep) -> Principal:
    return await _metered(request, accounts, "admin")


# Each use counts as one read of the key (generations have limits of their own: generation_context.py). These raise
# ApiError: 401 or 403 for the key, 429 over its limit of reads, 503 when keys cannot be looked up.
AnyPrincipal = Annotated[Principal, Depends(_any_principal)]
InferencePrincipal = Annotated[Principal, Depends(_inference_principal)]
EdgePrincipal = Annotated[Principal, Depends(_edge_principal)]
AdminPrincipal = Annotated[Principal, Depends(_admin_principal)]


async def _operator_principal(principal: AdminPrincipal) -> Principal:
    if not principal.is_operator:
        raise ApiError(403, "Only an admin of the tenant 'default' may do this.", code="operator_only")
    return principal


OperatorPrincipal = Annotated[Principal, Depends(_operator_principal)]
