"""Calibration turns confidences into probabilities."""

from __future__ import annotations

import random

import pytest

from edgedraft.tree import DraftSlice
from edgedraft.wire import confidence_byte
from verifier.scheduling.calibration import MAX_SOURCES, Calibration, Calibrations


def test_without_trials_the_confidence_is_the_probability() -> None:
    assert Calibration().acceptance_probability(confidence_byte(0.5)) == pytest.approx(0.5)


def test_overconfidence_is_learned_and_forgotten() -> None:
    calibration, byte, dice = Calibration(), confidence_byte(0.9), random.Random(1)
    claim = DraftSlice((7,), (-1,), (byte,), (1,))
    for _ in range(500):
        calibration.record_verification(claim, [7 if dice.random() < 0.3 else 8])
    assert calibration.acceptance_probability(byte) == pytest.approx(0.3, abs=0.1)
    for _ in range(3000):
        calibration.record_verification(claim, [7])
    assert calibration.acceptance_probability(byte) > 0.9


def test_only_nodes_whose_parent_was_accepted_are_trials() -> None:
    calibration = Calibration()
    # 5 is accepted, its child 9 is not; 9's child and 6's child are no trials
    draft = DraftSlice((5, 9, 9, 6, 7), (-1, 0, 1, -1, 3), (0, 40, 80, 120, 160), (1, 2, 3, 1, 2))
    calibration.record_verification(draft, [5, 4])
    assert calibration._trials[0] == 1
    assert calibration._trials[5] == 1
    assert calibration._trials[15] == 1
    assert sum(calibration._trials) == 3
    assert sum(calibration._hits) == 1


def test_a_paths_probability_is_the_product_of_its_nodes() -> None:
    half = confidence_byte(0.5)
    chances = Calibration().path_probabilities(DraftSlice((1, 2, 3), (-1, 0, -1), (half, 2 * half, half), (1, 2, 1)))
    assert chances == pytest.approx([0.5, 0.25, 0.5])


def test_an_overconfident_agent_does_not_affect_known_ones() -> None:
    calibrations, byte = Calibrations(), confidence_byte(0.9)
    claim = DraftSlice((7,), (-1,), (byte,), (1,))
    for _ in range(300):
        calibrations.record_verification("overconfident", claim, [8])
        calibrations.record_verification("honest", claim, [7])
    assert calibrations.get("overconfident").acceptance_probability(byte) < 0.1
    assert calibrations.get("honest").acceptance_probability(byte) > 0.9
    assert calibrations.get("new").acceptance_probability(byte) == pytest.approx(0.5, abs=0.05), (
        "the prior is what all agents have shown"
    )


def test_calibrations_are_bounded_and_least_recently_used_ones_are_forgotten() -> None:
    calibrations, byte = Calibrations(), confidence_byte(0.9)
    for _ in range(50):
        calibrations.record_verification("regular", DraftSlice((7,), (-1,), (byte,), (1,)), [8])
    for i in range(MAX_SOURCES + 10):
        calibrations.get(f"visitor {i}")
        calibrations.get("regular")
    assert calibrations.get("regular").acceptance_probability(byte) < 0.3
    assert len(calibrations._by_source) == MAX_SOURCES
