"""Measured step costs: read back as written, used by name of their file, and refused where there are none."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from loadtest.policy.cells import ServerLoad, step_costs
from loadtest.policy.cost_profile import CostProfile, read_profile, write_profile
from loadtest.settings import BenchSettings

PROFILE = CostProfile({1: 0.02, 64: 0.025, 512: 0.2}, {1: 0.003, 8: 0.004})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_profile(PROFILE, tmp_path / "h200-32b.json")
    return tmp_path / "h200-32b.json"


def settings(*steps: object, **more: object) -> BenchSettings:
    return BenchSettings.model_validate({"name": "policy", "steps": ",".join(map(str, steps))} | more)


def test_costs_of_a_file_are_those_that_were_written(file: Path) -> None:
    assert read_profile(file) == PROFILE
    costs = step_costs(str(file))
    assert costs.steps.seconds(64) == 0.025
    assert costs.forwards.seconds(8) == 0.004
    assert ServerLoad(str(file), 0.75, 4).steps_title == "h200-32b"


def test_bench_policy_takes_names_and_files(file: Path) -> None:
    assert settings("a100-32b", file).steps == ["a100-32b", str(file)]


def test_unknown_steps_are_refused_by_name(tmp_path: Path, file: Path) -> None:
    for wrong in ("b200-32b", str(tmp_path / "missing.json")):
        with pytest.raises(ValidationError, match="neither a JSON file nor one of"):
            settings(wrong)
    with pytest.raises(ValidationError, match="8B draft"):
        settings(file, bigger_acceptance="0.8")
    (tmp_path / "more").mkdir()
    write_profile(PROFILE, tmp_path / "more" / file.name)
    with pytest.raises(ValidationError, match="different names"):
        settings(file, tmp_path / "more" / file.name)


@pytest.mark.parametrize("text", ["", "[]", '{"steps": {"1": 0.02}}', '{"steps": {"512": 0.2}, "forwards": {"1": 1}}'])
def test_a_file_without_costs_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "empty.json").write_text(text)
    with pytest.raises(ValueError, match=r"empty\.json"):
        read_profile(tmp_path / "empty.json")
