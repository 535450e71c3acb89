"""The model card of models saved to a folder with the demo model's tokenizer."""

from __future__ import annotations

import shutil
import zlib
from pathlib import Path

import pytest
from transformers import GenerationConfig

from edgedraft.local.demo_model import ensure_demo_model
from edgedraft.tokenizer import fingerprint
from tests.support.tiny_llama import VOCAB, tiny_llama
from verifier.model_card import build_model_card, native_context
from verifier.settings import VerifierSettings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model without a generation config of its own, whose config has no EOS tokens beside the tokenizer's."""
    model = tiny_llama()
    model.config.eos_token_id = None
    model.config.save_pretrained(tmp_path)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ensure_demo_model() / file, tmp_path)
    return tmp_path


def settings(folder: Path, **more: object) -> VerifierSettings:
    return VerifierSettings.model_validate({"model": str(folder), **more})


def test_the_card_describes_the_model_and_its_tokenizer(folder: Path) -> None:
    card = build_model_card(settings(folder), str(folder), 384)
    source = (folder / "tokenizer.json").read_bytes()
    assert card.name == folder.name
    assert (card.vocab_size, card.context_length) == (VOCAB, 384)
    assert zlib.decompress(card.tokenizer) == source
    assert card.fingerprint == fingerprint(source)
    assert native_context(str(folder)) == 512


def test_the_served_name_replaces_the_folders(folder: Path) -> None:
    assert build_model_card(settings(folder, served_name="mine"), str(folder), 384).name == "mine"


def test_eos_tokens_of_the_generation_config_are_added_to_the_tokenizers(folder: Path) -> None:
    (own,) = build_model_card(settings(folder), str(folder), 384).eos
    GenerationConfig(eos_token_id=[own, 7, 5]).save_pretrained(folder)
    assert build_model_card(settings(folder), str(folder), 384).eos == tuple(sorted({own, 5, 7}))


def test_a_model_without_a_fast_tokenizer_file_cannot_be_served(tmp_path: Path) -> None:
    tiny_llama().config.save_pretrained(tmp_path)
    with pytest.raises((OSError, ValueError)):
        build_model_card(settings(tmp_path), str(tmp_path), 384)
