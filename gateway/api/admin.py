"""/admin/v1: tenants, keys, usage and agents, for keys with the admin scope.

It is served only with --admin-api, otherwise the paths do not exist: the key of --key is given to clients and has every
scope; if it leaks, it must not be able to create keys.

An admin of the tenant `default`, such as --key, is the operator and may see and change everything. An admin of another
tenant sees its tenant's keys, usage and agents and may revoke its keys. It cannot create keys or change limits, because
budgets are limits of keys.
"""

from __future__ import annotations

import io
import re
import time
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from edgedraft.wire import MAX_PRIORITY
from edgedraft.workers.pool import JobOwner
from gateway.accounts import (
    SCOPES,
    Accounts,
    KeyLimits,
    KeyRecord,
    NotVisible,
    Principal,
    TenantExists,
    Tenants,
    UnknownTenant,
    Visibility,
    visible_to,
)
from gateway.api.dependencies import (
    AccountsDep,
    AdminPrincipal,
    AgentsDep,
    BodiesDep,
    DatabaseDep,
    OperatorPrincipal,
    PricesDep,
)
from gateway.api.openapi import described
from gateway.http.bodies.validation import Schema, validated
from gateway.http.errors import ApiError
from gateway.ledger.csv_report import write_csv
from gateway.ledger.money import to_nano, to_text
from gateway.ledger.report import Dimension, usage_totals

router = APIRouter(prefix="/admin/v1")

MAX_PAGE_SIZE = 100
MAX_DAYS = 400  # of one usage report, so that no request makes the database add up years
_DIMENSIONS = ("key", "owner", "tenant", "model", "day", "edge")

Name = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")]
Scope = Literal["inference", "edge", "admin"]
Note = Annotated[str, Field(max_length=255, pattern=r"^[^\x00-\x1f\x7f]*$")]
Count = Annotated[int, Field(ge=1, le=10**12)]
Money = Annotated[str, Field(pattern=r"^[0-9]{1,9}(\.[0-9]{1,9})?$")] | Annotated[int, Field(ge=0, le=10**9)]
Timestamp = Annotated[int, Field(ge=0, le=2**40)]
PageSize = Annotated[int, Query(ge=1, le=MAX_PAGE_SIZE)]
TenantQuery = Annotated[str | None, Query(max_length=255, pattern=r"^[^\x00]*$")]
After = Annotated[str, Query(max_length=255, pattern=r"^[^\x00]*$")]


class NewTenant(Schema):
    """A tenant to be created. `title` is a display name."""

    name: Name
    title: Note = ""


class KeyChange(Schema):
    """Changes of a key. null removes a limit of its own; fields that are not given keep their values."""

    name: Note | None = None
    expires_at: Timestamp | None = None
    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    concurrent: Count | None = None
    monthly_spend: Money | None = None
    priority: Annotated[int, Field(ge=0, le=MAX_PRIORITY)] | None = None

    @property
    def changes(self) -> dict[str, int | str | None]:
        """The given fields, with the names and units of gateway.accounts."""
        values: dict[str, int | str | None] = {}
        for field in self.model_fields_set & set(KeyChange.model_fields):
            value = getattr(self, field)
            if field == "monthly_spend" and value is not None:
                value = to_nano(Decimal(value))
            values["expires" if field == "expires_at" else field] = "" if field == "name" and value is None else value
        return values


class NewKey(KeyChange):
    """A key to be created. `expires_at` is in seconds since the epoch."""

    owner: Name
    tenant: Name = "default"
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1, max_length=3, strict=False)]


def _visible(principal: Principal, tenant: str | None) -> Visibility:
    """What the principal may see of a tenant; None is all of them. Raises ApiError 403."""
    try:
        return visible_to(principal).of_tenant(tenant)
    except NotVisible:
        message = "This key sees its own tenant only."
        raise ApiError(403, message, param="tenant", code="operator_only") from None


