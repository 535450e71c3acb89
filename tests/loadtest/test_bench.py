"""The bench command, its report and its workload; the benchmark itself runs in tests/e2e."""

from __future__ import annotations

from collections import Counter

import pytest

from edgedraft.cli import main
from loadtest.report import Result, show
from loadtest.workloads import mixed


def test_the_mixed_prompts_are_of_six_kinds_in_turn() -> None:
    prompts = mixed()
    assert set(Counter(prompt.kind for prompt in prompts).values()) == {4}
    assert len({prompt.kind for prompt in prompts[:6]}) == 6
    assert len({prompt.text for prompt in prompts}) == 24


def test_an_unknown_benchmark_names_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "nonesuch"])
    assert ended.value.code == 2
    assert "quick" in capsys.readouterr().err


def test_a_report_shows_both_sides_and_their_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"mode": "a", "same": True, "ms": 2.0}, {"mode": "b", "same": False, "ms": 1.0}]
    show(Result("title", rows, {"b_over_a_ms": 0.5}, {}, ["a note"]))
    shown = capsys.readouterr().out
    for part in ("title", "a", "b", "yes", "NO", "0.500", "b over a ms", "a note"):
        assert part in shown
