"""Tables of the command line: complete values on a terminal of any width, tab-separated lines elsewhere."""

from __future__ import annotations

import io
import sys

import pytest

from gateway.cli.tables import print_table

TITLES = ("id", "owner", "spend")
ROW = ("key_1789aae0ee6e520a", "someone@example.com", "0.000123")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("columns", ["20", "200"])
def test_a_terminal_gets_titles_and_complete_values(monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    terminal = Terminal()
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys, "stdout", terminal)
    print_table(TITLES, [ROW], numbers=["spend"])
    head, row = terminal.getvalue().splitlines()
    assert tuple(head.split()) == TITLES
    assert tuple(row.split()) == ROW


def test_a_pipe_gets_tab_separated_values(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(TITLES, [ROW])
    assert capsys.readouterr().out == "\t".join(ROW) + "\n"
