"""The whole recipe on a tiny random target: training, resuming and continuing."""

from __future__ import annotations

from pathlib import Path

from edge_agent.distill import main
from edge_agent.distill.prompts import HELD_OUT_KINDS, KINDS
from edge_agent.distill.samples import shards
from edge_agent.drafters.pytorch import draft_model
from edge_agent.onnx.model import load_model
from edge_agent.settings import DistillSettings
from edgedraft.tokenizer import fingerprint


def test_the_recipe_makes_a_loadable_draft_whose_loss_fell(draft: Path, distilled: DistillSettings) -> None:
    spec = draft_model.read_spec(draft)
    assert (spec.layers, spec.head_size, spec.target) == ((0, 2), 200, distilled.target)
    assert spec.training["last_loss"] < spec.training["first_loss"] - 0.3
    assert "all" in spec.training["acceptance"]
    assert set(spec.training["acceptance"]) <= {*HELD_OUT_KINDS, "all"}
    assert spec.training["written"] > 20
    assert set(spec.training["acceptance_written"]) <= {*KINDS, "all"}
    card = (draft / draft_model.CARD_FILE).read_text()
    assert "tokens per verify" in card
    assert "{" not in card
    assert spec.tokenizer == fingerprint((Path(distilled.target) / "tokenizer.json").read_bytes())
    assert distilled.onnx is not None
    exported = load_model(distilled.onnx, "cpu", 1).manifest
    assert (exported.name, exported.fingerprint, exported.columns) == (draft.name, spec.tokenizer, 200)


def test_an_interrupted_run_goes_on(draft: Path, distilled: DistillSettings, tmp_path: Path) -> None:
    before = draft_model.read_spec(draft).training
    marks = {path: path.stat().st_mtime_ns for path in shards(distilled.work / "samples")}
    longer = distilled.model_copy(update={"out": tmp_path / "again", "passes": 4.0})
    main(longer)
    after = draft_model.read_spec(tmp_path / "again").training
    assert after["steps"] > before["steps"]
    assert after["first_loss"] == before["first_loss"]
    # Enough samples were there: none was written or changed.
    assert {path: path.stat().st_mtime_ns for path in shards(distilled.work / "samples")} == marks


def test_a_draft_is_trained_further_on_new_samples(draft: Path, distilled: DistillSettings, tmp_path: Path) -> None:
    further = distilled.model_copy(
        update={"start": str(draft), "out": tmp_path / "draft", "work": tmp_path, "tokens": 1500, "seed": 1}
    )
    main(further)
    first, second = draft_model.read_spec(draft), draft_model.read_spec(further.out)
    assert (second.layers, second.head_size) == (first.layers, first.head_size)
    assert second.training["first_loss"] < first.training["first_loss"] - 0.3
    assert second.training["before"]["trained_tokens"] == first.training["trained_tokens"]
    assert "Before that: " in (further.out / draft_model.CARD_FILE).read_text()
