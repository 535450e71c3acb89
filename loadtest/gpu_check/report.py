"""The report of a GPU check: sections with their checks, tables and times, as JSON and as Markdown."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any

from loadtest.policy.cost_profile import CostProfile
from loadtest.report import Result, markdown_lines

PASSED, FAILED, BROKEN, CUT, NOT_RUN = "passed", "FAILED", "BROKEN", "cut short", "not run"


@dataclass(frozen=True)
class Check:
    """One comparison with the CPU or with a definition. `figures` say by how much it passed or failed."""

    name: str
    passed: bool
    figures: dict[str, Any]


@dataclass
class Section:
    """What one section found. `deadline` is when it should end, by time.monotonic().

    `error` is the exception that broke it; `skipped` names what was not measured, mostly since time was over.
    """

    name: str
    title: str
    deadline: float
    ran: bool = False
    seconds: float = 0.0
    peak_bytes: int = 0  # of the device's memory; 0 on a CPU
    checks: list[Check] = field(default_factory=list)
    tables: list[Result] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    error: str = ""

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self.deadline

    def check(self, name: str, passed: bool, **figures: Any) -> None:
        self.checks.append(Check(name, bool(passed), figures))

    @property
    def outcome(self) -> str:
        if self.error:
            return BROKEN
        if not all(check.passed for check in self.checks):
            return FAILED
        if not self.ran:
            return NOT_RUN
        return CUT if self.skipped else PASSED

    @property
    def document(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "outcome": self.outcome,
            "seconds": self.seconds,
            "peak_bytes": self.peak_bytes,
            "checks": [asdict(check) | {"figures": _finite(check.figures)} for check in self.checks],
            "tables": [{"title": table.title} | table.document | {"notes": table.notes} for table in self.tables],
            "notes": self.notes,
            "skipped": self.skipped,
            "error": self.error,
        }


@dataclass(frozen=True)
class Report:
    """All of it. `machine` includes commit and date; `must_run` are the sections that compare with the CPU."""

    machine: Mapping[str, Any]
    sections: list[Section]
    must_run: frozenset[str]
    profiles: dict[str, CostProfile]  # what `bench policy --steps` reads, by name

    @property
    def problems(self) -> list[str]:
        """Why the machine does not qualify; empty if it does."""
        found: list[str] = []
        for section in self.sections:
            found += [f"{section.name}: {check.name}" for check in section.checks if not check.passed]
            if section.error:
                found.append(f"{section.name} broke: {section.error.splitlines()[-1]}")
            elif section.name in self.must_run and not section.ran:
                found.append(f"{section.name} did not run")
        return found

    @property
    def document(self) -> dict[str, Any]:
        profiles = {
            name: {"steps": profile.steps, "forwards": profile.forwards} for name, profile in self.profiles.items()
        }
        return {
            "qualified": not self.problems,
            "problems": self.problems,
            "machine": dict(self.machine),
            "sections": [section.document for section in self.sections],
            "profiles": profiles,
        }

    @property
    def markdown(self) -> str:
        lines = ["# GPU check", "", self.verdict, ""]
        lines += ["| machine | |", "|---|---|", *(f"| {name} | {value} |" for name, value in self.machine.items())]
        lines += ["", "| section | outcome | checks | seconds | peak GB |", "|---|---|--:|--:|--:|"]
        for section in self.sections:
            passed = sum(check.passed for check in section.checks)
            checks = f"{passed} of {len(section.checks)}" if section.checks else "-"
            peak = f"{section.peak_bytes / 1e9:.1f}" if section.peak_bytes else "-"
            lines.append(f"| {section.title} | {section.outcome} | {checks} | {section.seconds:.1f} | {peak} |")
        for section in self.sections:
            lines += _section_lines(section)
        return "\n".join(lines) + "\n"

    @property
    def verdict(self) -> str:
        if self.problems:
            return "NOT qualified: " + "; ".join(self.problems)
        cut = [section.name for section in self.sections if section.outcome in (CUT, NOT_RUN)]
        return "Qualified." + (f" Cut short by time: {', '.join(cut)}." if cut else "")


def _section_lines(section: Section) -> list[str]:
    lines: list[str] = []
    if section.checks:
        lines += ["", "| check | outcome | figures |", "|---|---|---|"]
    for check in section.checks:
        figures = ", ".join(f"{name.replace('_', ' ')} {_figure(value)}" for name, value in check.figures.items())
        lines.append(f"| {check.name} | {PASSED if check.passed else FAILED} | {figures} |")
    for table in section.tables:
        lines += markdown_lines(table)
    if section.notes:
        lines += ["", *(f"- {note}" for note in section.notes)]
    if section.skipped:
        lines += ["", f"Not measured: {', '.join(section.skipped)}."]
    if section.error:
        lines += ["", "```", section.error, "```"]
    return ["", f"## {section.title}", *lines] if lines else []


def _finite(figures: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has neither infinity nor NaN: they become strings."""
    return {
        name: str(value) if isinstance(value, float) and not isfinite(value) else value
        for name, value in figures.items()
    }


def _figure(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
