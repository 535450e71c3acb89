"""Model cards become served models: what is read from them, and which cards are unusable."""

from __future__ import annotations

import json
import zlib

import msgspec
import pytest
from tokenizers import AddedToken, Tokenizer

from edgedraft.wire import ModelCard
from gateway.model import served_model
from gateway.model.chat_template import ChatTemplateError
from gateway.model.served_model import ModelCatalog, ServedModel, UnusableCard
from gateway.model.tool_call_format import HERMES
from tests.support import toy_model

HELLO = [{"role": "user", "content": "hi"}]
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
    card = toy_model.card()
    size = len(zlib.decompress(card.tokenizer))
    monkeypatch.setattr(served_model, "MAX_TOKENIZER_BYTES", size)
    ServedModel.from_card(card)
    monkeypatch.setattr(served_model, "MAX_TOKENIZER_BYTES", size - 1)
    with pytest.raises(UnusableCard, match=f"more than {size - 1} bytes"):
        ServedModel.from_card(card)


def test_a_template_that_does_not_compile_is_unusable() -> None:
    with pytest.raises(UnusableCard, match="does not compile"):
        ServedModel.from_card(toy_model.card(template="{% if %}"))


def test_a_model_without_a_template_serves_no_chats() -> None:
    model = ServedModel.from_card(toy_model.card(template=""))
    assert model.template is None
    with pytest.raises(ChatTemplateError, match="toy has no chat template"):
        model.render_chat(HELLO, {})


def test_a_chat_is_encoded_as_its_template_writes_it() -> None:
    model = ServedModel.from_card(toy_model.card())
    assert model.encode_chat(HELLO, {}) == toy_model.chat_prompt(("user", "hi"))
    assert model.encode(model.render_chat(HELLO, {})) == toy_model.chat_prompt(("user", "hi"))


def test_the_tokenizers_truncation_and_padding_are_removed() -> None:
    tokenizer = Tokenizer.from_str(toy_model.TOKENIZER.to_str())
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=8)
    model = ServedModel.from_card(card_of(tokenizer))
    assert model.encode("abc") == toy_model.TOKENIZER.encode("abc").ids


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
    assert ServedModel.from_card(toy_model.card(template=TOOL_TEMPLATE)).tool_call_format is HERMES
    mention = "{# <tool_call> name arguments #}" + toy_model.TEMPLATE
    assert ServedModel.from_card(toy_model.card(template=mention)).tool_call_format is None


def test_tools_reach_the_template() -> None:
    model = ServedModel.from_card(toy_model.card(template=TOOL_TEMPLATE))
    tool = {"type": "function", "function": {"name": "time"}}
    assert model.render_chat(HELLO, {}, [tool]).startswith(json.dumps(tool))


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
