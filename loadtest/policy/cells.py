"""The grid: acceptance, round trip, draft forward, streams and step costs of each cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from loadtest.policy.cost_profile import make_step_costs, read_profile
from loadtest.settings import BenchSettings
from loadtest.simulator.profiles import a100_steps, h100_steps
from loadtest.specedge.systems import Costs
from verifier.scheduling.step_costs import StepCosts

# Seconds of the demo target by rows, measured in float32 on one core (AVX2); a draft forward takes DEMO_DRAFT of them.
DEMO_STEPS = {
    1: 0.0245,
    2: 0.0255,
    4: 0.029,
    8: 0.036,
    16: 0.05,
    32: 0.08,
    64: 0.145,
    128: 0.28,
    256: 0.55,
}
DEMO_DRAFT = 0.3
# Parameters of Qwen3's targets and drafts, and the draft of each target where none is named.
TARGETS = {"14b": 14.8e9, "32b": 32.8e9}
DRAFTS = {"0.6b": 0.6e9, "1.7b": 1.7e9, "8b": 8.2e9}
USUAL_DRAFTS = {"14b": "0.6b", "32b": "1.7b"}
GPUS: dict[str, Callable[[float], StepCosts]] = {"a100": a100_steps, "h100": h100_steps}


@dataclass(frozen=True)
class ServerLoad:
    """What the systems without devices depend on. `steps` names the step costs (step_costs)."""

    steps: str
    acceptance: float
    streams: int

    @property
    def steps_title(self) -> str:
        """The step costs' name, without folder and ending where they are in a file."""
        return Path(self.steps).stem


@dataclass(frozen=True)
class BiggerDraft:
    """A draft model that only devices have: its acceptance, and its forward in milliseconds."""

    acceptance: float
    draft_ms: float


@dataclass(frozen=True)
class Cell:
    """A load and its devices: round trip and draft forward in milliseconds.

    With `bigger` devices draft with that one, and the server with the load's.
    """

    load: ServerLoad
    round_trip: float
    draft_ms: float
    bigger: BiggerDraft | None = None

    @property
    def name(self) -> str:
        streams = "1 stream" if self.load.streams == 1 else f"{self.load.streams} streams"
        return (
            f"{self.load.steps_title}, acceptance {self.load.acceptance:g}, {self.round_trip:g} ms away, "
            f"{self.draft_ms:g} ms per draft forward, {streams}"
        )


def cells_by_load(settings: BenchSettings) -> list[list[Cell]]:
    """The cells of the settings' grid; those in a list have the same ServerLoad."""
    loads = product(settings.steps, settings.acceptance, settings.streams)
    return [
        [Cell(ServerLoad(*load), *device) for device in product(settings.round_trips, settings.draft_ms)]
        for load in loads
    ]


def step_costs(name: str) -> Costs:
    """Step costs of a target and of its draft on the same server.

    `cpu`, or a GPU and the target's size as in `a100-32b`, or the draft's too as in `a100-32b-8b`, or a file of
    cost_profile.py. Raises ValueError for a file without costs.
    """
    if name.endswith(".json"):
        return read_profile(Path(name)).costs
    if name == "cpu":
        return Costs(_measured(1.0), _measured(DEMO_DRAFT))
    gpu, target, *draft = name.split("-")
    [drafted] = draft or [USUAL_DRAFTS[target]]
    return Costs(GPUS[gpu](TARGETS[target]), GPUS[gpu](DRAFTS[drafted]))


def _measured(share: float) -> StepCosts:
    return make_step_costs({rows: share * seconds for rows, seconds in DEMO_STEPS.items()})


def names(cells: Sequence[Cell]) -> str:
    """The load that these cells share, for progress."""
    load = cells[0].load
    return f"{load.steps_title}, acceptance {load.acceptance:g}, {load.streams} streams"
