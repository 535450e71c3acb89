"""`bench link`: tokens' spacing and the target's steps against the round trip to the agent, for four ways of drafting.

Time is virtual (virtual_link.py), since a kernel's delay is not to be had everywhere; what steps and looks take is
measured here with the demo pair, or, for the machines of SpecEdge's paper, computed from their memory bandwidth. Drafts
are the demo pair's in both cases. The round schemes get the number of looks a round that is best at that delay.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from edge_agent.drafters.interface import Drafter, DraftRequest, Proposal
from edge_agent.drafters.loading import load_drafters
from edge_agent.drafting.draft_threshold import DraftThreshold
from edge_agent.settings import AgentSettings
from edgedraft.local.demo_model import DEMO_MODEL
from edgedraft.observability.progress import progress
from loadtest.report import Result
from loadtest.settings import BenchSettings
from loadtest.trace import Conversation, load
from loadtest.virtual_link import (
    GREEDY,
    Guess,
    Machine,
    Outcome,
    Playback,
    alone,
    rounds,
    scheduler_of,
    streaming,
)
from verifier.engine.target import load_target
from verifier.engine.transformers_engine import TransformersEngine
from verifier.engine_loop import warm_up
from verifier.scheduling.step_costs import StepCosts
from verifier.settings import VerifierSettings

TRIPS = (0.0, 0.015, 0.05, 0.1)  # seconds
LOOKS = (1, 2, 3, 4, 6, 8, 12)
WAYS = ("datacenter-only", "stop and wait", "one proactive round", "streaming")
# Qwen3-32B in bfloat16 at an A100's 2.0 TB/s, and Qwen3-1.7B at an RTX 4090's 1.0 TB/s, a quarter added to both.
# Up to about 200 rows the A100 computes no longer than it reads.
PAPER = Machine("A100, 32B; RTX 4090, 1.7B", lambda rows: 0.041, 0.0043)


def link(settings: BenchSettings) -> Result:
    """Every way at every delay over the recorded chats, one at a time."""
    chats = load()
    remembered = Remembered(settings)
    steps = _measured_steps(settings)
    with progress("drafting, to see how long it takes"):
        remembered.measure(chats[:4])
    machines = [Machine("this one, the demo pair", steps, remembered.look), PAPER]
    rows: list[dict[str, Any]] = []
    with progress("playing", len(machines) * len(TRIPS), "delays") as advance:
        for machine in machines:
            for trip in TRIPS:
                rows += [_row(machine, trip, way, runs) for way, runs in _ways(chats, machine, trip, remembered)]
                advance(note=f"{machine.name}, {1e3 * trip:.0f} ms")
    return Result(
        "spacing of tokens against the round trip to the agent, in virtual time",
        rows,
        _ratios(rows, [machine.name for machine in machines]),
        {
            "draft": remembered.description,
            "look_ms": {machine.name: 1e3 * machine.look for machine in machines},
            "step_ms": {m.name: {n: 1e3 * m.step(n) for n in (1, 4, 8, 16, 32)} for m in machines},
            "dtype": settings.dtype,
            "threads": settings.threads,
            "chats": len(chats),
        },
        [
            f"{machine.name}: a step {1e3 * machine.step(1):.1f} ms, with 8 nodes {1e3 * machine.step(9):.1f}; "
            f"a look of the draft model {1e3 * machine.look:.1f} ms"
            for machine in machines
        ],
    )


class Remembered:
    """The draft model's guesses, each computed once."""

    def __init__(self, settings: BenchSettings) -> None:
        armoury = load_drafters(
            AgentSettings.model_validate(
                {"url": "-", "key": "-", "prompt_lookup": False, "past_outputs": False, "threads": settings.threads}
            )
        )
        self.description = armoury.description
        self.look = 0.0
        self._drafter: Drafter = armoury.new_drafter(1 << 31)
        self._drafter.open(1)
        self._known: dict[tuple[int, ...], Proposal] = {}

    def __call__(self, point: DraftRequest) -> Proposal:
        context = tuple(point.context)
        while context not in self._known:
            [guesses] = self._drafter.propose(
                [DraftRequest(1, point.context, point.num_committed, point.output_index, point.sampling)]
            )
            if guesses.complete:
                self._known[context] = guesses
        return self._known[context]

    def measure(self, chats: Sequence[Conversation]) -> None:
        """What a look takes, one token further down a text."""
        took: list[float] = []
        for chat in chats:
            for at in range(len(chat.text)):
                known = [*chat.prompt, *chat.text[:at]]
                began = time.perf_counter()
                self(DraftRequest(1, known, len(known), at, GREEDY))
                if at:
                    took.append(time.perf_counter() - began)
        self.look = median(took)


