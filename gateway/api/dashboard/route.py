"""GET /dashboard: a static page for operators and agent owners, and the JSON that it polls.

The page needs no key, the data does. What a key sees is decided by gateway/accounts/visibility.py. No response contains
a prompt, a text or a key.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from gateway.accounts import visible_to
from gateway.agents.link import AgentLink
from gateway.api.dependencies import AgentsDep, AnyPrincipal, DatabaseDep, MetricsDep, PricesDep, VerifiersDep
from gateway.http.errors import database_down
from gateway.http.page_files import PageFiles
from gateway.ledger.report import usage_totals
from gateway.storage.database import DatabaseDown

router = APIRouter()

PAGE = PageFiles(
    "gateway.api.dashboard",
    {
        "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    },
)
MONEY_DAYS = 30
MAX_LISTED_AGENTS = 200  # further ones are only counted


@router.get("/dashboard", include_in_schema=False)
async def page(request: Request) -> Response:
    return PAGE.response(request, "page.html")


@router.get("/dashboard/data")
async def data(principal: AnyPrincipal, registry: AgentsDep, metrics: MetricsDep, verifiers: VerifiersDep) -> Response:
    """Statistics of the last five minutes for all that the key may see. Raises ApiError 401 or 429."""
    visible = visible_to(principal)
    agents = [agent for agent in registry.attached() if visible.includes(agent.owner)]
    several = visible.owner is None
    body: dict[str, Any] = {
        "now": round(time.time(), 3),
        "sees": visible.owner or visible.tenant or "everybody",
        "live": metrics.live.snapshot(visible.subject),
        "agents": [_agent(agent, several) for agent in agents[:MAX_LISTED_AGENTS]],
        "agents_attached": len(agents),
        "models": [model.name for model in verifiers.catalog],
    }
    if visible.everything:
        body["verifiers"] = [
            {"model": link.model.name, "running": link.running, "max_sessions": link.max_sessions}
            for link in verifiers.links
        ]
    return JSONResponse(body, headers={"cache-control": "no-store"})


@router.get("/dashboard/money")
async def money(principal: AnyPrincipal, database: DatabaseDep, prices: PricesDep) -> Response:
    """Ledger totals of the last MONEY_DAYS for all that the key may see. Raises ApiError 401, 429 or 503."""
    visible = visible_to(principal)
    since = datetime.now(UTC).date() - timedelta(days=MONEY_DAYS - 1)
    try:
        totals = await usage_totals(database, since=since, tenant=visible.tenant, owner=visible.owner)
    except DatabaseDown as error:
        raise database_down() from error
    body: dict[str, Any] = {"days": MONEY_DAYS, "currency": prices.currency}
    body |= totals[0].to_dict() if totals else {"requests": 0}
    return JSONResponse(body, headers={"cache-control": "no-store"})


@router.get("/dashboard/{name:path}", include_in_schema=False)
async def page_file(request: Request, name: str) -> Response:
    return PAGE.response(request, name)


def _agent(agent: AgentLink, with_owner: bool) -> dict[str, Any]:
    stats = agent.stats
    body = {
        "id": agent.agent,
        "name": agent.name,
        "drafter": agent.drafter,
        "device": agent.device,
        "sessions": agent.running,
        "max_sessions": agent.max_sessions,
        "since": round(stats.since, 3),
        "served": stats.sessions,
        "drafted": stats.drafted,
        "checked": stats.checked,
        "accepted": stats.accepted,
        "committed": stats.committed,
        "answer": None if stats.answer is None else round(stats.answer, 4),
    }
    if with_owner:
        tenant, owner = agent.owner
        body |= {"owner": owner, "tenant": tenant}
    return body
