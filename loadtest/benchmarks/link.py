"""`bench link`: inter-token latency and tokens per verify against the round-trip time, for four systems.

Simulated in virtual time, one stream at a time over the recorded chats (workloads/trace.py). Steps and draft forwards
take what is measured here with the demo pair or, for the hardware of SpecEdge's paper, what their memory bandwidth
allows. Drafts are the draft model's alone, without prompt lookup, in both cases. The systems that draft in rounds get
the depth that is best at that round-trip time. Links have a round-trip time and nothing else: no jitter, loss or
bandwidth limit; prompts cost nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edgedraft.local.demo_model import DEMO_MODEL
from edgedraft.observability.progress import progress
from loadtest.report import Result
from loadtest.settings import BenchSettings
from loadtest.simulator.clock import Clock
from loadtest.simulator.draft_model import MemoizedDraftModel
from loadtest.simulator.load import Load, System, run
from loadtest.simulator.measurement import Measurement
from loadtest.simulator.profiles import DeviceProfile, EdgeProfile, LinkProfile
from loadtest.simulator.recorded_chats import RecordedChat, from_trace
from loadtest.simulator.systems.edgedraft import DatacenterOnly, EdgeDraft
from loadtest.simulator.systems.rounds import DraftRounds, RoundPlan
from loadtest.simulator.target import Target, live_target, measure_steps, recorded_target
from loadtest.simulator.verifier import LIMITS
from loadtest.workloads.trace import load_trace
from verifier.engine.target import load_target
from verifier.scheduling.step_costs import StepCosts
from verifier.settings import VerifierSettings

RTTS = (0.0, 0.015, 0.05, 0.1)  # seconds
DEPTHS = (1, 2, 3, 4, 6, 8, 12)
NODES = 32  # of a round's tree at most, as in SpecEdge
DATACENTER_ONLY, STOP_AND_WAIT, PROACTIVE, EDGEDRAFT = (
    "datacenter-only",
    "stop and wait",
    "one proactive round",
    "EdgeDraft",
)
SYSTEMS = (DATACENTER_ONLY, STOP_AND_WAIT, PROACTIVE, EDGEDRAFT)
KNOWN_ROWS = (1, 2, 4, 8, 16, 32, 64)
EVERY_CHAT = Load(1, once=True)


@dataclass(frozen=True)
class Hardware:
    """Seconds of a target step by rows, and of one draft forward."""

    name: str
    step_seconds: Callable[[int], float]
    forward_seconds: float

    @property
    def steps(self) -> StepCosts:
        costs = StepCosts()
        for rows in KNOWN_ROWS:
            costs.record(rows, self.step_seconds(rows))
        return costs


# Qwen3-32B in bfloat16 at an A100's 2.0 TB/s, and Qwen3-1.7B at an RTX 4090's 1.0 TB/s, plus a quarter each.
# Up to about 200 rows the A100 computes no longer than it reads.
PAPER = Hardware("A100, 32B; RTX 4090, 1.7B", lambda rows: 0.041, 0.0043)


def link(settings: BenchSettings) -> Result:
    """Every system at every round-trip time over the recorded chats, one at a time."""
    chats = from_trace(load_trace())
    model, card = load_target(
        VerifierSettings.model_validate(
            {"model": DEMO_MODEL, "device": "cpu", "dtype": settings.dtype, "threads": settings.threads}
        )
    )
    draft_model = MemoizedDraftModel(card.vocab_size, settings.threads)
    with progress("measuring steps and draft forwards"):
        steps = measure_steps(live_target(model, card))
        forward_seconds = draft_model.measure_forwards().seconds(1)
    every = [Hardware("this machine, the demo pair", steps.seconds, forward_seconds), PAPER]
    rows: list[dict[str, Any]] = []
    with progress("simulating", len(every) * len(RTTS), "round-trip times") as advance:
        for hardware in every:
            for rtt in RTTS:
                found = compare(chats, hardware, rtt, draft_model)
                rows += [_row(hardware, rtt, system, measured) for system, measured in found.items()]
                advance(note=f"{hardware.name}, {1e3 * rtt:.0f} ms")
    return Result(
        "inter-token latency against the round-trip time to the agent, in virtual time",
        rows,
        _ratios(rows, [hardware.name for hardware in every]),
        {
            "draft": draft_model.description,
            "draft_forward_ms": {hardware.name: 1e3 * hardware.forward_seconds for hardware in every},
            "step_ms": {h.name: {n: 1e3 * h.step_seconds(n) for n in (1, 4, 8, 16, 32)} for h in every},
            "dtype": settings.dtype,
            "threads": settings.threads,
            "chats": len(chats),
        },
        [
            f"{hardware.name}: a step {1e3 * hardware.step_seconds(1):.1f} ms, with 8 nodes "
            f"{1e3 * hardware.step_seconds(9):.1f}; a draft forward {1e3 * hardware.forward_seconds:.1f} ms"
            for hardware in every
        ],
    )


def compare(
    chats: Sequence[RecordedChat], hardware: Hardware, rtt: float, draft_model: MemoizedDraftModel
) -> dict[str, Measurement]:
    """Each system's measurement over all chats."""
    device = DeviceProfile(hardware.name, hardware.forward_seconds, "", prefill_tokens=math.inf)
    only_latency = LinkProfile("", rtt, uplink_bps=math.inf, downlink_bps=math.inf)
    edge = EdgeProfile(device, only_latency, draft_model, prompt_lookup=False)
    target, steps = recorded_target(chats, hardware.step_seconds, (), cached=True), hardware.steps
    systems: dict[str, System] = {
        DATACENTER_ONLY: DatacenterOnly(Clock(), target, steps),
        EDGEDRAFT: EdgeDraft(Clock(), target, steps, edge, limits=LIMITS),
    }
    found = {name: run(system, chats, EVERY_CHAT, seed=0) for name, system in systems.items()}
    for name, proactive in ((STOP_AND_WAIT, False), (PROACTIVE, True)):
        found[name] = _best_rounds(chats, target, steps, edge, proactive)
    return {name: found[name] for name in SYSTEMS}


