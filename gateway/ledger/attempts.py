"""What attempts of a request cost beside its record, in the database: once per attempt, whichever gateway hears of it.

A row that is completed has what its attempts' commits carried, as `attempts` says; the rest of a report is added to it.
A row whose gateway was lost has no record, but what lost_gateways.py took it to have cost: by attempt, or as one
ESTIMATE that the first report replaces. A gateway that had only slept completes it with what reports have besides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from sqlalchemy import bindparam, delete, exists, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ledger.prices import Prices
from gateway.storage.database import Database, now_ms
from gateway.storage.tables import gateways, usage, usage_attempts

RUNNING, UNFINISHED = "running", "unfinished"
ESTIMATE = 0  # in the column `attempts`: of all attempts of a row, none of which is known
NEGLIGIBLE_NS = 1000  # less is rounding
KEPT_MS = 2 * 86_400_000  # verifiers repeat a report for a day at most

# What is known of an attempt: not in this database; its row may still be written by its gateway; in the database;
# or it can be added.
Found = Literal["unknown", "owned", "recorded", "addable"]
Name = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Attempt:
    """What one attempt of row `row` has cost. `counted_ns` of it are in the record; None where only the row tells."""

    row: str
    number: int
    verifier_ns: int
    counted_ns: int | None = None

    @property
    def name(self) -> Name:
        return self.row, self.number


def encode_counted(counted: Mapping[int, int]) -> str:
    """The column `attempts`: nanoseconds in the row's record by attempt."""
    return msgspec.json.encode(counted).decode()


def decode_counted(text: str) -> dict[int, int]:
    return msgspec.json.decode(text, type=dict[int, int])


async def find_attempts(connection: AsyncConnection, attempts: Sequence[Attempt], gateway: str) -> dict[Name, Found]:
    """What can be done with each attempt, for the gateway with this id."""
    found, _ = await _find(connection, attempts, gateway, lock=False)
    return found


async def add_attempts(
    connection: AsyncConnection, attempts: Sequence[Attempt], gateway: str, prices: Prices
) -> dict[Name, Found]:
    """Adds to their rows what can be added; what is then known of each. Raises IntegrityError if another does too."""
    found, rows = await _find(connection, attempts, gateway, lock=True)
    added: list[dict[str, Any]] = []
    more: dict[str, int] = {}
    for attempt in attempts:
        if found[attempt.name] == "addable":
            values = {"usage_id": attempt.row, "attempt": attempt.number, "verifier_ns": attempt.verifier_ns}
            added.append(values)
            more[attempt.row] = more.get(attempt.row, 0) + _beside_record(attempt, rows[attempt.row])
            found[attempt.name] = "recorded"
    if added:
        lost = [rows[row] for row in more if rows[row].outcome == UNFINISHED]
        for row in lost:
            more[row.id] -= _counted(row).get(ESTIMATE, 0)
        await connection.execute(insert(usage_attempts).values(recorded=now_ms()), added)
        await connection.execute(_add, [_amounts(row, amount, prices) for row, amount in more.items()])
        if lost:
            await _replace_estimates(connection, lost)
    return found


async def _replace_estimates(connection: AsyncConnection, rows: Sequence[Any]) -> None:
    """A row with a report has no ESTIMATE, and is no longer `estimated` when all its attempts have one."""
    names = select(usage_attempts.c.usage_id, usage_attempts.c.attempt)
    names = names.where(usage_attempts.c.usage_id.in_([row.id for row in rows]))
    reported = {(name.usage_id, name.attempt) for name in await connection.execute(names)}
    replaced: list[dict[str, Any]] = []
    for row in rows:
        counted = {attempt: ns for attempt, ns in _counted(row).items() if attempt != ESTIMATE}
        still = any((row.id, attempt) not in reported for attempt in counted)
        replaced.append({"row": row.id, "counted": encode_counted(counted), "still": still})
    await connection.execute(_replace, replaced)


