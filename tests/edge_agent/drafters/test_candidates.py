"""What an agent drafts with when nobody chose: the rule by hand-made cases, and real servers on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from edge_agent.drafters import candidates
from edge_agent.drafters.candidates import FAST_SERVER, Candidate, find_candidates, rank
from edge_agent.drafters.loading import DrafterSet, DrafterUnavailable
from edge_agent.drafters.server import discovery
from edge_agent.drafters.server.discovery import belongs_to_user
from edge_agent.settings import AgentSettings
from tests.edge_agent.drafters.server.test_lies import WORDS, counting, text_of
from tests.support.scripted_model_server import ScriptedModelServer, scripted_model_server


def candidate(kind: Any, name: str, speed: float | None = None) -> Candidate:
    return Candidate(kind, name, lambda: DrafterSet(None, True), speed)


FAST = candidate("server", "fast", 4 * FAST_SERVER)
FASTER = candidate("server", "faster", 9 * FAST_SERVER)
SLOW = candidate("server", "slow", FAST_SERVER / 2)
GPU = candidate("accelerator", "gpu")
ONNX = candidate("onnx", "onnx")
CPU = candidate("cpu", "cpu")


@pytest.mark.parametrize(
    ("given", "order"),
    [
        ([], []),
        ([CPU], [CPU]),
        ([CPU, GPU], [GPU, CPU]),
        ([GPU, FAST], [FAST, GPU]),
        ([CPU, SLOW], [CPU, SLOW]),
        ([SLOW], [SLOW]),
        ([CPU, ONNX], [ONNX, CPU]),
        ([SLOW, ONNX, FAST, CPU, FASTER, GPU], [FASTER, FAST, GPU, ONNX, CPU, SLOW]),
        ([candidate("server", "unmeasured"), CPU], [CPU, candidate("server", "unmeasured")]),
    ],
)
def test_the_order(given: list[Candidate], order: list[Candidate]) -> None:
    assert [found.name for found in rank(given)] == [found.name for found in order]


def test_the_reason_is_told() -> None:
    assert "a model server that already runs: 100 tokens per second" in FAST.reason
    assert "slow" in SLOW.reason


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ScriptedModelServer]:
    vocab = {word: i for i, word in enumerate(WORDS)}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocab}, "added_tokens": []}))
    props = {"default_generation_settings": {"n_ctx": 2048}, "total_slots": 3, "model_path": str(tmp_path)}
    with scripted_model_server() as server:
        server.answers = {
            "/props": props,
            "/detokenize": lambda _, body: {"content": text_of(body["tokens"])},
            "/completion": lambda _, body: counting(body),
        }
        yield server


def settings(**options: Any) -> AgentSettings:
    return AgentSettings.model_validate({"url": "http://127.0.0.1", "key": "k", "find_servers": True, **options})


def found_at(
    ports: tuple[int, ...], monkeypatch: pytest.MonkeyPatch, **options: Any
) -> tuple[list[Candidate], list[str]]:
    monkeypatch.setattr(discovery.find_servers, "__defaults__", (ports, ()))
    return find_candidates(settings(**options))


def test_a_server_on_a_usual_port_comes_first(server: ScriptedModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted_model_server() as other:
        found, refused = found_at((other.port, server.port), monkeypatch)
    assert [one.kind for one in found] in (["server", "cpu"], ["server", "accelerator"])
    assert found[0].load().device == "llama-server"
    assert len(refused) == 1
    assert other.url in refused[0]
    assert not other.bodies("/completion"), "no text was sent to what is no model server"


def test_none_is_looked_for_when_something_is_chosen(
    server: ScriptedModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for chosen in ({"draft_model": "none"}, {"find_servers": False}):
        found, _ = found_at((server.port,), monkeypatch, **chosen)
        assert [one.kind for one in found if one.kind == "server"] == []
    own = {"url": f"http://127.0.0.1:{server.port}"}
    assert [one.kind for one in found_at((server.port,), monkeypatch, **own)[0] if one.kind == "server"] == []
    assert not server.requests


def test_another_users_server_is_asked_nothing(server: ScriptedModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert belongs_to_user(server.port)
    assert not belongs_to_user(1)
    monkeypatch.setattr(discovery, "_owner", lambda pid: "somebody else")
    found, refused = found_at((server.port,), monkeypatch)
    assert [one.kind for one in found if one.kind == "server"] == []
    assert "not a process of this user" in refused[0]
    assert not server.requests


def test_what_another_process_of_this_user_listens_at_is_found() -> None:
    program = (
        "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert belongs_to_user(int(process.stdout.readline()))
        process.communicate(b"\n")


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A folder of two exported drafts, of which one was fetched later, and of other things."""
    for age, name in enumerate(("late", "early")):
        folder = tmp_path / "drafts" / name
        folder.mkdir(parents=True)
        (folder / "draft.json").write_text('{"variants": {}}')
        os.utime(folder / "draft.json", (1e9 - age, 1e9 - age))
    (tmp_path / "drafts" / "distilled").mkdir()
    (tmp_path / "drafts" / "distilled" / "draft.json").write_text('{"layers": [1]}')
    (tmp_path / "drafts" / ".fetching").mkdir()
    (tmp_path / "drafts" / "file").touch()
    return tmp_path / "drafts"


def install(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    monkeypatch.setattr(candidates, "find_spec", lambda name: object() if name in packages else None)


@pytest.mark.parametrize(
    ("packages", "kinds"),
    [
        (("torch", "onnxruntime"), ["onnx", "onnx", "cpu"]),
        (("onnxruntime",), ["onnx", "onnx"]),
        (("torch",), ["cpu"]),
    ],
)
def test_kept_drafts_come_before_pytorch_on_the_cpu_the_latest_first(
    kept: Path, packages: tuple[str, ...], kinds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, *packages)
    found, _ = found_at((), monkeypatch, drafts_folder=kept, device="cpu")
    assert [one.kind for one in found] == kinds
    if "onnx" in kinds:
        assert [one.name for one in found[:2]] == ["the kept draft late", "the kept draft early"]


def test_an_accelerator_of_pytorch_comes_before_kept_drafts(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgedraft.runtime.device.pick_device", lambda name: torch.device("cuda"))
    found, _ = found_at((), monkeypatch, drafts_folder=kept)
    assert [one.kind for one in found] == ["accelerator", "onnx", "onnx"]


def test_a_chosen_runtime_leaves_the_other_out(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for runtime, kinds in (("torch", ["cpu"]), ("onnx", ["onnx", "onnx"])):
        found, _ = found_at((), monkeypatch, drafts_folder=kept, runtime=runtime, device="cpu")
        assert [one.kind for one in found] == kinds


def test_a_kept_draft_that_is_damaged_says_what_to_do(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = found_at((), monkeypatch, drafts_folder=kept, runtime="onnx")
    with pytest.raises(DrafterUnavailable, match=r"/late: .*`edgedraft draft fetch` .* again"):
        found[0].load()


@pytest.mark.parametrize(
    ("packages", "advice"),
    [
        (("onnxruntime",), "nothing to draft with yet: `edgedraft draft fetch`"),
        ((), r"nothing to draft with yet: pip install 'edgedraft\[onnx\]', and then `edgedraft draft fetch`"),
    ],
)
def test_with_nothing_to_draft_with_it_names_the_command(
    packages: tuple[str, ...], advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, *packages)
    (only,), _ = found_at((), monkeypatch, drafts_folder=tmp_path / "none")
    with pytest.raises(DrafterUnavailable, match=advice):
        only.load()
