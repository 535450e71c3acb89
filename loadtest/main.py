"""`edgedraft bench NAME`: runs one benchmark, prints its table, writes its JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

from edgedraft.settings import BenchSettings
from edgedraft.telemetry import configure_logging
from loadtest.quick import quick
from loadtest.report import Result, show

BENCHMARKS: dict[str, Callable[[BenchSettings], Result]] = {"quick": quick}


def main(settings: BenchSettings) -> None:
    """Exits 2 for an unknown name."""
    configure_logging("warning")
    if settings.name not in BENCHMARKS:
        print(f"edgedraft bench: no benchmark {settings.name!r}; there is: {', '.join(BENCHMARKS)}", file=sys.stderr)
        sys.exit(2)
    result = BENCHMARKS[settings.name](settings)
    show(result)
    if settings.json_file:
        document = {"rows": result.rows, "ratios": result.ratios, "settings": result.settings}
        settings.json_file.write_text(json.dumps(document, indent=2) + "\n")
