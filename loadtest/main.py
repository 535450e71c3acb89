"""`edgedraft bench NAME`: runs one benchmark, prints its table, writes its JSON."""

from __future__ import annotations

import json
import sys
from importlib import import_module

from edgedraft.observability.logs import configure_logging
from loadtest.report import Result, show
from loadtest.settings import BenchSettings

# name -> the module that has a function of that name; imported when it is asked for, since some of them load torch
BENCHMARKS = {
    "quick": "loadtest.quick",
    "verify": "loadtest.verify",
    "engine": "loadtest.engine",
    "prefix": "loadtest.prefix",
    "schedule": "loadtest.schedule",
    "draft": "loadtest.draft",
    "link": "loadtest.link",
    "gateway": "loadtest.gateway",
    "streams": "loadtest.streams",
    "seed": "loadtest.seed.experiment",
    "soak": "loadtest.soak",
    "scale": "loadtest.scale.bench",
}


def main(settings: BenchSettings) -> None:
    """Exits 2 for an unknown name."""
    configure_logging("warning")
    if settings.name not in BENCHMARKS:
        print(f"edgedraft bench: no benchmark {settings.name!r}; there is: {', '.join(BENCHMARKS)}", file=sys.stderr)
        sys.exit(2)
    result: Result = getattr(import_module(BENCHMARKS[settings.name]), settings.name)(settings)
    show(result)
    if settings.json_file:
        settings.json_file.write_text(json.dumps(result.document, indent=2) + "\n")
