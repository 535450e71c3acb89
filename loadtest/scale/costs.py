"""What one of everything costs a gateway in CPU seconds: fitted to runs of which each had more of something.

Every run is weighed by its own total, so that a percent of a small one counts as much as one of a large one. A cost
cannot be negative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from scipy.optimize import nnls


@dataclass(frozen=True)
class Counts:
    """How much of everything there was in a run; `Costs` has the same names and says what each is."""

    second: float = 0.0
    wake: float = 0.0
    request: float = 0.0
    frame: float = 0.0
    commit: float = 0.0
    told: float = 0.0
    draft: float = 0.0
    another: float = 0.0
    lent_told: float = 0.0
    lent_draft: float = 0.0
    lent_another: float = 0.0
    agent: float = 0.0


@dataclass(frozen=True)
class Costs:
    """CPU seconds a piece."""

    second: float  # of being there, with its stores and verifiers
    wake: float  # of coming back from having nothing to do: the more there is, the less often that happens
    request: float  # from its bytes to its last, tokens left out
    frame: float  # of commits from a verifier
    commit: float  # in such a frame, and its event for the client
    told: float  # a commit that is passed on to an agent
    draft: float  # a frame of an agent with one draft, checked and passed on to a verifier
    another: float  # each further draft in the same frame
    lent_told: float  # what that takes more where the agent is another replica's, on both together
    lent_draft: float
    lent_another: float
    agent: float  # an attached agent that does nothing, for a second

    def seconds(self, counts: Counts) -> float:
        return sum(getattr(self, name) * getattr(counts, name) for name in NAMES)


NAMES = tuple(field.name for field in fields(Counts))


@dataclass(frozen=True)
class Run:
    """One measured run: what there was, and the CPU seconds of gateways and of the load's own process."""

    name: str
    counts: Counts
    gateway: float
    load: float


def fit(runs: Sequence[Run], of: str = "gateway") -> Costs:
    """Least squares with no negative cost."""
    spent = np.array([max(1e-3, getattr(run, of)) for run in runs])
    counts = np.array([[getattr(run.counts, name) for name in NAMES] for run in runs])
    found, _ = nnls(counts / spent[:, None], np.ones(len(runs)))
    return Costs(*(float(cost) for cost in found))


def error(costs: Costs, runs: Sequence[Run], of: str = "gateway") -> float:
    """The median over runs of how far the fit is off, as a share."""
    return float(np.median([abs(costs.seconds(run.counts) / max(1e-3, getattr(run, of)) - 1) for run in runs]))
