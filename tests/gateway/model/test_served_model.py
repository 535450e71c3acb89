"""Model cards become served models: what is read from them, and which cards are unusable."""

from __future__ import annotations

import zlib

import msgspec
import pytest
from tokenizers import AddedToken, Tokenizer

from edgedraft.wire import ModelCard
from gateway.model import tokenizer as tokenizer_module
from gateway.model.served_model import ModelCatalog, ServedModel, UnusableCard
from gateway.model.tool_call_format import HERMES
from tests.support import toy_model

TOOL_TEMPLATE = (
    "{% for tool in tools %}{{ tool | tojson }}{% endfor %}<tool_call> name arguments"
    "{% for message in messages %}{{ message.content }}{{ message.tool_calls }}{% endfor %}"
)


def card_of(tokenizer: Tokenizer, template: str = toy_model.TEMPLATE) -> ModelCard:
    card = toy_model.card(template=template)
    return msgspec.structs.replace(card, tokenizer=zlib.compress(tokenizer.to_str().encode()))


def test_the_cards_values_are_the_models() -> None:
    model = ServedModel.from_card(toy_model.card(context_length=512, name="other", mark="mark"))
    assert (model.name, model.fingerprint, model.context_length) == ("other", "mark", 512)
    assert (model.vocab_size, model.eos) == (toy_model.VOCAB_SIZE, (toy_model.EOS,))
    assert (model.tool_call_format, model.reasoning_markers, dict(model.marker_tokens)) == (None, None, {})
    assert toy_model.EOS in model.special_tokens


@pytest.mark.parametrize(
    ("tokenizer", "reason"),
    [
        (b"no zlib", "cannot be read"),
        (zlib.compress(b"{}"), "cannot be read"),
        (zlib.compress(b"\xff"), "cannot be read"),
        (zlib.compress(b"{}" * 1000)[:-5], "cut short"),
    ],
)
def test_a_card_without_a_tokenizer_is_unusable(tokenizer: bytes, reason: str) -> None:
    with pytest.raises(UnusableCard, match=reason):
        ServedModel.from_card(msgspec.structs.replace(toy_model.card(), tokenizer=tokenizer))


def test_a_tokenizer_that_unpacks_to_too_much_is_unusable(monkeypatch: pytest.MonkeyPatch) -> None:
    text = zlib.decompress(toy_model.card().tokenizer) + b"\n"  # no other test has loaded it
    card, size = msgspec.structs.replace(toy_model.card(), tokenizer=zlib.compress(text)), len(text)
    monkeypatch.setattr(tokenizer_module, "MAX_TOKENIZER_BYTES", size)
    ServedModel.from_card(card)
    monkeypatch.setattr(tokenizer_module, "MAX_TOKENIZER_BYTES", size - 1)
    with pytest.raises(UnusableCard, match=f"more than {size - 1} bytes"):
        ServedModel.from_card(card)


def test_the_tokenizers_truncation_and_padding_are_removed() -> None:
    tokenizer = Tokenizer.from_str(toy_model.TOKENIZER.to_str())
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=8)
    model = ServedModel.from_card(card_of(tokenizer))
    assert model.tokenizer.encode("abc").ids == toy_model.TOKENIZER.encode("abc").ids


def test_markers_that_are_single_tokens_are_known() -> None:
    tokenizer = Tokenizer.from_str(toy_model.TOKENIZER.to_str())
    tokenizer.add_special_tokens([AddedToken("<think>", special=True), AddedToken("</think>", special=True)])
    tokenizer.add_tokens(["<tool_call>"])
    model = ServedModel.from_card(card_of(tokenizer))
    markers = ("<think>", "</think>", "<tool_call>")
    assert model.reasoning_markers == markers[:2]
    assert dict(model.marker_tokens) == {marker: tokenizer.token_to_id(marker) for marker in markers}
    assert model.marker_tokens["<think>"] in model.special_tokens
    assert model.marker_tokens["<tool_call>"] not in model.special_tokens


def test_tool_calls_need_a_template_that_renders_tools() -> None:
    card = toy_model.card(template=TOOL_TEMPLATE)
    assert ServedModel.from_card(card, supports_tools=True).tool_call_format is HERMES
    assert ServedModel.from_card(card).tool_call_format is None


def test_the_catalog_holds_one_model_per_name() -> None:
    catalog = ModelCatalog()
    assert (len(catalog), catalog.get("toy"), catalog.find_by_fingerprint("a")) == (0, None, None)
    first, second = (ServedModel.from_card(toy_model.card(name=name, mark="a")) for name in ("one", "two"))
    newer = ServedModel.from_card(toy_model.card(name="one", mark="b"))
    for model in (first, second, newer):
        catalog.add(model)
    assert list(catalog) == [newer, second]
    assert catalog.get("one") is newer
    assert catalog.find_by_fingerprint("a") is second
    assert catalog.find_by_fingerprint("b") is newer


def test_models_with_one_tokenizer_share_it() -> None:
    first = ServedModel.from_card(toy_model.card(name="small"))
    second = ServedModel.from_card(toy_model.card(name="large", template=TOOL_TEMPLATE))
    assert first.tokenizer is second.tokenizer
    other = Tokenizer.from_str(first.tokenizer.to_str())
    other.add_tokens(["another"])
    assert ServedModel.from_card(card_of(other)).tokenizer is not first.tokenizer