def _best_rounds(
    chats: Sequence[RecordedChat], target: Target, steps: StepCosts, edge: EdgeProfile, proactive: bool
) -> Measurement:
    """The measurement with the depth that gives the lowest inter-token latency."""
    plans = [RoundPlan(depth, NODES, proactive) for depth in DEPTHS]
    tried = [run(DraftRounds(Clock(), target, steps, edge, plan), chats, EVERY_CHAT, seed=0) for plan in plans]
    return min(tried, key=lambda measured: measured.mean_inter_token)


def _row(hardware: Hardware, rtt: float, system: str, measured: Measurement) -> dict[str, Any]:
    return {
        "hardware": hardware.name,
        "rtt_ms": round(1e3 * rtt),
        "system": system,
        "inter_token_ms": 1e3 * measured.mean_inter_token,
        "tokens_per_verify": measured.tokens_per_verify,
    }


def _ratios(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, float]:
    found = {(row["hardware"], row["rtt_ms"], row["system"]): row for row in rows}
    ratios: dict[str, float] = {}
    for hardware in names:
        for rtt in (round(1e3 * rtt) for rtt in RTTS):
            ours = found[hardware, rtt, EDGEDRAFT]
            for system in SYSTEMS[:3]:
                name = f"inter_token_ms_{EDGEDRAFT}_over_{system}_at_{rtt}_ms,_{hardware}"
                ratios[name] = ours["inter_token_ms"] / found[hardware, rtt, system]["inter_token_ms"]
        near, far = found[hardware, 0, EDGEDRAFT], found[hardware, 50, EDGEDRAFT]
        name = f"tokens_per_verify_{EDGEDRAFT}_at_50_ms_over_0_ms,_{hardware}"
        ratios[name] = far["tokens_per_verify"] / near["tokens_per_verify"]
    return ratios
