"""The printed report of a benchmark."""

from __future__ import annotations

import pytest

from loadtest.report import Result, print_markdown, print_result


def test_a_report_shows_both_sides_and_their_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"mode": "a", "same": True, "ms": 2.0}, {"mode": "b", "same": False, "ms": 1.0}]
    print_result(Result("title", rows, {"b_over_a_ms": 0.5}, {}, ["a note"]))
    shown = capsys.readouterr().out
    for part in ("title", "a", "b", "yes", "NO", "0.500", "b over a ms", "a note"):
        assert part in shown


def test_a_report_is_printed_as_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    part = Result("part", [{"n": 1}], {}, {})
    rows = [{"mode": "a", "limit_ms": None}, {"mode": "b", "limit_ms": 1.25}]
    print_markdown(Result("title", rows, {}, {}, ["a note"], [part]))
    lines = capsys.readouterr().out.splitlines()
    assert lines[3:7] == ["| mode | limit ms |", "| --- | --: |", "| a | - |", "| b | 1.25 |"]
    assert "- a note" in lines
    assert lines[-3:] == ["| n |", "| --: |", "| 1 |"]
