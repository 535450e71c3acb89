"""vLLM alone on the simulator's clock, as in `bench specedge --engines vllm`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from edgedraft.local.demo_model import ensure_demo_model
from edgedraft.runtime.packed_model import PackedModel
from loadtest.simulator.clock import Clock
from loadtest.simulator.load import Load, run
from loadtest.simulator.recorded_chats import make_chats, record_texts
from loadtest.specedge.vllm_comparison import SPECULATION
from loadtest.specedge.vllm_system import VllmProcess, VllmSystem
from verifier.engine.transformers_engine import TransformersEngine

pytest.importorskip("vllm", reason="runs in the environment of `make test-vllm`")

pytestmark = [pytest.mark.vllm, pytest.mark.long, pytest.mark.timeout(600)]

EOS = (2,)


def test_vllm_alone_serves_the_recorded_texts(tmp_path: Path) -> None:
    folder = ensure_demo_model()
    chats = make_chats(AutoTokenizer.from_pretrained(folder), 0.0)[:3]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    chats = record_texts(chats, TransformersEngine(PackedModel(model, 4096), 49152, 1024, 4), EOS)
    setup = {"model": str(folder), "dtype": "float32", "context": 1024, "step_tokens": 512, "sessions": 4}
    process = VllmProcess(setup | {"kv_bytes": 1 << 28, "speculation": SPECULATION, "eager": True}, tmp_path / "log")
    try:
        system = VllmSystem(Clock(), process, EOS)
        runs = [run(system, chats, Load(2, tokens=40, warmup_tokens=10), seed) for seed in (0, 1)]
    finally:
        process.stop()
    for measured in runs:
        assert measured.tokens >= 40
        assert measured.seconds > 0
        assert measured.meters.verifies > 0
        assert measured.meters.accepted >= 0