async def complete_unfinished(connection: AsyncConnection, ends: Mapping[str, dict[str, Any]], prices: Prices) -> None:
    """Completes those of the rows that were taken for lost, with `ends` by row, and what their attempts had besides."""
    query = select(usage.c.id).where(usage.c.id.in_(list(ends)), usage.c.outcome == UNFINISHED).order_by(usage.c.id)
    rows = (await connection.execute(query.with_for_update())).scalars().all()
    for row in rows:
        reported = select(usage_attempts.c.attempt, usage_attempts.c.verifier_ns).where(
            usage_attempts.c.usage_id == row
        )
        values: dict[str, Any] = ends[row] | {"estimated": False}
        counted = decode_counted(values["attempts"])
        more = 0
        for attempt, verifier_ns in await connection.execute(reported):
            more += max(0, verifier_ns - counted.get(attempt, 0))
        for column, amount in _amounts(row, more, prices).items():
            if column != "row":
                values[column.removeprefix("more_")] += amount
        await connection.execute(update(usage).where(usage.c.id == row).values(values))


async def prune_attempts(database: Database) -> None:
    """Forgets attempts whose reports no verifier repeats. Raises DatabaseDown."""
    async with database.begin() as connection:
        await connection.execute(delete(usage_attempts).where(usage_attempts.c.recorded < now_ms() - KEPT_MS))


_TIMES = (usage.c.verifier_ns, usage.c.baseline_ns, usage.c.verifier_cost, usage.c.baseline_cost)
_add = (
    update(usage)
    .where(usage.c.id == bindparam("row"))
    .values({column.name: func.coalesce(column, 0) + bindparam(f"more_{column.name}") for column in _TIMES})
)
_replace = (
    update(usage)
    .where(usage.c.id == bindparam("row"))
    .values(attempts=bindparam("counted"), estimated=bindparam("still"))
)


def _amounts(row: str, verifier_ns: int, prices: Prices) -> dict[str, Any]:
    """Datacenter time and cost change, and those of the same request without drafts alike."""
    cost = prices.datacenter_cost(abs(verifier_ns)) * (1 if verifier_ns > 0 else -1)
    amounts = {"verifier_ns": verifier_ns, "baseline_ns": verifier_ns, "verifier_cost": cost, "baseline_cost": cost}
    return {"row": row} | {f"more_{name}": amount for name, amount in amounts.items()}


def _beside_record(attempt: Attempt, row: Any) -> int:
    """What of the attempt is not in the row's record."""
    counted = attempt.counted_ns
    if row.outcome == UNFINISHED or counted is None:
        counted = _counted(row).get(attempt.number, 0)
    return max(0, attempt.verifier_ns - counted)


def _counted(row: Any) -> dict[int, int]:
    return decode_counted(row.attempts or "{}")


async def _find(
    connection: AsyncConnection, attempts: Iterable[Attempt], gateway: str, lock: bool
) -> tuple[dict[Name, Found], dict[str, Any]]:
    ids = sorted({attempt.row for attempt in attempts})
    leased = exists(select(gateways.c.id).where(gateways.c.id == usage.c.gateway)).label("leased")
    query = select(usage.c.id, usage.c.outcome, usage.c.gateway, usage.c.attempts, leased).where(usage.c.id.in_(ids))
    query = query.order_by(usage.c.id)  # all lock in one order
    result = await connection.execute(query.with_for_update(of=usage) if lock else query)
    rows: dict[str, Any] = {row.id: row for row in result}
    names = select(usage_attempts.c.usage_id, usage_attempts.c.attempt).where(usage_attempts.c.usage_id.in_(ids))
    recorded = {(name.usage_id, name.attempt) for name in await connection.execute(names)}
    found: dict[Name, Found] = {
        attempt.name: _state(attempt, rows.get(attempt.row), attempt.name in recorded, gateway) for attempt in attempts
    }
    return found, rows


def _state(attempt: Attempt, row: Any | None, recorded: bool, gateway: str) -> Found:
    if row is None:
        return "unknown"
    if recorded:
        return "recorded"
    if row.outcome == RUNNING or (row.gateway != gateway and row.leased):
        return "owned"
    if row.outcome != UNFINISHED and attempt.counted_ns is None and row.attempts is None:
        return "recorded"  # it was completed by a version that did not say what it had counted
    return "addable" if _beside_record(attempt, row) >= NEGLIGIBLE_NS else "recorded"