@router.get("/tenants", **described(None, "object", "data", "has_more"))
async def tenants(
    principal: OperatorPrincipal, database: DatabaseDep, limit: PageSize = 20, after: After = ""
) -> Response:
    found = await Tenants(database).list(after, limit + 1)
    return _page([{"object": "tenant", "id": one.name} | asdict(one) for one in found], limit)


@router.post("/tenants", **described(NewTenant, "object", "name"))
async def new_tenant(http: Request, principal: OperatorPrincipal, bodies: BodiesDep, database: DatabaseDep) -> Response:
    body = validated(NewTenant, await bodies.read(http, JobOwner(principal.key_id)))
    try:
        created = await Tenants(database).create(body.name, body.title)
    except TenantExists as error:
        raise ApiError(409, str(error), param="name", code="tenant_exists") from None
    return JSONResponse({"object": "tenant", "id": created.name} | asdict(created))


@router.get("/keys", **described(None, "object", "data", "has_more"))
async def keys(
    principal: AdminPrincipal,
    accounts: AccountsDep,
    limit: PageSize = 20,
    after: After = "",
    tenant: TenantQuery = None,
) -> Response:
    found = await accounts.list(_visible(principal, tenant).tenant, after, limit + 1)
    return _page([_key(record) for record in found], limit)


@router.post("/keys", **described(NewKey, "object", "id", "key"))
async def new_key(http: Request, principal: OperatorPrincipal, bodies: BodiesDep, accounts: AccountsDep) -> Response:
    """Creates a key. The response contains `key`, which cannot be read again."""
    body = validated(NewKey, await bodies.read(http, JobOwner(principal.key_id)))
    given = {name: value for name, value in body.changes.items() if name in KeyLimits.__dataclass_fields__}
    limits = KeyLimits(**given)  # type: ignore[arg-type]
    try:
        key, record = await accounts.create_with_record(
            body.owner, body.tenant, body.scopes, body.name or "", limits, body.expires_at
        )
    except UnknownTenant as error:
        raise ApiError(400, f"{error}.", param="tenant", code="tenant_not_found") from None
    return JSONResponse(_key(record) | {"key": key})


@router.get("/keys/{key_id}", **described(None, "object", "id"))
async def key(principal: AdminPrincipal, accounts: AccountsDep, key_id: str) -> Response:
    return JSONResponse(_key(await _get_key(accounts, key_id, principal)))


@router.post("/keys/{key_id}", **described(KeyChange, "object", "id"))
async def change_key(
    http: Request, principal: OperatorPrincipal, bodies: BodiesDep, accounts: AccountsDep, key_id: str
) -> Response:
    body = validated(KeyChange, await bodies.read(http, JobOwner(principal.key_id)))
    await _get_key(accounts, key_id, principal)
    if not await accounts.update(key_id, body.changes):
        raise ApiError(409, f"The key {key_id!r} is revoked.", code="key_revoked")
    return JSONResponse(_key(await _get_key(accounts, key_id, principal)))


@router.delete("/keys/{key_id}", **described(None, "object", "id", "deleted"))
async def revoke_key(principal: AdminPrincipal, accounts: AccountsDep, key_id: str) -> Response:
    """Revokes a key permanently; one that is revoked already stays revoked."""
    await _get_key(accounts, key_id, principal)
    await accounts.revoke(key_id)
    return JSONResponse({"object": "key", "id": key_id, "deleted": True})


