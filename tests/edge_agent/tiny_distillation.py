"""A tiny random target with a tokenizer, and one distillation from it, shared by all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from edge_agent.distill import main
from edge_agent.settings import DistillSettings
from tests.support.tiny_llama import tiny_llama

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="session")
def distill_target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three random layers over single bytes, confident enough to be learned."""
    folder = tmp_path_factory.mktemp("target")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(["<|im_start|>", "<|im_end|>", *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    tiny_llama(
        1,
        vocab_size=len(vocab),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        initializer_range=0.3,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def distilled(distill_target: Path, tmp_path_factory: pytest.TempPathFactory) -> DistillSettings:
    folder = tmp_path_factory.mktemp("distill")
    return DistillSettings.model_validate(
        {
            "target": str(distill_target),
            "out": folder / "draft",
            "onnx": folder / "onnx",
            "work": folder / "work",
            "layers": (0, 2),
            "head_size": 200,
            "tokens": 4000,
            "slots": 32,
            "sample_length": 900,
            "answer_tokens": 24,
            "top_k": 8,
            "held_out": 2,
            "passes": 3.0,
            "row_tokens": 512,
            "rows": 2,
            "rate": 3e-3,
            "device": "cpu",
        }
    )


@pytest.fixture(scope="session")
def draft(distilled: DistillSettings) -> Path:
    main(distilled)
    return distilled.out
