"""The size of a service for a number of agents, computed: how many gateways and verifiers, and the cost of a stream.

`StreamRates` come from the token-by-token simulation (cell.py); the rest is arithmetic on measured costs. How many
commits share a frame depends on the number of gateways and verifiers, which depends on the cost of a commit, so both
are found together.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from loadtest.scale.costs import Costs
from verifier.scheduling.step_costs import StepCosts

TARGET_UTILIZATION = 0.6  # of a gateway's core
IDLE_SHARE = 1 - TARGET_UTILIZATION  # share of arriving messages that wake an idle gateway
ANSWER_TOKENS = 338  # ShareGPT's mean (Kwon et al. 2023, arXiv 2309.06180)
MOST_SESSIONS = 64  # per verifier, its default


@dataclass(frozen=True)
class Assumptions:
    """`active_share` of attached agents belong to an owner with a stream; `tokens_per_second` is a stream's rate."""

    active_share: float
    tokens_per_second: float
    attached_seconds: float = 8 * 3600.0  # mean time that an agent stays attached

    @property
    def stream_seconds(self) -> float:
        return ANSWER_TOKENS / self.tokens_per_second


@dataclass(frozen=True)
class StreamRates:
    """Of an edge stream, per commit: tokens, verified nodes, frames of drafts, and drafts beyond one per frame."""

    tokens: float
    nodes: float
    draft_frames: float
    extra_drafts: float = 0.0


@dataclass(frozen=True)
class ServiceSize:
    """`home` and `host`: cores that a stream takes of its home, and of a gateway that hosts its agent remotely."""

    agents: int
    streams: int
    gateways: int
    verifiers: int
    commits_per_frame: float
    home: float
    host: float


def sessions_per_verifier(rates: StreamRates, steps: StepCosts, tokens_per_second: float) -> int:
    """The most sessions that still get tokens at that rate, at least one."""
    fitting = [
        n
        for n in range(1, MOST_SESSIONS + 1)
        if steps.seconds(ceil(n * (1 + rates.nodes))) <= rates.tokens / tokens_per_second
    ]
    return max(fitting, default=1)


def commits_per_frame(sessions: float, gateways: int) -> float:
    """The mean for a step of so many sessions that are spread over the gateways at random."""
    return sessions / gateways / (1 - (1 - 1 / gateways) ** sessions) if gateways > 1 else max(1.0, sessions)


def size_service(
    agents: int, assumptions: Assumptions, rates: StreamRates, steps: StepCosts, costs: Costs
) -> ServiceSize:
    """The smallest service whose gateways are at TARGET_UTILIZATION on average, if its stores take any load."""
    streams = max(1, round(agents * assumptions.active_share))
    verifiers = ceil(streams / sessions_per_verifier(rates, steps, assumptions.tokens_per_second))
    gateways = 1
    while True:
        found = _with_gateways(gateways, agents, streams, verifiers, assumptions, rates, costs)
        needed = ceil(busy_cores(found, assumptions, costs) / TARGET_UTILIZATION)
        if needed <= gateways:
            return found
        gateways = needed


def busy_cores(size: ServiceSize, assumptions: Assumptions, costs: Costs) -> float:
    """Cores that all gateways together keep busy."""
    remote = size.streams * (1 - 1 / size.gateways)
    requests_per_second = size.streams / assumptions.stream_seconds
    return (
        size.gateways * costs.second
        + size.agents * costs.agent
        + requests_per_second * costs.request
        + size.streams * size.home
        + remote * size.host
    )


def _with_gateways(
    gateways: int,
    agents: int,
    streams: int,
    verifiers: int,
    assumptions: Assumptions,
    rates: StreamRates,
    costs: Costs,
) -> ServiceSize:
    per_frame = commits_per_frame(streams / verifiers, gateways)
    commits = assumptions.tokens_per_second / rates.tokens
    remote_share = 1 - 1 / gateways
    drafts = rates.draft_frames * costs.draft + rates.extra_drafts * costs.extra_draft
    remote_drafts = rates.draft_frames * costs.remote_draft + rates.extra_drafts * costs.remote_extra_draft
    remote = (costs.remote_agent_commit + remote_drafts) / 2
    wakes = 1 / per_frame + rates.draft_frames
    home = commits * (costs.frame / per_frame + costs.commit + costs.agent_commit + drafts + remote_share * remote)
    home += commits * IDLE_SHARE * wakes * costs.wake
    host = commits * (remote + IDLE_SHARE * (1 + rates.draft_frames) * costs.wake)
    return ServiceSize(agents, streams, gateways, verifiers, per_frame, home, host)
