"""Drafts that only devices can afford."""

from __future__ import annotations

from loadtest.policy.bigger_draft import SYSTEMS, cell_variants
from loadtest.policy.cells import BiggerDraft, Cell, ServerLoad, step_costs
from loadtest.policy.setting import Setting
from loadtest.simulator.profiles import rtx_4090_forward


def test_a_bigger_draft_is_the_devices_alone() -> None:
    load = ServerLoad("a100-32b", 0.75, 4)
    setting = Setting(load, 0)
    edge = setting.edge(Cell(load, 15, 3, BiggerDraft(0.9, 7)))
    assert edge.device.forward_seconds == 0.007
    assert edge.draft_model is not setting.world.oracle
    assert setting.edge(Cell(load, 15, 3)).draft_model is setting.world.oracle


def test_a_bigger_draft_is_compared_with_the_same_one_beside_the_target() -> None:
    cell = Cell(ServerLoad("a100-32b", 0.75, 4), 15, 3)
    variants = cell_variants(cell, SYSTEMS, [0.85])
    assert [variant.base for variant in variants] == [cell] * 6
    beside, four_bit, eight_bit = variants[3:]
    assert beside.cell.load == ServerLoad("a100-32b-8b", 0.85, 4)
    assert step_costs(beside.cell.load.steps).forwards.seconds(1) > 4 * step_costs("a100-32b").forwards.seconds(1)
    for variant in four_bit, eight_bit:
        assert variant.cell.bigger
        assert variant.cell.bigger.acceptance == 0.85
        assert variant.cell.load == cell.load


def test_a_draft_forward_reads_its_weights_once() -> None:
    four_bit, eight_bit = (rtx_4090_forward(8.2e9, bits) for bits in (4.5, 8.5))
    assert 0.005 < four_bit < 0.008 < eight_bit < 0.013
