"""Progress on stderr: plain lines where there is no terminal, a bar where there is one."""

from __future__ import annotations

import sys

import pytest

from edgedraft.observability import progress as module
from edgedraft.observability.progress import progress


def test_plain_lines_are_written_at_most_every_line_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    with progress("training", 4000, "steps") as advance:
        for _ in range(4):
            now += 10
            advance(1000, "loss 1.5")
    assert capsys.readouterr().err.splitlines() == [
        "training: started",
        "training: 2,000 of 4,000 steps after 20 s loss 1.5",
        "training: 4,000 of 4,000 steps after 40 s loss 1.5",
        "training: done in 40.0 s",
    ]


def test_a_job_that_fails_is_not_called_done(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="broken"), progress("converting"):
        raise ValueError("broken")
    assert capsys.readouterr().err.splitlines() == ["converting: started"]


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress("fetching", 2, "files") as advance:
        advance()
        advance(note="last")
    shown = capsys.readouterr().err
    assert "fetching" in shown
    assert "started" not in shown
