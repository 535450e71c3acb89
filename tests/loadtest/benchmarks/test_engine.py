"""`bench engine` and its runners, and `bench verify`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from edgedraft.local.demo_model import ensure_demo_model
from edgedraft.runtime.packed_model import PackedModel
from loadtest.benchmarks import engine, verify
from loadtest.peers.engines.process import RUNNERS, BenchJob, Peer, PeerError, System
from loadtest.peers.engines.runner import Setup
from loadtest.peers.engines.write_gguf import write_gguf
from tests.support.tiny_llama import VOCAB, tiny_llama
from verifier.engine.transformers_engine import TransformersEngine

SETUP = Setup(model="none", dtype="float32", threads=1, sessions=2, context=128, step_tokens=64)
PROMPTS = [[5, 6, 7], [8]]

COUNTING = f"""
import sys
sys.path.insert(0, {str(RUNNERS)!r})
from runner import serve

def load(setup):
    print("a library's chatter")
    def generate(prompts, tokens):
        if tokens == BREAKS_AT:
            raise SystemExit("no more memory")
        sum(range(300_000))
        return [[prompt[-1] + i for i in range(1, tokens + 1)] for prompt in prompts]
    return generate, f"counts with {{setup.threads}} thread"

serve(load)
"""


@pytest.fixture
def counting(tmp_path: Path) -> Callable[[str, int], System]:
    """Makes systems whose runner counts up from a prompt's last token, and breaks at jobs of so many tokens."""

    def make(name: str, breaks_at: int = -1) -> System:
        path = tmp_path / f"{name}.py"
        path.write_text(COUNTING.replace("BREAKS_AT", str(breaks_at)))
        return System(name, str(path.with_suffix("")), sys.executable)

    return make


@pytest.fixture
def quick_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SESSIONS": (1, 2), "TOKENS": 6, "REPEATS": 2, "GENERATE": "a", "OURS": "b"}.items():
        monkeypatch.setattr(engine, name, value)


def test_a_runner_answers_jobs_and_its_librarys_chatter_does_not_come_between(
    counting: Callable[[str, int], System], tmp_path: Path
) -> None:
    peer = Peer(counting("a", -1), SETUP, tmp_path)
    try:
        peer.wait_ready()
        job = peer.run(PROMPTS, 3)
    finally:
        peer.stop()
    assert peer.note == "counts with 1 thread"
    assert job.outputs == [[8, 9, 10], [9, 10, 11]]
    assert 0 < job.cpu < 5
    assert 0 < job.wall < 60


def test_a_runner_that_ends_says_why(counting: Callable[[str, int], System], tmp_path: Path) -> None:
    peer = Peer(counting("a", 3), SETUP, tmp_path)
    try:
        peer.wait_ready()
        with pytest.raises(PeerError, match="no more memory"):
            peer.run(PROMPTS, 3)
    finally:
        peer.stop()


@pytest.mark.usefixtures("quick_run")
def test_systems_that_are_missing_or_break_leave_a_note_and_the_others_are_measured(
    counting: Callable[[str, int], System], tmp_path: Path
) -> None:
    systems = [
        counting("a", -1),
        counting("b", -1),
        counting("early", 2),
        counting("late", 6),
        System("absent", "run_vllm", ""),
        System("misspelt", "run_vllm", str(tmp_path / "nowhere")),
    ]
    cells, notes = engine.compare(systems, SETUP, PROMPTS, tmp_path)
    assert set(cells) == {"a", "b"}
    assert notes["early"] == notes["late"] == "failed: no more memory"
    assert notes["absent"] == "not installed"
    assert notes["misspelt"].startswith("not installed: ")
    rows = engine.table(systems, cells, notes, lambda ids: " ".join(map(str, ids)), eos=-1)
    assert [(row["system"], row["sessions"]) for row in rows] == [
        *(("a", 1), ("a", 2), ("b", 1), ("b", 2)),
        *(("early", "failed"), ("late", "failed"), ("absent", "not installed"), ("misspelt", "not installed")),
    ]
    assert all(row["same_text"] == 1 and row["tokens_per_CPU_s"] > 0 for row in rows[:4])
    assert len(engine.ratios(cells)) == 4


