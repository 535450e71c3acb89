"""`edgedraft distill --estimate`: counted operations and what follows from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.distill import main
from edge_agent.distill.estimate import GPUS, ROW_TOKENS, Estimate, estimate
from edge_agent.settings import DistillSettings


def test_operations_are_those_of_the_matrices_and_of_attention(
    distill_target: Path, distilled: DistillSettings
) -> None:
    found = estimate(distilled, str(distill_target))
    hidden, inner, vocabulary = 32, 64, 258
    # Four query heads and two of keys and values, so the projections are three whole squares.
    layer = 3 * hidden * hidden + 3 * hidden * inner
    attention = 2 * 2 * hidden * ROW_TOKENS  # scores and values, over a whole row
    assert found.target_flops == pytest.approx(3 * (2 * layer + attention) + 2 * hidden * vocabulary, rel=0.02)
    assert found.student_flops == pytest.approx(2 * (2 * layer + attention) + 2 * hidden * 200, rel=0.02)
    # The backward pass computes the gradients of inputs and weights.
    assert 2.8 < found.training_flops / found.student_flops < 3.2


def test_few_conversations_at_once_cost_the_reading_of_all_weights_per_step() -> None:
    found = Estimate(32_000_000_000, 64e9, 2_000_000_000, 4e9, 12e9)
    h100 = next(gpu for gpu in GPUS if gpu.name.startswith("H100"))
    prompts = 0.6 * 1_000_000 * 64e9 / (989e12 * 0.4) / 3600
    alone = found.sampling_hours(h100, 1_000_000, 1) - prompts
    assert alone == pytest.approx(1_000_000 * 64e9 / 3.35e12 / 3600)
    assert found.sampling_hours(h100, 1_000_000, 256) - prompts == pytest.approx(
        1_000_000 * 64e9 / (989e12 * 0.4) / 3600
    )
    assert found.training_hours(h100, 1_000_000, 3) == pytest.approx(4.8e6 * 12e9 / (989e12 * 0.4) / 3600)


def test_the_command_reads_a_configuration_alone_and_writes_nothing(
    distill_target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "config.json").write_bytes((distill_target / "config.json").read_bytes())
    main(DistillSettings.model_validate({"target": str(target), "estimate": True, "work": tmp_path / "work"}))
    assert "| H200 | 0.00 | 0.00 | yes |" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
