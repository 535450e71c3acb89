"""The experiment's plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loadtest.report import Result
from loadtest.specedge.plots import draw
from loadtest.specedge.systems import SYSTEMS


def test_a_plot_is_written_for_every_table(tmp_path: Path) -> None:
    def rows(name: str, values: Sequence[object]) -> list[dict[str, Any]]:
        figures = {"tokens_per_s": 2.0, "inter_token_ms": 3.0}
        return [{name: value, "system": system, **figures} for value in values for system in SYSTEMS.values()]

    kinds = Result("kinds", [{"kind": "chat", "tokens_per_verify": 2.0}], {}, {})
    by_rtt = Result("by rtt", rows("rtt_ms", [0, 15]), {}, {})
    settings = {"ridge_rows": 16, "prices": {"server_hour": 5.05}}
    draw(Result("all", rows("load", ["1 stream", "4 streams"]), {}, settings, [], [kinds, by_rtt]), tmp_path / "new")
    for name in ("throughput", "latency", "cost", "kinds"):
        assert (tmp_path / "new" / f"specedge-{name}.png").read_bytes().startswith(b"\x89PNG")
