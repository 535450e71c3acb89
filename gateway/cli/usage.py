"""`edgedraft usage`: prints a usage report as a table, CSV or JSON."""

from __future__ import annotations

import json
import sys

from gateway.cli.database import run_with_database
from gateway.cli.tables import print_table
from gateway.ledger import Prices, PricesError
from gateway.ledger.csv_report import write_csv
from gateway.ledger.money import to_text
from gateway.ledger.report import Totals, key_labels, usage_totals
from gateway.settings import UsageSettings
from gateway.storage.database import Database


def main(settings: UsageSettings) -> None:
    """Prints one report. Exits with 1 and a line on stderr if the database or the prices cannot be read."""
    try:
        currency = Prices.read(settings.prices).currency
    except PricesError as error:
        sys.exit(f"edgedraft usage: {error}")
    run_with_database(settings.database, lambda database: _run(settings, database, currency), "edgedraft usage")


async def _run(settings: UsageSettings, database: Database, currency: str) -> None:
    lines = await usage_totals(database, settings.by, settings.since, settings.until)
    documents = [line.to_dict() for line in lines]
    match settings.format:
        case "json":
            print(json.dumps({"currency": currency, "data": documents}, indent=2))
        case "csv":
            write_csv(sys.stdout, documents)
        case "table":
            _show(lines, await key_labels(database), currency)


def _show(lines: list[Totals], names: dict[str, str], currency: str) -> None:
    numbers = (
        "requests",
        "by edge",
        "prompt",
        "output",
        "accepted",
        f"cost {currency}",
        f"datacenter-only {currency}",
        f"saved {currency}",
        f"credit {currency}",
    )
    rows = []
    for line in lines:
        money = (line.cost, line.baseline_cost, line.saved, line.credit)
        figures = (line.requests, line.edge_requests, line.prompt_tokens, line.output_tokens, line.accepted)
        group = [names.get(value, value) if name == "key_id" else value for name, value in line.group.items()]
        rows.append((*group, *map(str, figures), *(to_text(amount)[:-3] for amount in money)))
    print_table((*(lines[0].group if lines else ()), *numbers), rows, numbers)
