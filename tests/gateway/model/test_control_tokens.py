"""Control tokens come from the template alone, whatever a client writes and wherever; honest prompts are unchanged."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.chat_template import ChatTemplate, split_reasoning
from gateway.model.control_tokens import ControlTokenInContent, PromptTokenizer, PromptTooLong
from tests.support import toy_model
from tests.support.chat_templates import FAMILIES, Family

LIMIT = 100_000
MARKERS = ("<tool_call>", "</tool_call>", "<think>", "</think>")


class Model:
    """A family's tokenizer and template, as a prompt worker uses them."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.tokenizer = family.tokenizer()
        self.prompt_tokenizer = PromptTokenizer(self.tokenizer, family.template, MARKERS)
        self.template = ChatTemplate(family.template, family.control[0], family.control[1])
        self.ids = {text: self.tokenizer.token_to_id(text) for text in (*family.control, *family.ordinary)}
        self.texts = {number: text for text, number in self.ids.items()}

    def tokens(
        self, messages: list[dict[str, Any]], tools: Any = None, options: dict[str, Any] | None = None
    ) -> list[int]:
        shield, (protected, kwargs, shown) = self.prompt_tokenizer.protect((messages, options or {}, tools))
        text = self.template.render(protected, kwargs, shown, dict(shield.pairs))
        return self.prompt_tokenizer.encode(text, shield, LIMIT)

    def control(self, tokens: list[int]) -> list[str]:
        return [self.texts[token] for token in tokens if token in self.texts]

    def decode(self, tokens: list[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=False)


MODELS = {family.name: Model(family) for family in FAMILIES}


def conversation(text: str, name: str = "f") -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A chat with tools in which `text` stands wherever a client may write."""
    call = {"id": text, "type": "function", "function": {"name": name, "arguments": {"a": text, text: ["b", text]}}}
    messages = [
        {"role": "system", "content": text},
        {"role": "user", "content": text, "name": text},
        {"role": "assistant", "content": text, "tool_calls": [call]},
        {"role": "tool", "content": text, "tool_call_id": text},
        {"role": "user", "content": "x" + text + "y"},
    ]
    parameters = {"type": "object", "description": text, "properties": {text: {"enum": [text]}}}
    return messages, [{"type": "function", "function": {"name": name, "description": text, "parameters": parameters}}]


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Model:
    return MODELS[request.param]


def test_every_control_token_is_kept_out_of_every_place(model: Model) -> None:
    harmless = model.control(model.tokens(*conversation("z")))
    assert harmless, "the template has control tokens of its own"
    for marker in model.ids:
        for text in (
            marker,
            f"a{marker}b",
            marker * 3,
            f"{marker}\n{model.family.control[1]}",
            marker[:-1],
            marker[1:],
        ):
            assert model.control(model.tokens(*conversation(text))) == harmless, text


def test_what_was_written_is_still_there(model: Model) -> None:
    text = "".join(model.ids) + " end"
    tokens = model.tokens([{"role": "user", "content": text}])
    assert text.replace(" ", "") in model.decode(tokens).replace(" ", "")


def test_an_honest_prompt_has_the_tokens_of_the_whole_text(model: Model) -> None:
    for text in ("hello", "a < b and [c] | d > e", "<div>é</div>", " \n ", "<|im", "x <", "[IN"):
        messages, tools = conversation(text)
        rendered = model.template.render(messages, {}, tools)
        assert model.tokens(messages, tools) == model.tokenizer.encode(rendered, add_special_tokens=False).ids


fragments = st.sampled_from(
    ["<", "|", ">", "[", "]", "/", "im_start", "|>", "\n", " ", "\ue000", "\U000f0000", "a", "<|", "INST"]
)


@pytest.mark.parametrize("name", MODELS)
@given(data=st.data())
def test_any_text(name: str, data: st.DataObject) -> None:
    model = MODELS[name]
    pieces = st.one_of(fragments, st.sampled_from(list(model.ids)), st.text(max_size=3))
    text = data.draw(st.lists(pieces, max_size=8).map("".join))
    if "</think>" in text and name in ("qwen-3", "deepseek"):
        text = text.replace("</think>", "")
    harmless = model.control(model.tokens(*conversation("z")))
    assert model.control(model.tokens(*conversation(text))) == harmless


def test_two_texts_cannot_form_a_control_token_together() -> None:
    model = Model(Family("joined", "{{ messages[0].role + messages[0].content }}<|e|>", ("<|s|>", "<|e|>")))
    assert model.control(model.tokens([{"role": "<|s", "content": "|>"}])) == ["<|e|>"]


def test_variables_of_the_template_are_protected() -> None:
    model = Model(Family("options", "{{ extra }}<|e|>", ("<|s|>", "<|e|>")))
    assert model.control(model.tokens([], options={"extra": "<|s|>"})) == ["<|e|>"]


def test_escapes_of_json_show_what_was_written() -> None:
    model = Model(Family("json", "{{ messages[0].content | tojson(ensure_ascii=true) }}<|e|>", ("<|s|>", "<|e|>")))
    tokens = model.tokens([{"role": "user", "content": "é <b>"}])
    assert model.decode(tokens) == '"\\u00e9 <b>"<|e|>'


def test_white_space_tokens_are_no_control_tokens() -> None:
    tokenizer = toy_model.build()
    tokenizer.add_tokens(["  ", "\n\n"])
    encoder = PromptTokenizer(tokenizer, "")
    shield, text = encoder.protect("a  b\n\n<|im_end|>")
    tokens = encoder.encode(text, shield, LIMIT)
    assert tokenizer.token_to_id("<|im_end|>") not in tokens
    shield, text = encoder.protect("a  b\n\n")
    assert tokenizer.token_to_id("\n\n") in encoder.encode(text, shield, LIMIT)


def test_twins_are_chosen_so_that_the_text_has_none() -> None:
    encoder = PromptTokenizer(toy_model.TOKENIZER, "")
    for shield in encoder.shields():
        twin = shield.pairs[0][1]
        used, text = encoder.protect(f"<|im_end|>{twin}")
        assert used.restore(text) == f"<|im_end|>{twin}"
    every = "".join(twin for shield in encoder.shields() for _, twin in shield.pairs)
    with pytest.raises(ControlTokenInContent):
        encoder.protect(every)


def test_a_plain_text_is_protected_unless_it_may_have_control_tokens() -> None:
    encoder = PromptTokenizer(toy_model.TOKENIZER, "")
    text = "<|im_start|>user"
    closed = encoder.encode_plain(text, LIMIT, with_ends=False, with_control=False)
    opened = encoder.encode_plain(text, LIMIT, with_ends=False, with_control=True)
    assert len(closed) == len(text)
    assert opened == toy_model.TOKENIZER.encode(text).ids


def test_a_text_that_is_far_too_long_is_noticed_by_its_beginning() -> None:
    encoder = PromptTokenizer(toy_model.TOKENIZER, "")
    with pytest.raises(PromptTooLong):
        encoder.encode_plain("7" * 10_000_000, 100, with_ends=False, with_control=True)
    with pytest.raises(PromptTooLong) as raised:
        encoder.encode_plain("7" * 101, 100, with_ends=False, with_control=False)
    assert raised.value.num_tokens == 101
    assert len(encoder.encode_plain("7" * 100, 100, with_ends=False, with_control=False)) == 100


def test_reasoning_at_the_beginning_of_an_answer_is_split_off() -> None:
    markers = ("<think>", "</think>")
    answer = {"role": "assistant", "content": "<think>\nwell\n</think>\n\nyes"}
    assert split_reasoning(answer, markers) == {"role": "assistant", "reasoning_content": "well", "content": "yes"}
    for message in (
        {**answer, "role": "user"},
        {"role": "assistant", "content": "yes"},
        {"role": "assistant", "content": None},
    ):
        assert split_reasoning(message, markers) == message


def test_the_families_are_what_they_claim(model: Model) -> None:
    """Each control token is one token of its own, and the template uses some of them."""
    for text, number in model.ids.items():
        assert model.tokenizer.encode(text, add_special_tokens=False).ids[-1:] == [number]
    assert any(re.search(re.escape(text), model.family.template) for text in model.ids)
