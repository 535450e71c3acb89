"""Usage totals by each dimension, on both databases."""

from __future__ import annotations

from datetime import date
from typing import Any

from sqlalchemy import insert

from gateway.accounts import Accounts
from gateway.ledger.money import MAX_NANO, NANO
from gateway.ledger.report import usage_totals
from gateway.storage.database import Database
from gateway.storage.tables import usage

DAY = 86_400_000


async def filled(database: Database) -> str:
    """Two days, two keys, three requests. Returns the first key's id."""
    accounts = Accounts(database)
    await accounts.create("ann", "acme", ["inference"], "laptop")
    (record,) = await accounts.list()
    common: dict[str, Any] = {"gateway": "g", "request_id": "r", "model": "toy", "endpoint": "chat", "stream": True}
    common |= {"choices": 1, "prompt_tokens": 10, "outcome": "finished", "owner": "ann", "tenant": "acme"}
    done: dict[str, Any] = {"cached_tokens": 1, "output_tokens": 5, "drafted": 8, "accepted": 4, "verifier_ns": NANO}
    done |= {"verifier_cost": 3, "edge_cost": 1, "baseline_cost": 9, "credit": 2, "mode": "edge", "agent_ns": 7}
    done |= {"agent_owner": "ann", "agent_tenant": "acme"}
    nothing = dict.fromkeys(done) | {"mode": None}
    lines = [
        common | done | {"id": "1", "key_id": record.id, "started": 20_000 * DAY},
        common | done | {"id": "2", "key_id": record.id, "started": 20_001 * DAY + 5, "baseline_cost": MAX_NANO // 2},
        common | nothing | {"id": "3", "key_id": "static", "started": 20_002 * DAY - 1, "outcome": "unfinished"},
    ]
    async with database.begin() as connection:
        await connection.execute(insert(usage), lines)
    return record.id


async def test_totals(database: Database) -> None:
    assert await usage_totals(database) == []
    key_id = await filled(database)
    (everything,) = await usage_totals(database)
    assert (everything.requests, everything.unfinished, everything.edge_requests) == (3, 1, 2)
    assert (everything.prompt_tokens, everything.output_tokens, everything.accepted) == (30, 10, 8)
    assert (everything.cost, everything.credit, everything.verifier_ns) == (8, 4, 2 * NANO)
    assert everything.saved == 9 + MAX_NANO // 2 - 8  # exact, however large
    by_key = await usage_totals(database, ["key"])
    assert {line.group["key_id"]: line.requests for line in by_key} == {key_id: 2, "static": 1}
    by_day = await usage_totals(database, ["day", "model"])
    assert [(line.group["day"], line.requests) for line in by_day] == [("2024-10-04", 1), ("2024-10-05", 2)]
    (edge,) = await usage_totals(database, ["edge"])
    assert (edge.group, edge.requests) == ({"agent_tenant": "acme", "agent_owner": "ann"}, 2)
    (first,) = await usage_totals(database, ["owner"], until=date(2024, 10, 4))
    assert first.requests == 1
    (second,) = await usage_totals(database, ["tenant"], date(2024, 10, 5), date(2024, 10, 5), tenant="acme")
    assert second.requests == 2
    assert await usage_totals(database, tenant="other") == []
    assert len(await usage_totals(database, ["day"], limit=1, offset=1)) == 1
    assert (await usage_totals(database, key_id="static"))[0].verifier_ns == 0
