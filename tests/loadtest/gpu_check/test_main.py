"""The command: complete on a CPU with tiny shapes, and what it exits with when something is wrong."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from edgedraft.child_process import minimal_environment, python_command
from edgedraft.runtime.blocks import tree_paths
from loadtest.gpu_check.exactness.attention import check_attention
from loadtest.gpu_check.main import PARTS, Part, Run, main
from loadtest.gpu_check.report import Section
from loadtest.settings import GpuCheckSettings

ROOT = Path(__file__).parents[3]

# A GPU's image has torch, transformers and what this project needs everywhere, but not what services and plots need.
WITHOUT = """
import sys
from importlib.machinery import PathFinder

MISSING = {"accelerate", "fastapi", "matplotlib", "onnx", "openai", "prometheus_client", "redis", "scipy", "uvicorn"}


class Hiding(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in MISSING else super().find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = Hiding
"""


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_the_command_qualifies_a_cpu(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WITHOUT)
    json_file, report = tmp_path / "gpu.json", tmp_path / "gpu.md"
    command = python_command("edgedraft.cli", "gpu-check", "--cpu", "--tiny", "--minutes", "60", "--commit", "c0ffee")
    done = subprocess.run(
        [*command, "--json", str(json_file), "--report", str(report)],
        check=False,
        capture_output=True,
        text=True,
        env=minimal_environment() | {"PYTHONPATH": f"{tmp_path}:{ROOT}", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(json_file.read_text())
    assert found["qualified"]
    assert found["machine"]["commit"] == "c0ffee"
    assert [section["name"] for section in found["sections"]] == [part.name for part in PARTS]
    assert {section["outcome"] for section in found["sections"]} == {"passed"}
    compared = next(section for section in found["sections"] if section["name"] == "policy")
    (row,) = compared["tables"][0]["rows"]
    assert row["over_datacenter only"] == pytest.approx(row["EdgeDraft"] / row["datacenter only"])
    assert set(found["profiles"]) == {"14b", "14b-graphs", "32b", "32b-graphs"}
    text = report.read_text()
    assert text.strip() in done.stdout
    assert "Qualified." in text
    assert "computed from 1 and 2 of 6 layers" in text


def run_parts(parts: Sequence[Part], tmp_path: Path, minutes: float = 60) -> tuple[int, dict[str, object], str]:
    """The exit code, the JSON and the Markdown of a run of these parts."""
    settings = GpuCheckSettings.model_validate(
        {"cpu": True, "tiny": True, "minutes": minutes, "json_file": tmp_path / "r.json", "report": tmp_path / "r.md"}
    )
    with pytest.raises(SystemExit) as ended:
        main(settings, parts)
    assert isinstance(ended.value.code, int)
    return ended.value.code, json.loads((tmp_path / "r.json").read_text()), (tmp_path / "r.md").read_text()


def with_wrong_masks(section: Section, run: Run) -> None:
    def shows_siblings(parents: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        depths, paths = tree_paths(parents)
        return depths, np.tril(np.ones_like(paths))

    check_attention(section, run.device, run.tiny, shows_siblings)


def breaks(section: Section, run: Run) -> None:
    raise RuntimeError("the device has gone")


def passes(section: Section, run: Run) -> None:
    section.check("one", True, different=0)


def test_a_check_that_fails_is_named_and_ends_with_1(tmp_path: Path) -> None:
    code, found, text = run_parts([Part("masks", "Masks", 1, with_wrong_masks, True)], tmp_path)
    assert code == 1
    assert not found["qualified"]
    assert "masks: trees, 6/2 heads of 16, float32" in found["problems"]  # type: ignore[operator]
    assert "NOT qualified" in text
    assert "| trees, 6/2 heads of 16, float32 | FAILED |" in text


def test_a_section_that_breaks_ends_with_1_and_the_next_ones_run(tmp_path: Path) -> None:
    parts = [Part("broken", "Broken", 0.5, breaks), Part("fine", "Fine", 0.5, passes, True)]
    code, found, text = run_parts(parts, tmp_path)
    assert code == 1
    assert found["problems"] == ["broken broke: RuntimeError: the device has gone"]
    assert "| Fine | passed | 1 of 1 |" in text


def test_without_time_a_comparison_with_the_cpu_counts_as_failed_and_costs_do_not(tmp_path: Path) -> None:
    parts = [Part("exact", "Exact", 0, passes, True), Part("costs", "Costs", 0, passes)]
    code, found, text = run_parts(parts, tmp_path, minutes=1e-9)
    assert code == 1
    assert found["problems"] == ["exact did not run"]
    assert "| Costs | not run |" in text
    code, found, text = run_parts(parts[1:], tmp_path, minutes=1e-9)
    assert code == 0
    assert "Cut short by time: costs" in text


def test_without_a_gpu_it_says_how_to_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        main(GpuCheckSettings.model_validate({}))
    assert ended.value.code == 2
    assert "--cpu" in capsys.readouterr().err


def test_a_draft_model_without_its_target_is_refused(tmp_path: Path) -> None:
    command = python_command("edgedraft.cli", "gpu-check", "--draft", str(tmp_path))
    done = subprocess.run(command, check=False, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 2
    assert "needs its target" in done.stderr