def _measured_steps(settings: BenchSettings) -> Callable[[int], float]:
    """Seconds of the demo target's steps by their rows, as a verifier measures them when it starts."""
    model, card = load_target(
        VerifierSettings.model_validate(
            {"model": DEMO_MODEL, "device": "cpu", "dtype": settings.dtype, "threads": settings.threads}
        )
    )
    costs = StepCosts()
    for _ in range(5):
        warm_up(TransformersEngine(model, card.vocab_size, card.context_length, 1), costs)
    return costs.seconds


def _ways(
    chats: Sequence[Conversation], machine: Machine, trip: float, guess: Guess
) -> list[tuple[str, list[Outcome]]]:
    """Each way over all chats."""
    engine = Playback()
    scheduler, pace = scheduler_of(engine, machine), DraftThreshold()
    return [
        (WAYS[0], [alone(chat, machine) for chat in chats]),
        (WAYS[1], _best_rounds(chats, machine, trip, guess, proactive=False)),
        (WAYS[2], _best_rounds(chats, machine, trip, guess, proactive=True)),
        (WAYS[3], [streaming(chat, machine, trip, guess, engine, scheduler, pace) for chat in chats]),
    ]


def _best_rounds(
    chats: Sequence[Conversation], machine: Machine, trip: float, guess: Guess, proactive: bool
) -> list[Outcome]:
    """The number of looks a round with which tokens follow each other fastest."""
    tried = [[rounds(chat, machine, trip, looks, guess, proactive) for chat in chats] for looks in LOOKS]
    return min(tried, key=_gap)


def _gap(runs: Sequence[Outcome]) -> float:
    """Seconds between two tokens."""
    return sum(run.seconds for run in runs) / sum(run.gaps for run in runs)


def _row(machine: Machine, trip: float, way: str, runs: Sequence[Outcome]) -> dict[str, Any]:
    return {
        "machine": machine.name,
        "round_trip_ms": round(1e3 * trip),
        "way": way,
        "inter-token_ms": 1e3 * _gap(runs),
        "tokens_per_verify": sum(run.tokens for run in runs) / sum(run.steps for run in runs),
    }


def _ratios(rows: Sequence[dict[str, Any]], machines: Sequence[str]) -> dict[str, float]:
    found = {(row["machine"], row["round_trip_ms"], row["way"]): row for row in rows}
    ratios: dict[str, float] = {}
    for machine in machines:
        for trip in (round(1e3 * trip) for trip in TRIPS):
            ours = found[machine, trip, WAYS[3]]
            for way in WAYS[:3]:
                name = f"inter-token_ms_streaming_over_{way}_at_{trip}_ms,_{machine}"
                ratios[name] = ours["inter-token_ms"] / found[machine, trip, way]["inter-token_ms"]
        near, far = found[machine, 0, WAYS[3]], found[machine, 50, WAYS[3]]
        name = f"tokens_per_verify_streaming_at_50_ms_over_0_ms,_{machine}"
        ratios[name] = far["tokens_per_verify"] / near["tokens_per_verify"]
    return ratios
