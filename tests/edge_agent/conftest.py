"""Fixtures of the edge agent's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from tests.edge_agent.tiny_distillation import distill_target, distilled, draft
from tests.support.tiny_llama import VOCAB, tiny_llama

__all__ = ["distill_target", "distilled", "draft", "target"]


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny Llama and a tokenizer."""
    folder = tmp_path_factory.mktemp("target")
    tiny_llama().save_pretrained(folder)
    Tokenizer(WordLevel({f"w{i}": i for i in range(VOCAB)}, "w0")).save(str(folder / "tokenizer.json"))
    return folder
