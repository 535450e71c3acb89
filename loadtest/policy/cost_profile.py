"""Step costs in a file: what `edgedraft gpu-check` measures and `bench policy --steps FILE.json` reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from loadtest.specedge.systems import Costs
from verifier.scheduling.step_costs import MAX_RECORDED_ROWS, StepCosts


class CostProfile(msgspec.Struct, frozen=True):
    """Seconds by rows: of the target's steps, and of a draft model's forwards on the same server."""

    steps: dict[int, float]
    forwards: dict[int, float]

    @property
    def costs(self) -> Costs:
        return Costs(make_step_costs(self.steps), make_step_costs(self.forwards))


def make_step_costs(seconds: Mapping[int, float]) -> StepCosts:
    """StepCosts of measured steps; those of more rows than it records are extrapolated."""
    costs = StepCosts()
    for rows in sorted(seconds):
        costs.record(rows, seconds[rows])
    return costs


def write_profile(profile: CostProfile, file: Path) -> None:
    file.write_bytes(msgspec.json.format(msgspec.json.encode(profile)) + b"\n")


def read_profile(file: Path) -> CostProfile:
    """Raises ValueError for a file that has no costs of at least one size of steps and of forwards."""
    try:
        profile = msgspec.json.decode(file.read_bytes(), type=CostProfile)
    except (OSError, msgspec.DecodeError) as error:
        raise ValueError(f"{file} has no step costs: {error}") from None
    for seconds in (profile.steps, profile.forwards):
        if not any(0 < rows <= MAX_RECORDED_ROWS and taken > 0 for rows, taken in seconds.items()):
            raise ValueError(f"{file} has no step of 1 to {MAX_RECORDED_ROWS} rows")
    return profile
