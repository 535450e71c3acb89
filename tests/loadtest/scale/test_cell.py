"""The token-by-token simulation of gateways, whose meters must add up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from loadtest.scale.cell import FREE, Cell, Parts, Shape
from loadtest.scale.costs import Costs
from loadtest.simulator.load import Load, run
from loadtest.simulator.measurement import Measurement
from loadtest.simulator.profiles import EdgeProfile
from loadtest.simulator.recorded_chats import RecordedChat
from loadtest.simulator.target import Target, recorded_target
from tests.loadtest.conftest import step_costs, step_seconds
from tests.loadtest.scale.made_up import COSTS


def make_cell(chats: Sequence[RecordedChat], edge: EdgeProfile, shape: Shape, costs: Costs) -> Cell:
    def target() -> Target:
        return recorded_target(chats, step_seconds, (), cached=True)

    return Cell(shape, Parts(target, step_costs(step_seconds), costs, edge))


def run_cell(cell: Cell, chats: Sequence[RecordedChat], concurrency: int = 4) -> Measurement:
    """Also compares every token with the recorded text."""
    return run(cell, chats, Load(concurrency, tokens=120, warmup_tokens=30), seed=0)


def test_gateways_are_charged_for_every_event(chats: list[RecordedChat], edge: EdgeProfile) -> None:
    cell = make_cell(chats, edge, Shape(2, 2, edge=True), COSTS)
    run_cell(cell, chats)
    meters = cell.meters
    assert min(meters.frames, meters.agent_commits, meters.draft_frames, meters.requests) > 0
    assert meters.frames <= meters.verifies
    without_agents = (
        COSTS.wake * meters.wakes
        + COSTS.request * meters.requests
        + COSTS.frame * meters.frames
        + COSTS.commit * meters.verifies
    )
    rest = meters.gateway_seconds - without_agents
    drafts = COSTS.draft * meters.draft_frames + COSTS.extra_draft * meters.extra_drafts
    assert 0 < rest <= (COSTS.agent_commit * meters.verifies + drafts) * 1.001


def test_without_agents_no_commit_is_passed_on(chats: list[RecordedChat], edge: EdgeProfile) -> None:
    cell = make_cell(chats, edge, Shape(1, 1, edge=False), COSTS)
    measured = run_cell(cell, chats)
    assert (cell.meters.agent_commits, cell.meters.draft_frames) == (0, 0)
    assert measured.tokens >= 120


def test_a_remote_agent_costs_both_gateways(chats: list[RecordedChat], edge: EdgeProfile) -> None:
    only_remote = replace(FREE, remote_agent_commit=1e-4, remote_draft=1e-4)
    own, remote = (
        make_cell(chats, edge, Shape(2, 1, edge=True, remote_share=share), only_remote) for share in (0.0, 1.0)
    )
    run_cell(own, chats)
    run_cell(remote, chats)
    assert own.meters.gateway_seconds == 0
    assert remote.meters.gateway_seconds > 0
    assert all(gateway.busy > 0 for gateway in remote.gateways)


def test_a_slow_gateway_limits_throughput(chats: list[RecordedChat], edge: EdgeProfile) -> None:
    rates = [
        run_cell(make_cell(chats, edge, Shape(1, 1, edge=False), costs), chats).tokens_per_second
        for costs in (FREE, replace(FREE, commit=0.05))
    ]
    assert rates[1] < 25  # 20 commits per second, few of them with more than one token
    assert rates[0] > 2 * rates[1]


def test_a_share_of_a_core_slows_everything_down(chats: list[RecordedChat], edge: EdgeProfile) -> None:
    rates = [
        run_cell(make_cell(chats, edge, Shape(1, 2, edge=False, speed=speed), COSTS), chats, 8).tokens_per_second
        for speed in (1.0, 0.5)
    ]
    assert rates[1] == pytest.approx(0.5 * rates[0], rel=0.1)
