"""A gateway's CPU seconds per event, fitted to runs that each have more of some events than the others.

Every run is weighted by its own total, so that one percent of a small run counts as much as one percent of a large one.
Costs cannot be negative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from scipy.optimize import nnls


@dataclass(frozen=True)
class Counts:
    """How often each event occurred in a run; `Costs` has the same fields and describes them."""

    second: float = 0.0
    wake: float = 0.0
    request: float = 0.0
    frame: float = 0.0
    commit: float = 0.0
    agent_commit: float = 0.0
    draft: float = 0.0
    extra_draft: float = 0.0
    remote_agent_commit: float = 0.0
    remote_draft: float = 0.0
    remote_extra_draft: float = 0.0
    agent: float = 0.0


@dataclass(frozen=True)
class Costs:
    """CPU seconds per event."""

    second: float  # of running, with stores and verifiers connected
    wake: float  # returning from idle; under load it happens less often
    request: float  # from its first byte to its last, without its tokens
    frame: float  # of commits from a verifier
    commit: float  # in such a frame, with its event for the client
    agent_commit: float  # a commit passed on to an agent
    draft: float  # an agent's frame with one draft, checked and passed on to a verifier
    extra_draft: float  # each further draft in the same frame
    remote_agent_commit: float  # the extra cost where another replica hosts the agent, on both replicas together
    remote_draft: float
    remote_extra_draft: float
    agent: float  # an idle attached agent, per second

    def seconds(self, counts: Counts) -> float:
        return sum(getattr(self, name) * getattr(counts, name) for name in NAMES)


NAMES = tuple(field.name for field in fields(Counts))


@dataclass(frozen=True)
class Run:
    """One measured run: its events, and the CPU seconds of the gateways and of the load generator's process."""

    name: str
    counts: Counts
    gateway: float
    load: float


def fit(runs: Sequence[Run], of: str = "gateway") -> Costs:
    """Non-negative least squares over the runs' `of` seconds ("gateway" or "load")."""
    spent = np.array([max(1e-3, getattr(run, of)) for run in runs])
    counts = np.array([[getattr(run.counts, name) for name in NAMES] for run in runs])
    found, _ = nnls(counts / spent[:, None], np.ones(len(runs)))
    return Costs(*(float(cost) for cost in found))


def error(costs: Costs, runs: Sequence[Run], of: str = "gateway") -> float:
    """The median over runs of the fit's relative error."""
    return float(np.median([abs(costs.seconds(run.counts) / max(1e-3, getattr(run, of)) - 1) for run in runs]))
