"""Texts are refused by their characters only, before a worker reads them, where that says enough."""

from __future__ import annotations

import zlib

import msgspec
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Whitespace

from gateway.http.errors import ApiError
from gateway.model.served_model import ServedModel
from gateway.model.text_length import UNPROVEN_CHARACTERS
from gateway.prompt.preparation import check_characters
from tests.support import toy_model

CONTEXT = 512


def served(tokenizer: Tokenizer) -> ServedModel:
    card = toy_model.card(context_length=CONTEXT)
    return ServedModel.from_card(msgspec.structs.replace(card, tokenizer=zlib.compress(tokenizer.to_str().encode())))


def word_pieces() -> Tokenizer:
    tokenizer = Tokenizer(WordPiece({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()  # type: ignore[assignment]
    return tokenizer


def test_characters_that_cannot_be_so_few_tokens_are_refused_by_these() -> None:
    model = served(toy_model.TOKENIZER)
    longest = len(toy_model.START)
    check_characters(model, CONTEXT * longest, "prompt")
    with pytest.raises(ApiError) as refused:
        check_characters(model, CONTEXT * longest + 1, "prompt")
    assert refused.value.code == "context_length_exceeded"
    assert f"at least {CONTEXT + 1} tokens" in refused.value.message


def test_a_tokenizer_that_drops_characters_is_given_many_more() -> None:
    model = served(word_pieces())
    check_characters(model, CONTEXT * UNPROVEN_CHARACTERS, "prompt")
    with pytest.raises(ApiError) as refused:
        check_characters(model, CONTEXT * UNPROVEN_CHARACTERS + 1, "prompt")
    assert refused.value.code == "context_length_exceeded"
    assert f"{CONTEXT * UNPROVEN_CHARACTERS + 1} characters" in refused.value.message
    assert "at least" not in refused.value.message, "how many tokens they are is not known"
