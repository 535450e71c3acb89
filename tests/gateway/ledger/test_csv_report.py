"""Cells of CSV reports are never formulas."""

from __future__ import annotations

import io

import pytest

from gateway.ledger.csv_report import escape_cell, write_csv


@pytest.mark.parametrize("value", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "  =1", "\uff1d1"])
def test_formulas_become_text(value: str) -> None:
    assert escape_cell(value) == f"'{value}"


@pytest.mark.parametrize("value", ["acme", "-0.000000004", "+12", "2026-11-01", 7, "a=b", ""])
def test_numbers_and_other_text_stay(value: str | int) -> None:
    assert escape_cell(value) == value


def test_rows_have_a_header() -> None:
    out = io.StringIO()
    write_csv(out, [])
    assert out.getvalue() == ""
    write_csv(out, [{"owner": "-cmd", "saved": "-1.5"}])
    assert out.getvalue().splitlines() == ["owner,saved", "'-cmd,-1.5"]
