"""The check of texts: passes on one device, fails for another target there, and excuses flips only where tokens tie."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from loadtest.gpu_check.exactness.pairs import CPU, Pair, given_pair, random_pair
from loadtest.gpu_check.exactness.texts import check_texts
from loadtest.gpu_check.exactness.writing import made_up_drafts, write_texts
from loadtest.gpu_check.report import Section
from loadtest.workloads import mixed_prompts
from tests.support.tiny_llama import tiny_llama
from tests.support.toy_model import TOKENIZER, VOCAB_SIZE


@pytest.fixture(scope="module")
def pair() -> Pair:
    return random_pair(tiny=True)


def test_texts_are_the_same_with_and_without_drafts(section: Section, pair: Pair) -> None:
    check_texts(section, CPU, pair)
    figures = {check.name: check.figures for check in section.checks}
    assert [check.name for check in section.checks if not check.passed] == []
    assert figures["texts in float32, drafted, against plain"]["accepted"] > 0
    assert figures["texts in float32, drafted, with few blocks"]["evictions"] > 0


def test_a_given_pair_drafts_for_itself(section: Section, tmp_path: Path) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=TOKENIZER)
    for name, layers in (("target", 2), ("draft", 1)):
        tiny_llama(vocab_size=VOCAB_SIZE, num_hidden_layers=layers).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    given = given_pair(tmp_path / "target", tmp_path / "draft", tiny=True)
    assert bytes(TOKENIZER.decode(given.prompts[0]), "utf-8").startswith(mixed_prompts()[0].text.encode()[:40])
    check_texts(section, CPU, given)
    assert [check.name for check in section.checks if not check.passed] == []
    assert "texts in float32, drafted by the draft model, against plain" in {check.name for check in section.checks}


def test_other_weights_on_the_device_fail(section: Section, pair: Pair) -> None:
    def load(dtype: torch.dtype) -> PreTrainedModel:
        model = pair.load_target(dtype)
        with torch.no_grad():
            model.get_output_embeddings().weight *= -1  # type: ignore[operator,union-attr]
        return model

    check_texts(section, CPU, pair, replace(pair, load_target=load))
    failed = {check.name for check in section.checks if not check.passed}
    assert "texts in float32, plain, against the CPU" in failed
    assert "tokens in bfloat16, against float32 on the CPU" in failed
    assert "texts in float32, drafted, against plain" not in failed, "the device agrees with itself"


def test_other_weights_of_the_draft_model_fail_its_proposals_alone(section: Section, pair: Pair) -> None:
    def load(dtype: torch.dtype, device: torch.device) -> tuple[PreTrainedModel, torch.Tensor | None]:
        model, ids = pair.load_draft(dtype, device)
        with torch.no_grad():
            model.get_input_embeddings().weight[:100] *= 1.5  # type: ignore[operator,union-attr,index]
        return model, ids

    check_texts(section, CPU, pair, replace(pair, load_draft=load))
    assert [check.name for check in section.checks if not check.passed] == ["an agent's proposals in float32"]


def test_made_up_drafts_are_partly_right(pair: Pair) -> None:
    model = pair.target(torch.float32, CPU)
    plain = write_texts(model, pair.prompts, pair.tokens, pair.vocab)
    drafted = write_texts(model, pair.prompts, pair.tokens, pair.vocab, made_up_drafts(plain.texts, pair.vocab))
    assert drafted.texts == plain.texts
    assert 0 < drafted.accepted < sum(map(len, plain.texts.values()))
    assert drafted.steps < plain.steps
    assert drafted.leaked == 0
