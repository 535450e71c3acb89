"""A service of any size on paper: how many gateways and verifiers it takes, and what one stream costs whom.

`Stream` is what the simulation token by token tells of a stream; the rest is arithmetic on measured costs. How many
commits come in a frame depends on the number of gateways and verifiers, which depends on what a commit costs: so both
are found together.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from loadtest.scale.costs import Costs
from verifier.scheduling.step_costs import StepCosts

AIM = 0.6  # of a core that a gateway is to be busy at most
RESTING = 1 - AIM  # share of what comes that finds it at rest, and wakes it
ANSWER = 338  # tokens, ShareGPT's mean (Kwon et al. 2023, arXiv 2309.06180)
MOST_SESSIONS = 64  # of a verifier, its default


@dataclass(frozen=True)
class Assumed:
    """`share` of attached agents whose owner has a stream, `pace` in tokens a second of a stream."""

    share: float
    pace: float
    attached: float = 8 * 3600.0  # seconds that an agent stays, on average

    @property
    def lasts(self) -> float:
        """Seconds of a stream."""
        return ANSWER / self.pace


@dataclass(frozen=True)
class Stream:
    """Of an edge stream: tokens a commit, nodes checked in one, frames of drafts a commit, and drafts beyond those."""

    tokens: float
    nodes: float
    drafts: float
    more: float = 0.0


@dataclass(frozen=True)
class Service:
    """Sizes, and the CPU seconds a second that a stream takes of its home and of a gateway that lends it its agent."""

    agents: int
    streams: int
    gateways: int
    verifiers: int
    commits_a_frame: float
    home: float
    lender: float


def sessions_of_a_verifier(stream: Stream, steps: StepCosts, pace: float) -> int:
    """As many as still get tokens at that pace, one at least."""
    fits = [
        n for n in range(1, MOST_SESSIONS + 1) if steps.seconds(ceil(n * (1 + stream.nodes))) <= stream.tokens / pace
    ]
    return max(fits, default=1)


def commits_a_frame(sessions: float, gateways: int) -> float:
    """Of a step of so many sessions that are spread over gateways by chance."""
    return sessions / gateways / (1 - (1 - 1 / gateways) ** sessions) if gateways > 1 else max(1.0, sessions)


def service(agents: int, assumed: Assumed, stream: Stream, steps: StepCosts, costs: Costs) -> Service:
    """The smallest that keeps gateways at AIM on average, its stores unasked."""
    streams = max(1, round(agents * assumed.share))
    verifiers = ceil(streams / sessions_of_a_verifier(stream, steps, assumed.pace))
    gateways = 1
    while True:
        found = _with(gateways, agents, streams, verifiers, assumed, stream, costs)
        needed = ceil(busy(found, assumed, costs) / AIM)
        if needed <= gateways:
            return found
        gateways = needed


def busy(of: Service, assumed: Assumed, costs: Costs) -> float:
    """Cores that all gateways are busy with."""
    lent = of.streams * (1 - 1 / of.gateways)
    requests = of.streams / assumed.lasts
    return (
        of.gateways * costs.second
        + of.agents * costs.agent
        + requests * costs.request
        + of.streams * of.home
        + lent * of.lender
    )


def _with(
    gateways: int, agents: int, streams: int, verifiers: int, assumed: Assumed, stream: Stream, costs: Costs
) -> Service:
    a_frame = commits_a_frame(streams / verifiers, gateways)
    commits = assumed.pace / stream.tokens
    lent = 1 - 1 / gateways
    drafts = stream.drafts * costs.draft + stream.more * costs.another
    borrowed = (costs.lent_told + stream.drafts * costs.lent_draft + stream.more * costs.lent_another) / 2
    wakes = 1 / a_frame + stream.drafts
    home = commits * (costs.frame / a_frame + costs.commit + costs.told + drafts + lent * borrowed)
    home += commits * RESTING * wakes * costs.wake
    lender = commits * (borrowed + RESTING * (1 + stream.drafts) * costs.wake)
    return Service(agents, streams, gateways, verifiers, a_frame, home, lender)
