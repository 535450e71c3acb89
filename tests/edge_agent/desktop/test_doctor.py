"""`edgedraft doctor`: every check, and its advice when it fails."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from edge_agent.desktop import doctor, login
from edge_agent.drafters.candidates import Candidate
from edge_agent.drafters.loading import DrafterSet, load_drafters
from edge_agent.settings import AgentSettings, DoctorSettings
from tests.edge_agent.scripted_gateway import ScriptedGateway

VOCAB = 97


async def test_the_doctor_looks_at_everything_and_finds_a_good_agent_good() -> None:
    async with ScriptedGateway(VOCAB) as gateway:
        settings = DoctorSettings.model_validate({"url": gateway.url, "key": "k", "draft_model": "none"})
        found = await asyncio.to_thread(lambda: {finding.name: finding for finding in doctor.run_checks(settings)})
    assert {finding.status for finding in found.values()} <= {"ok", "warn"}
    assert {"memory", "draft model", "gateway", "tokenizer", "round trip", "this desktop"} <= found.keys()
    assert gateway.closes == [(1000, "examined")]


async def test_the_doctor_names_what_is_wrong_and_goes_on(target: Path, tmp_path: Path) -> None:
    async with ScriptedGateway(VOCAB, status=403) as gateway:
        wrong = {"url": gateway.url, "key": "k", "draft_model": str(tmp_path / "no-model")}
        found = await asyncio.to_thread(lambda: list(doctor.run_checks(DoctorSettings.model_validate(wrong))))
        bad = {finding.name: finding for finding in found if finding.status == "failed"}
        assert "no-model" in bad["draft model"].message
        assert bad["draft model"].advice
        right = {**wrong, "draft_model": str(target), "device": "cpu"}
        found = await asyncio.to_thread(lambda: list(doctor.run_checks(DoctorSettings.model_validate(right))))
        bad = {finding.name: finding for finding in found if finding.status == "failed"}
    assert list(bad) == ["gateway"]
    assert "may not attach agents" in bad["gateway"].message
    assert any(finding.name == "draft speed" for finding in found), (
        "what does not need a gateway is checked all the same"
    )


def test_what_it_prints_is_what_it_found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = doctor.CheckResult("device", "failed", "no [red]PyTorch[/]", "pip install 'edgedraft[onnx]'")
    monkeypatch.setattr(doctor, "run_checks", lambda settings: iter([found]))
    with pytest.raises(SystemExit) as ended:
        doctor.main(DoctorSettings.model_validate({"draft_model": "none"}))
    assert ended.value.code == 1
    told = capsys.readouterr().out
    assert "no [red]PyTorch[/]" in told
    assert "pip install 'edgedraft[onnx]'" in told, "brackets are no markup"


def test_the_doctor_without_a_gateway_says_how_to_log_in() -> None:
    found = list(doctor.run_checks(DoctorSettings.model_validate({"draft_model": "none"})))
    assert [finding.advice for finding in found if finding.status == "failed"] == [
        f"`edgedraft login URL` keeps both in {login.login_file()}"
    ]


async def test_of_several_candidates_it_tells_which_is_taken_and_why(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(model: Path) -> DrafterSet:
        options = {"url": "-", "key": "-", "draft_model": str(model), "device": "cpu"}
        return load_drafters(AgentSettings.model_validate(options))

    both = [Candidate("server", "server", lambda: load(target), 500.0), Candidate("cpu", "own", lambda: load(target))]
    monkeypatch.setattr(doctor, "find_candidates", lambda settings: (both, ["http://127.0.0.1:9: it is Ollama"]))
    async with ScriptedGateway(VOCAB) as gateway:
        settings = DoctorSettings.model_validate({"url": gateway.url, "key": "k"})
        found = await asyncio.to_thread(lambda: list(doctor.run_checks(settings)))
    speeds = [finding.message for finding in found if finding.name == "draft speed"]
    assert len(speeds) == 2
    assert "taken: a model server that already runs: 500 tokens per second" in speeds[0]
    assert "ms a token" in speeds[1]
    assert any("it is Ollama" in finding.message for finding in found)
