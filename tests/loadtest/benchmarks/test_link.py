"""The systems of `bench link` on links of a given round-trip time."""

from __future__ import annotations

import math

import pytest

from edge_agent.drafters.interface import DraftRequest, Proposal
from edge_agent.drafters.lookup.prompt_lookup import PromptLookupDrafter
from loadtest.benchmarks.link import (
    DATACENTER_ONLY,
    EDGEDRAFT,
    EVERY_CHAT,
    PROACTIVE,
    STOP_AND_WAIT,
    Hardware,
    compare,
)
from loadtest.simulator.clock import Clock
from loadtest.simulator.draft_model import MemoizedDraftModel, PendingForward, position_of
from loadtest.simulator.load import run
from loadtest.simulator.measurement import Measurement
from loadtest.simulator.profiles import DeviceProfile, EdgeProfile, LinkProfile
from loadtest.simulator.recorded_chats import RecordedChat
from loadtest.simulator.systems.rounds import DraftRounds, RoundPlan
from loadtest.simulator.target import recorded_target
from loadtest.workloads.trace import GREEDY

TEXT = tuple(range(100, 160))
CHAT = RecordedChat(0, "", "", (1, 2, 3), GREEDY, len(TEXT), TEXT)
HARDWARE = Hardware("test", lambda rows: 0.04, 0.004)


class ScriptedModel(MemoizedDraftModel):
    """Proposes the right token and a wrong one beside it or, if `wrong`, a wrong one alone."""

    def __init__(self, wrong: bool = False) -> None:
        self._wrong = wrong

    def start_forward(
        self, chat: RecordedChat, request: DraftRequest, lookup: PromptLookupDrafter | None, model: bool = True
    ) -> PendingForward:
        return PendingForward(position_of(chat, request), Proposal())

    def finish_forward(self, pending: PendingForward) -> Proposal:
        assert pending.position
        _, right, wrong = pending.position
        if self._wrong:
            return Proposal((7,), (-1,), (0.9,))
        return Proposal((TEXT[right], 7), (-1, -1), (0.9, 0.05)) if not wrong and right < len(TEXT) else Proposal()


def compared(rtt: float, wrong: bool = False) -> dict[str, Measurement]:
    return compare([CHAT], HARDWARE, rtt, ScriptedModel(wrong))


def rounds(rtt: float, proactive: bool) -> Measurement:
    device = DeviceProfile("test", HARDWARE.forward_seconds, "", prefill_tokens=math.inf)
    link = LinkProfile("", rtt, uplink_bps=math.inf, downlink_bps=math.inf)
    edge = EdgeProfile(device, link, ScriptedModel(), prompt_lookup=False)
    target = recorded_target([CHAT], HARDWARE.step_seconds, (), cached=True)
    system = DraftRounds(Clock(), target, HARDWARE.steps, edge, RoundPlan(4, 32, proactive))
    return run(system, [CHAT], EVERY_CHAT, seed=0)


@pytest.mark.parametrize("rtt", [0.0, 0.015, 0.05, 0.1])
def test_every_system_produces_the_complete_text(rtt: float) -> None:
    for wrong in (False, True):
        found = compared(rtt, wrong)
        assert [measured.tokens for measured in found.values()] == [len(TEXT)] * 4


def test_right_drafts_save_steps_and_hide_the_round_trip() -> None:
    near, far = compared(0.0), compared(0.1)
    assert near[DATACENTER_ONLY].meters.verifies == len(TEXT)
    assert near[EDGEDRAFT].meters.verifies < len(TEXT) / 4
    assert far[EDGEDRAFT].mean_inter_token < far[STOP_AND_WAIT].mean_inter_token
    assert far[EDGEDRAFT].mean_inter_token < far[DATACENTER_ONLY].mean_inter_token


def test_wrong_drafts_cost_no_more_than_a_step() -> None:
    found = compared(0.05, wrong=True)
    assert found[EDGEDRAFT].seconds <= found[DATACENTER_ONLY].seconds + 0.041


def test_a_proactive_round_that_is_right_saves_time() -> None:
    waiting, proactive = rounds(0.05, proactive=False), rounds(0.05, proactive=True)
    assert proactive.meters.verifies == waiting.meters.verifies
    assert proactive.seconds < waiting.seconds
    found = compared(0.05)
    assert found[PROACTIVE].mean_inter_token < found[STOP_AND_WAIT].mean_inter_token
