"""Usage reports: totals of the ledger grouped by key, owner, tenant, model, day or edge owner.

Used by the admin API, `edgedraft usage` and the dashboard. Costs are nano-units. Grouped by `edge`, a request belongs
to the owner of the agent that drafted for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal

from sqlalchemy import BigInteger, Label, case, func, literal_column, select

from gateway.ledger.money import to_text
from gateway.storage.database import Database
from gateway.storage.tables import keys, usage

Dimension = Literal["key", "owner", "tenant", "model", "day", "edge"]

DAY_MS = 86_400_000
MAX_ROWS = 10_000

_COLUMNS: dict[str, tuple[str, ...]] = {
    "key": ("tenant", "key_id"),
    "owner": ("tenant", "owner"),
    "tenant": ("tenant",),
    "model": ("model",),
    "edge": ("agent_tenant", "agent_owner"),
}


@dataclass(frozen=True, slots=True)
class Totals:
    """One line of a report. `group` maps the columns that it is grouped by to their values; times are nanoseconds."""

    group: dict[str, str]
    requests: int
    unfinished: int
    estimated: int  # of these, verifiers have not reported all that they cost
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    drafted: int
    accepted: int
    edge_requests: int  # at least partly drafted by an agent
    verifier_ns: int
    agent_ns: int
    verifier_cost: int
    edge_cost: int
    baseline_cost: int
    credit: int

    @property
    def cost(self) -> int:
        return self.verifier_cost + self.edge_cost

    @property
    def saved(self) -> int:
        """Baseline cost minus cost; negative if datacenter-only decoding would have been cheaper."""
        return self.baseline_cost - self.cost

    def to_dict(self) -> dict[str, str | int]:
        """For JSON and CSV: money as decimal text, times in seconds as decimal text."""
        return {
            **self.group,
            "requests": self.requests,
            "edge_requests": self.edge_requests,
            "unfinished": self.unfinished,
            "estimated": self.estimated,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "output_tokens": self.output_tokens,
            "drafted": self.drafted,
            "accepted": self.accepted,
            "verifier_seconds": to_text(self.verifier_ns),
            "agent_seconds": to_text(self.agent_ns),
            "verifier_cost": to_text(self.verifier_cost),
            "edge_cost": to_text(self.edge_cost),
            "cost": to_text(self.cost),
            "datacenter_only_cost": to_text(self.baseline_cost),
            "saved": to_text(self.saved),
            "credit": to_text(self.credit),
        }


async def usage_totals(
    database: Database,
    by: Sequence[Dimension] = (),
    since: date | None = None,
    until: date | None = None,
    *,
    tenant: str | None = None,
    owner: str | None = None,
    key_id: str | None = None,
    offset: int = 0,
    limit: int = MAX_ROWS,
) -> list[Totals]:
    """One line per group, in order; without `by` one line for all. `since` and `until` (UTC days) are inclusive.

    Raises DatabaseDown.
    """
    labels = _labels(by)
    query = select(*labels, *_sums()).group_by(*(label.element for label in labels)).order_by(*labels)
    if since:
        query = query.where(usage.c.started >= _midnight(since))
    if until:
        query = query.where(usage.c.started < _midnight(until + timedelta(days=1)))
    for column, value in ((usage.c.tenant, tenant), (usage.c.owner, owner), (usage.c.key_id, key_id)):
        if value is not None:
            query = query.where(column == value)
    if "edge" in by:
        query = query.where(usage.c.agent_owner.is_not(None))
    async with database.connect() as connection:
        rows = (await connection.execute(query.offset(offset).limit(limit))).all()
    width = len(labels)
    return [
        Totals(
            {label.name: _format_group(label.name, value) for label, value in zip(labels, row[:width], strict=True)},
            *(_number(value) for value in row[width:]),
        )
        for row in rows
        if labels or row[0]
    ]


async def key_labels(database: Database) -> dict[str, str]:
    """Key id -> its prefix and name, for display. Raises DatabaseDown."""
    async with database.connect() as connection:
        rows = await connection.execute(select(keys.c.id, keys.c.prefix, keys.c.name))
        return {row.id: f"{row.prefix}… {row.name}".strip() for row in rows}


def _labels(by: Sequence[Dimension]) -> list[Label[object]]:
    labels: dict[str, Label[object]] = {}
    for dimension in dict.fromkeys(by):
        if dimension == "day":
            # A literal: with a parameter, PostgreSQL sees different expressions in SELECT and GROUP BY.
            labels["day"] = (usage.c.started // literal_column(str(DAY_MS), BigInteger)).label("day")
            continue
        for name in _COLUMNS[dimension]:
            labels[name] = usage.c[name].label(name)
    return list(labels.values())


def _sums() -> list[Label[int]]:
    edge = case((usage.c.mode.in_(("edge", "mixed")), 1), else_=0)
    unfinished = case((usage.c.outcome == "unfinished", 1), else_=0)
    estimated = case((usage.c.estimated, 1), else_=0)
    parts = {
        "requests": func.count(),
        "unfinished": func.sum(unfinished),
        "estimated": func.sum(estimated),
        "prompt_tokens": func.sum(usage.c.prompt_tokens),
        "cached_tokens": func.sum(usage.c.cached_tokens),
        "output_tokens": func.sum(usage.c.output_tokens),
        "drafted": func.sum(usage.c.drafted),
        "accepted": func.sum(usage.c.accepted),
        "edge_requests": func.sum(edge),
        "verifier_ns": func.sum(usage.c.verifier_ns),
        "agent_ns": func.sum(usage.c.agent_ns),
        "verifier_cost": func.sum(usage.c.verifier_cost),
        "edge_cost": func.sum(usage.c.edge_cost),
        "baseline_cost": func.sum(usage.c.baseline_cost),
        "credit": func.sum(usage.c.credit),
    }
    return [part.label(f"sum_{name}") for name, part in parts.items()]


def _format_group(name: str, value: object) -> str:
    if name == "day":
        return datetime.fromtimestamp(int(str(value)) * DAY_MS // 1000, UTC).date().isoformat()
    return str(value)


def _number(value: Any) -> int:
    """A sum as int: PostgreSQL returns Decimals, and None for no rows."""
    return int(value or 0)


def _midnight(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000
