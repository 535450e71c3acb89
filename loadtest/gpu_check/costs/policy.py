"""`bench policy` on the measured costs: EdgeDraft, rounds, speculation beside the target, and the target alone.

Each cell runs in a process of its own, so that all of the machine's processors take part and time is kept. Its time is
virtual: nothing of it uses the device.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from edgedraft.child_process import minimal_environment, python_command
from loadtest.gpu_check.costs.target import StepTimes
from loadtest.gpu_check.costs.timing import ForwardTimes
from loadtest.gpu_check.machine import ROOT
from loadtest.gpu_check.report import Section
from loadtest.policy.cost_profile import CostProfile, write_profile
from loadtest.report import Result
from loadtest.specedge.systems import SYSTEMS

EDGEDRAFT = SYSTEMS["edgedraft"]


@dataclass(frozen=True)
class Cells:
    """What `bench policy` runs: its flags, and streams."""

    flags: tuple[str, ...]
    streams: Sequence[int]

    @property
    def note(self) -> str:
        return " ".join(self.flags)


DEVICE = ("--acceptance", "0.75", "--round-trips", "15", "--draft-ms", "3", "--repeats", "1")
FULL = Cells(DEVICE, (4, 16, 1))
TINY = Cells((*DEVICE, "--short"), (4,))


def make_profiles(
    name: str, steps: Mapping[int, StepTimes], forwards: Mapping[int, ForwardTimes]
) -> dict[str, CostProfile]:
    """Costs as they are, and with graphs of the steps where those were timed. Empty without measurements."""
    if not steps or not forwards:
        return {}
    drafts = {rows: found.forward if found.replayed is None else found.replayed for rows, found in forwards.items()}
    plain = {rows: found.step for rows, found in steps.items()}
    graphs = {
        rows: found.step - found.forward + min(found.forward, found.replayed)
        for rows, found in steps.items()
        if found.forward is not None and found.replayed is not None
    }
    profiles = {name: CostProfile(plain, drafts)}
    return profiles | ({f"{name}-graphs": CostProfile(plain | graphs, drafts)} if graphs else {})


def run_policy(section: Section, profiles: Mapping[str, CostProfile], cells: Cells) -> None:
    """A row for each profile and number of streams; both sides of each ratio are in it."""
    if not profiles:
        section.skipped.append("all cells, since no costs were measured")
        return
    with tempfile.TemporaryDirectory(prefix="edgedraft-gpu-check-") as folder:
        for name, profile in profiles.items():
            write_profile(profile, Path(folder) / f"{name}.json")
        wanted = [(name, streams) for streams, name in product(cells.streams, profiles)]
        with ThreadPoolExecutor(max(1, os.cpu_count() or 1)) as pool:
            found = list(pool.map(lambda cell: _run_cell(section, Path(folder), cell[0], cell[1], cells), wanted))
    rows: list[dict[str, Any]] = []
    for (name, streams), rates in zip(wanted, found, strict=True):
        if rates is None:
            section.skipped.append(f"{name}, {streams} streams")
        else:
            over = {f"over_{title}": rates[EDGEDRAFT] / rate for title, rate in rates.items() if title != EDGEDRAFT}
            rows.append({"costs": name, "streams": streams} | rates | over)
    if rows:
        notes = [
            f"bench policy {cells.note} --streams N --steps FILE; virtual time",
            "over: EdgeDraft's tokens per second over that system's",
            "draft forwards of speculation beside the target are those from a CUDA graph, where it could be captured; "
            "costs named -graphs also take the target's steps of few rows from one, which takes --cuda-graphs",
        ]
        section.tables.append(Result("tokens per second of the server on the measured costs", rows, {}, {}, notes))


def _run_cell(section: Section, folder: Path, name: str, streams: int, cells: Cells) -> dict[str, float] | None:
    """Tokens per second by system; None where the section's time is over. Raises RuntimeError where it fails."""
    left = section.deadline - time.monotonic()
    if left <= 0:
        return None
    answer = folder / f"{name}-{streams}-answer.json"
    command = python_command("edgedraft.cli", "bench", "policy", *cells.flags, "--streams", str(streams))
    command += ["--steps", str(folder / f"{name}.json"), "--systems", ",".join(SYSTEMS), "--json", str(answer)]
    environment = minimal_environment()
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), environment.get("PYTHONPATH"))))
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=left, env=environment)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode != 0:
        raise RuntimeError(f"bench policy ended with {done.returncode}: {done.stderr[-2000:]}")
    return {row["system"]: row["tokens_per_s"] for row in json.loads(answer.read_text())["rows"]}
