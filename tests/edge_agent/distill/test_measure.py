"""`edgedraft draft evaluate`: the figures of the model card again, and its messages."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from edge_agent.distill.measure import main
from edge_agent.distill.samples import HELD_OUT, WRITTEN
from edge_agent.drafters.pytorch.draft_model import read_spec
from edge_agent.settings import DistillSettings, DraftEvaluateSettings


def test_the_figures_are_those_of_the_model_card(
    draft: Path, distilled: DistillSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    main(DraftEvaluateSettings.model_validate({"draft": str(draft), "work": distilled.work}))
    printed = capsys.readouterr().out
    card = (draft / "MODEL_CARD.md").read_text()
    rows = [line for line in printed.splitlines() if line.startswith("| ")]
    assert len(rows) > 6
    assert all(row in card for row in rows)


def test_the_measured_answers_do_not_depend_on_what_a_draft_learns_from(
    draft: Path, distilled: DistillSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"draft": str(draft), "work": tmp_path, "held_out": distilled.held_out, "slots": 8}
    main(DraftEvaluateSettings.model_validate(settings))
    spec = msgspec.to_builtins(read_spec(draft))
    again = capsys.readouterr().out
    assert f"| all | {spec['training']['acceptance']['all']['tokens']} |" in again
    assert f"| all | {spec['training']['acceptance_written']['all']['tokens']} |" in again
    assert {path.name for path in (tmp_path / "samples").iterdir()} == {HELD_OUT, WRITTEN}


def test_a_folder_without_a_draft_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="is no distilled draft"):
        main(DraftEvaluateSettings.model_validate({"draft": str(tmp_path), "work": tmp_path}))
