"""`edgedraft agent forget` deletes past outputs only."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.desktop import forget
from edge_agent.drafters.lookup.past_outputs import PastOutputStore
from edge_agent.settings import AgentForgetSettings


def test_forget_deletes_past_outputs_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "past"
    PastOutputStore(4096, folder / "a.tokens").add(list(range(20)))
    (folder / "note.txt").write_text("mine")
    forget.main(AgentForgetSettings(past_folder=folder, log_level="info"))
    assert [path.name for path in folder.iterdir()] == ["note.txt"]
    assert "forgot 1 files" in capsys.readouterr().out
    forget.main(AgentForgetSettings(past_folder=tmp_path / "none", log_level="info"))
