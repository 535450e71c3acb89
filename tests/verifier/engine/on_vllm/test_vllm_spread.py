"""The model in two processes, by vLLM's own flags: tensor parallel, pipeline parallel, and as two machines."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from edgedraft.local.demo_model import ensure_demo_model
from edgedraft.runtime.packed_model import PackedModel
from edgedraft.wire import Sampling
from tests.support.tiny_llama import tiny_llama
from tests.verifier.engine.on_vllm.conftest import finish, request
from tests.verifier.engine.on_vllm.test_vllm_engine import prompt_of
from verifier.engine.transformers_engine import TransformersEngine

pytestmark = [pytest.mark.vllm, pytest.mark.long, pytest.mark.timeout(900)]

VOCAB = 49152
PROMPTS = [prompt_of(seed, 10 + 7 * seed) for seed in range(3)]
TOKENS = 20
PARAMETERS: dict[str, Any] = {"temperature": 0.8, "top_k": 40, "seed": 11, "frequency_penalty": 0.5}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama that can be sharded in two, with the demo model's tokenizer; the demo target has nine heads."""
    folder = tmp_path_factory.mktemp("small-llama")
    for file in ensure_demo_model().iterdir():
        if file.name.startswith("tokenizer") or file.name.endswith(".jinja"):
            shutil.copy(file, folder)
    tiny_llama(
        vocab_size=VOCAB,
        hidden_size=128,
        intermediate_size=256,
        num_attention_heads=4,
        max_position_embeddings=512,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def right(small: Path) -> dict[int, list[int]]:
    model = LlamaForCausalLM.from_pretrained(small, dtype=torch.float32, attn_implementation="sdpa").eval()
    engine = TransformersEngine(PackedModel(model, 1024), VOCAB, 512, 8)
    asked = [request(key, prompt, Sampling(**PARAMETERS), TOKENS) for key, prompt in enumerate(PROMPTS)]
    return finish(engine, asked)[0]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def begin(small: Path, right: dict[int, list[int]], arguments: str, to: Path) -> subprocess.Popen[str]:
    """A process with these arguments for vLLM, which reads its job from stdin."""
    settings = {
        "engine": "vllm",
        "model": str(small),
        "engine_args": f"--enforce-eager {arguments}",
        "dtype": "float32",
        "threads": 1,
        "kv_tokens": 1024,
        "max_sessions": 8,
        "verify_nodes": 8,
    }
    job = {"settings": settings, "prompts": PROMPTS, "right": right, "sampling": PARAMETERS, "to": str(to)}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.verifier.engine.on_vllm.texts_of"], stdin=subprocess.PIPE, text=True
    )
    assert process.stdin
    process.stdin.write(json.dumps(job))
    process.stdin.close()
    return process


def read_texts(to: Path) -> dict[int, list[int]]:
    answer = json.loads(to.read_text())
    assert answer["accepted"] > 5, "drafts were really used"
    return {int(key): text for key, text in answer["texts"].items()}


@pytest.mark.parametrize("arguments", ["--tensor-parallel-size 2", "--pipeline-parallel-size 2"])
def test_two_processes_make_the_text_of_one(
    small: Path, right: dict[int, list[int]], arguments: str, tmp_path: Path
) -> None:
    process = begin(small, right, arguments, tmp_path / "texts.json")
    assert process.wait(400) == 0
    assert read_texts(tmp_path / "texts.json") == right


def test_two_machines_make_the_text_of_one(small: Path, right: dict[int, list[int]], tmp_path: Path) -> None:
    """Both are this one; between them is TCP, as there would be."""
    spread = f"--tensor-parallel-size 2 --nnodes 2 --master-addr 127.0.0.1 --master-port {free_port()}"
    processes = [begin(small, right, f"{spread} --node-rank {rank}", tmp_path / f"{rank}.json") for rank in range(2)]
    try:
        assert processes[0].wait(400) == 0
        assert read_texts(tmp_path / "0.json") == right
        processes[1].wait(60)
        assert not (tmp_path / "1.json").exists()
    finally:
        for process in processes:
            process.kill()
