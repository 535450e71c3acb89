"""Costs measured on real gateways."""

from __future__ import annotations

import pytest

from loadtest.scale import measure as measuring
from loadtest.scale.measure import Plan, measure
from loadtest.scale.stores import stores

SOME = ("8 streams, 4 verifiers", "8 streams, 3 drafts per frame", "8 streams, remote agents, 3 drafts per commit")


@pytest.mark.long
def test_costs_are_measured_on_real_gateways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "SHAPES", tuple(shape for shape in measuring.SHAPES if shape.name in SOME))
    plan = Plan(windows=1, seconds=1.0, settle=0.5, agents=20, counted_seconds=2.0)
    with stores() as shared:
        found = measure(shared, plan)
    four, own, remote = (run.counts for run in found.runs[1:4])
    assert four.frame > 100  # four verifiers with a frame every 20 ms
    assert four.agent_commit == 0
    assert own.draft == pytest.approx(own.agent_commit, rel=0.1)
    assert own.extra_draft == 2 * own.draft
    assert own.remote_agent_commit == 0
    assert remote.remote_draft == remote.draft > 0
    assert found.runs[-2].counts.request > 0
    assert found.costs.request > 1e-4
    assert found.stores.request.scripts == pytest.approx(
        2, abs=0.7
    )  # one token was predicted, and no correction is due
    assert found.stores.attach.scripts >= 1
