"""Heat maps."""

from __future__ import annotations

from pathlib import Path

from loadtest.policy.cells import Cell, ServerLoad
from loadtest.policy.plots import draw


def test_a_map_is_written_for_each_system_and_step_costs(tmp_path: Path) -> None:
    ratios = {
        Cell(ServerLoad(steps, acceptance, streams), trip, 3): 1.0 + trip / 100
        for steps in ("cpu", "a100-32b")
        for acceptance in (0.6, 0.75)
        for streams in (1, 4)
        for trip in (0, 15)
    }
    draw({"best_static": ratios, "rounds": ratios}, tmp_path / "new")
    names = sorted(file.name for file in (tmp_path / "new").iterdir())
    assert names == ["policy-a100-32b-over-best-static.png", "policy-cpu-over-best-static.png"]
    assert (tmp_path / "new" / names[0]).read_bytes().startswith(b"\x89PNG")
