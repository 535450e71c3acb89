"""`edgedraft bench NAME`: runs one benchmark, prints its table and writes its JSON.

Benchmark NAME is the function NAME of the module NAME in loadtest/benchmarks/, imported on demand: some load torch.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module

from edgedraft.observability.logs import configure_logging
from loadtest.report import Result, print_markdown, print_result
from loadtest.settings import BenchSettings

NAMES = (
    "quick",
    "verify",
    "engine",
    "prefix",
    "schedule",
    "draft",
    "link",
    "gateway",
    "streams",
    "specedge",
    "policy",
    "soak",
    "scale",
)


def main(settings: BenchSettings) -> None:
    """Exits with 2 for an unknown name."""
    configure_logging("warning")
    if settings.name not in NAMES:
        print(f"edgedraft bench: no benchmark {settings.name!r}; there is: {', '.join(NAMES)}", file=sys.stderr)
        sys.exit(2)
    result: Result = getattr(import_module(f"loadtest.benchmarks.{settings.name}"), settings.name)(settings)
    (print_markdown if settings.markdown else print_result)(result)
    if settings.json_file:
        settings.json_file.write_text(json.dumps(result.document, indent=2) + "\n")
