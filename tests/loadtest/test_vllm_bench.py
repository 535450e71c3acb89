"""`bench seed --engines vllm`: vLLM alone serves the experiment's requests on its clock, and says the target's text."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from edgedraft.local.demo_model import ensure_demo_model
from edgedraft.runtime.packed_model import PackedModel
from loadtest.seed.alone import Alone, Stepped
from loadtest.seed.chats import chats, record
from loadtest.seed.clock import Clock
from loadtest.seed.fleet import Load, run
from loadtest.seed.vllm import SPECULATION
from verifier.engine.transformers_engine import TransformersEngine

pytest.importorskip("vllm", reason="runs in the environment of `make test-vllm`")

pytestmark = [pytest.mark.vllm, pytest.mark.long, pytest.mark.timeout(600)]

EOS = (2,)


def test_vllm_alone_serves_the_recorded_texts(tmp_path: Path) -> None:
    folder = ensure_demo_model()
    asked = chats(AutoTokenizer.from_pretrained(folder), 0.0)[:3]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    asked = record(asked, TransformersEngine(PackedModel(model, 4096), 49152, 1024, 4), EOS)
    setup = {"model": str(folder), "dtype": "float32", "context": 1024, "step_tokens": 512, "sessions": 4}
    process = Stepped(setup | {"kv_bytes": 1 << 28, "speculation": SPECULATION, "eager": True}, tmp_path / "log")
    try:
        system = Alone(Clock(), process, EOS)
        windows = [run(system, asked, Load(2, tokens=40, warm=10), seed) for seed in (0, 1)]
    finally:
        process.stop()
    for window in windows:
        assert window.tokens >= 40
        assert window.seconds > 0
        assert window.meters.verifies > 0
        assert window.meters.accepted >= 0
