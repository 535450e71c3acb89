"""Prices, what would have been spent without drafts, and the reports over both databases."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert

from edgedraft import cli
from edgedraft.wire import Commit
from gateway.accounts import Accounts
from gateway.ledger import Prices, PricesError
from gateway.ledger.baseline import PlainStepTimes, baseline_ns
from gateway.ledger.money import MAX_NANO, NANO, to_nano, to_text
from gateway.ledger.prices import HOUR_NS
from gateway.ledger.report import usage_totals
from gateway.sessions.speculation_stats import SpeculationStats
from gateway.storage.database import Database
from gateway.storage.tables import usage

DAY = 86_400_000


@given(st.integers(0, 10**18), st.integers(0, 10**15))
def test_a_cost_is_the_share_of_an_hour_to_the_nearest_nano(nanoseconds: int, price: int) -> None:
    cost = Prices(datacenter_gpu_hour=price, edge_gpu_hour=price).datacenter_cost(nanoseconds)
    assert abs(cost - Fraction(nanoseconds * price, HOUR_NS)) <= Fraction(1, 2)
    assert isinstance(cost, int)
    assert Prices(edge_gpu_hour=price).edge_cost(nanoseconds) == cost


@given(st.lists(st.integers(0, 10**13), max_size=30))
def test_parts_cost_what_the_whole_costs(parts: list[int]) -> None:
    prices = Prices()
    assert abs(sum(map(prices.datacenter_cost, parts)) - prices.datacenter_cost(sum(parts))) <= (len(parts) + 1) / 2


@given(st.integers(-MAX_NANO, MAX_NANO))
def test_money_is_read_as_it_is_written(nano: int) -> None:
    assert to_nano(Decimal(to_text(nano))) == nano


@pytest.mark.parametrize("amount", ["NaN", "Infinity", "1e30", "-1e30"])
def test_what_is_no_money_is_refused(amount: str) -> None:
    with pytest.raises(ValueError, match="money"):
        to_nano(Decimal(amount))


def test_a_file_of_prices(tmp_path: Path) -> None:
    assert Prices.read(None) == Prices(5_050_000_000, 350_000_000, 3_500_000_000, "USD")
    (tmp_path / "p.toml").write_text('datacenter_gpu_hour = 0.1\nedge_gpu_hour = 2\ncurrency = "EUR"\n')
    assert Prices.read(tmp_path / "p.toml") == Prices(NANO // 10, 2 * NANO, 3_500_000_000, "EUR")
    (tmp_path / "p.json").write_text('{"accepted_million": "1.25", "edge_gpu_hour": 0.3}')
    assert Prices.read(tmp_path / "p.json") == Prices(5_050_000_000, 300_000_000, 1_250_000_000, "USD")


@pytest.mark.parametrize(
    "text", ["= 1", "gpu = 1", "edge_gpu_hour = -1", "edge_gpu_hour = true", 'edge_gpu_hour = "x"', "currency = 1"]
)
def test_a_file_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(PricesError, match=r"p\.toml"):
        Prices.read(tmp_path / "p.toml")
    with pytest.raises(SystemExit) as end:
        cli.main(["gateway", "--prices", str(tmp_path / "p.toml")])
    assert "p.toml" in str(end.value.code)


def stats(*steps: tuple[int, int, float]) -> SpeculationStats:
    """Of steps of so many tokens, checked nodes and milliseconds."""
    made = SpeculationStats()
    at = 0
    for tokens, nodes, milliseconds in steps:
        made.add(Commit(1, at, [1] * tokens, 0, nodes, nodes, tokens - 1, milliseconds / 1000), paired=nodes > 0)
        at += tokens
    return made


def test_what_plain_decoding_would_have_taken() -> None:
    def baseline(*choices: SpeculationStats, pace: PlainStepTimes | None = None) -> float:
        return baseline_ns(choices, "m", pace or PlainStepTimes()) / 1e6

    plain = stats((1, 0, 50), *[(1, 0, 10)] * 9)
    assert baseline(plain) == 140  # as measured
    mixed = stats((1, 0, 50), *[(1, 0, 10)] * 8, (4, 3, 13), (4, 3, 13))
    assert baseline(mixed) == 50 + 16 * 10  # by its own plain steps
    edge = stats((1, 0, 50), (4, 3, 13), (4, 3, 13))
    assert baseline(edge) == 50 + 8 * 13  # nothing better is known
    pace = PlainStepTimes()
    baseline(plain, pace=pace)
    assert baseline(edge, pace=pace) == 50 + 8 * 10  # by the model's recent ones
    assert baseline(stats(), pace=pace) == 0
    assert baseline(edge, plain, pace=pace) == 50 + 8 * 10 + 140


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


async def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"sqlite:///{tmp_path / 'gateway.db'}"
    database = Database(url)
    await database.open()
    key_id = await filled(database)
    await database.close()

    def run(*words: str) -> str:
        import threading

        # The command has an event loop of its own.
        thread = threading.Thread(target=cli.main, args=(["usage", "--database", url, *words],))
        thread.start()
        thread.join()
        return capsys.readouterr().out

    document = json.loads(run("--by", "day", "--format", "json", "--from", "2024-10-05", "--to", "2024-10-05"))
    assert document["currency"] == "USD"
    (line,) = document["data"]
    assert (line["day"], line["requests"], line["cost"], line["verifier_seconds"]) == (
        "2024-10-05",
        2,
        "0.000000004",
        "1.000000000",
    )
    header, first, *_ = run("--by", "key", "--format", "csv").splitlines()
    assert header.startswith("tenant,key_id,requests,")
    assert first.startswith(f"acme,{key_id},2,")
    assert "… laptop\t2\t2\t20\t10\t8\t" in run()
    assert run("--by", "day", "--from", "2030-01-01", "--format", "csv") == ""
