"""Rows of gateways whose lease has expired: marked unfinished, with what they have probably cost.

Without this a row whose verifier is lost too would never cost anything. What the gateway had written of its progress is
in the row; a request too young for that gets an estimate of its prompt, by what tokens of the same model cost lately.
Verifiers' reports then take the place of the estimate (attempts.py).
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import bindparam, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.attempts import ESTIMATE, RUNNING, UNFINISHED, decode_counted, encode_counted
from gateway.ledger.prices import Prices
from gateway.storage.database import now_ms
from gateway.storage.tables import gateways, usage

DEFAULT_PROMPT_TOKEN_NS = 2_000_000  # verifier time, before any was measured
MEASURED_ROWS = 1000  # the last ones of a model

_mark = (
    update(usage)
    .where(usage.c.id == bindparam("row"), usage.c.outcome == RUNNING)
    .values(
        outcome=UNFINISHED,
        estimated=True,
        attempts=bindparam("counted"),
        verifier_ns=bindparam("spent_ns"),
        baseline_ns=bindparam("spent_ns"),
        verifier_cost=bindparam("cost"),
        baseline_cost=bindparam("cost"),
    )
)


async def end_lost_rows(connection: AsyncConnection, lease_seconds: float, prices: Prices) -> int:
    """Ends expired leases and the rows that are left running; returns how many rows."""
    gone = gateways.c.seen < now_ms() - round(lease_seconds * 1000)
    await connection.execute(delete(gateways).where(gone))
    orphans = select(usage.c.id, usage.c.model, usage.c.prompt_tokens, usage.c.attempts).where(
        usage.c.outcome == RUNNING, usage.c.gateway.not_in(select(gateways.c.id))
    )
    rows = (await connection.execute(orphans.order_by(usage.c.id).with_for_update(of=usage))).all()
    token_ns: dict[str, int] = {}
    ends: list[dict[str, Any]] = []
    for row in rows:
        if row.model not in token_ns:
            token_ns[row.model] = await _recent_token_ns(connection, row.model)
        counted = decode_counted(row.attempts or "{}") or {ESTIMATE: row.prompt_tokens * token_ns[row.model]}
        spent_ns = sum(counted.values())
        cost = prices.datacenter_cost(spent_ns)
        ends.append({"row": row.id, "counted": encode_counted(counted), "spent_ns": spent_ns, "cost": cost})
    if ends:
        await connection.execute(_mark, ends)
    return len(ends)


async def _recent_token_ns(connection: AsyncConnection, model: str) -> int:
    """Verifier time per token of the model's last finished requests, prompts included."""
    recent = (
        select(usage.c.verifier_ns, (usage.c.prompt_tokens + usage.c.output_tokens).label("tokens"))
        .where(usage.c.model == model, usage.c.outcome == "finished")
        .order_by(usage.c.started.desc())
        .limit(MEASURED_ROWS)
        .subquery()
    )
    sums = select(func.sum(recent.c.verifier_ns), func.sum(recent.c.tokens))
    spent_ns, tokens = (await connection.execute(sums)).one()
    return int(spent_ns) // int(tokens) if spent_ns and tokens else DEFAULT_PROMPT_TOKEN_NS