@router.get("/usage", **described(None, "object", "data", "currency"))
async def usage(
    principal: AdminPrincipal,
    database: DatabaseDep,
    prices: PricesDep,
    by: Annotated[str, Query(max_length=100)] = "key",
    since: Annotated[date | None, Query(alias="from")] = None,
    until: Annotated[date | None, Query(alias="to")] = None,
    tenant: TenantQuery = None,
    limit: PageSize = MAX_PAGE_SIZE,
    page: Annotated[int, Query(ge=0, le=10**6)] = 0,
    format: Literal["json", "csv"] = "json",
) -> Response:
    """Totals grouped by key, owner, tenant, model, day or edge (owner of the agent), several separated by commas."""
    dimensions = [part.strip() for part in by.split(",") if part.strip()]
    if wrong := [part for part in dimensions if part not in _DIMENSIONS]:
        raise ApiError(400, f"by: {wrong[0]!r} is none of {', '.join(_DIMENSIONS)}.", param="by", code="invalid_value")
    groups: list[Dimension] = dimensions  # type: ignore[assignment]
    first, last = _days(since, until)
    visible = _visible(principal, tenant)
    lines = await usage_totals(
        database,
        groups,
        first,
        last,
        tenant=visible.tenant,
        owner=visible.owner,
        offset=page * limit,
        limit=limit + 1,
    )
    documents = [line.to_dict() for line in lines[:limit]]
    more = len(lines) > limit
    if format == "csv":
        out = io.StringIO()
        write_csv(out, documents)
        return Response(out.getvalue(), media_type="text/csv", headers={"x-has-more": str(more).lower()})
    return JSONResponse(
        {
            "object": "list",
            "currency": prices.currency,
            "data": documents,
            "has_more": more,
            "next_page": page + 1 if more else None,
        }
    )


@router.get("/agents", **described(None, "object", "data"))
async def agents(principal: AdminPrincipal, registry: AgentsDep) -> Response:
    """The agents attached to this gateway."""
    visible = visible_to(principal)
    data = [
        {
            "object": "agent",
            "id": agent.agent,
            "identity": agent.identity,
            "tenant": agent.owner[0],
            "owner": agent.owner[1],
            "sessions": agent.running,
            "max_sessions": agent.max_sessions,
        }
        for agent in registry.attached()
        if visible.includes(agent.owner)
    ]
    return JSONResponse({"object": "list", "data": data})


async def _get_key(accounts: Accounts, key_id: str, principal: Principal) -> KeyRecord:
    """Raises ApiError 404 for an unknown key and for another tenant's, without distinguishing the two."""
    record = await accounts.get(key_id) if re.fullmatch(r"key_[0-9a-f]{1,28}", key_id) else None
    if record is None or not visible_to(principal).includes((record.tenant, record.owner)):
        raise ApiError(404, f"There is no key {key_id[:64]!r}.", code="key_not_found")
    return record


def _key(record: KeyRecord) -> dict[str, Any]:
    limits = record.limits
    return {
        "object": "key",
        "id": record.id,
        "prefix": record.prefix,
        "owner": record.owner,
        "tenant": record.tenant,
        "scopes": [scope for scope in record.scopes if scope in SCOPES],
        "name": record.name,
        "created_at": record.created,
        "expires_at": record.expires,
        "revoked_at": record.revoked,
        "expired": record.expires is not None and record.expires <= time.time(),
        "requests_per_minute": limits.requests_per_minute,
        "tokens_per_minute": limits.tokens_per_minute,
        "concurrent": limits.concurrent,
        "monthly_spend": None if limits.monthly_spend is None else to_text(limits.monthly_spend),
        "priority": limits.priority,
    }


def _page(found: list[dict[str, Any]], limit: int) -> Response:
    """A list page in OpenAI's format. `found` may have one item more than `limit`, which sets has_more."""
    data = found[:limit]
    return JSONResponse(
        {
            "object": "list",
            "data": data,
            "first_id": data[0]["id"] if data else None,
            "last_id": data[-1]["id"] if data else None,
            "has_more": len(found) > limit,
        }
    )


def _days(since: date | None, until: date | None) -> tuple[date, date]:
    """The first and the last day of a report; MAX_DAYS days up to the last one if the first is not given.

    Raises ApiError 400 for a range that no report covers.
    """
    for day, param in ((since, "from"), (until, "to")):
        if day is not None and not 1970 <= day.year <= 9000:
            raise ApiError(400, f"{param}: no day of use.", param=param, code="invalid_value")
    last = until or max(datetime.now(UTC).date(), since or date.min)
    first = since or max(last - timedelta(days=MAX_DAYS - 1), date(1970, 1, 1))
    if (last - first).days >= MAX_DAYS:
        raise ApiError(400, f"from: a report covers at most {MAX_DAYS} days.", param="from", code="invalid_value")
    return first, last