@pytest.mark.usefixtures("quick_run")
def test_rates_count_all_tokens_and_decoding_leaves_the_prompts_out() -> None:
    cell = engine.Repeats(
        jobs=[BenchJob(wall=4.0, cpu=3.0, outputs=[])], prompts_only=[BenchJob(wall=1.0, cpu=0.5, outputs=[])]
    )
    assert cell.rates(2) == {"cpu": [4.0], "wall": [3.0], "decode_cpu": [4.0]}


def test_texts_are_compared_as_far_as_the_answers_end() -> None:
    def cell(*outputs: list[int] | str) -> engine.Repeats:
        return engine.Repeats(jobs=[BenchJob(1.0, 1.0, list(outputs))])

    def decode(ids: list[int]) -> str:
        return "".join(map(chr, ids))

    reference = cell([97, 98, 0, 99], [97, 98, 99, 100])
    assert engine._agreement(cell([97, 98, 5, 5], "abcd"), reference, decode, eos=0) == 1
    assert engine._agreement(cell([97, 99, 5, 5], "abcd"), reference, decode, eos=0) == 0.5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gguf_file_holds_the_same_numbers(tmp_path: Path, dtype: str) -> None:
    model = tiny_llama()
    model.save_pretrained(tmp_path)
    merges = [["a", "b"]]
    vocab = {chr(97 + i) if i < 26 else f"t{i}": i for i in range(VOCAB - 2)} | {"ab": VOCAB - 2}
    end = {"id": VOCAB - 1, "content": "<end>", "special": True}
    tokenizer = {"added_tokens": [end], "model": {"vocab": vocab, "merges": merges}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    write_gguf(tmp_path, tmp_path / "model.gguf", dtype)
    back = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32).state_dict()
    for name, weight in model.state_dict().items():
        assert torch.equal(back[name], weight.to(getattr(torch, dtype)).float()), name


def test_steps_of_every_size_are_measured_from_the_same_state(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SESSIONS": (1, 3), "ROWS": (1, 4), "CONTEXT": 32, "REPEATS": 2}.items():
        monkeypatch.setattr(verify, name, value)
    bench_engine = TransformersEngine(PackedModel(tiny_llama(), 512), VOCAB, 512, 3)
    contexts = [[(start * 7 + i) % VOCAB for i in range(33)] for start in range(3)]
    cells = verify.measure(bench_engine, contexts)
    assert set(cells) == {(1, 1), (1, 4), (3, 1), (3, 4)}
    assert all(len(cell.wall) == len(cell.cpu) == 2 for cell in cells.values())
    assert bench_engine.capacity().free_kv_tokens == bench_engine.capacity().kv_tokens


def test_a_steps_needs_are_the_demo_targets() -> None:
    ensure_demo_model()
    one = verify.step_demand(1, 1, 256, torch.float32)
    assert one.bytes == pytest.approx(4 * (134.48e6 + 257 * 11520), rel=0.01)
    assert one.flops == pytest.approx(2 * 134.48e6 + 4 * 30 * 576 * 257, rel=0.01)
    many = verify.step_demand(16, 4, 256, torch.bfloat16)
    assert many.flops == pytest.approx(64 * one.flops, rel=0.01)
    assert many.bytes < 16 * one.bytes


@pytest.mark.long
def test_the_runners_of_this_engine_and_of_transformers_make_the_same_text(tmp_path: Path) -> None:
    setup = Setup(str(ensure_demo_model()), "float32", threads=1, sessions=2, context=128, step_tokens=64)
    prompts = [[504, 253, 1000, 260, 3581, 22, 40, 51], [1, 9690, 198, 2683]]
    outputs = {}
    for name in ("run_edgedraft", "run_generate", "run_generate_batch"):
        peer = Peer(System(name, name, sys.executable), setup, tmp_path)
        try:
            peer.wait_ready()
            outputs[name] = peer.run(prompts, 8).outputs
        finally:
            peer.stop()
    assert outputs["run_edgedraft"] == outputs["run_generate"] == outputs["run_generate_batch"]
