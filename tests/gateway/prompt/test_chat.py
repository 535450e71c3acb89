"""A prepared chat: prompt, grammar and output syntax for models with and without tools and reasoning."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edgedraft.grammar.service import GrammarService
from gateway.http.errors import ApiError
from gateway.model.served_model import ServedModel
from gateway.prompt.chat import prepare_chat, template_inputs
from gateway.prompt.output_format import OutputFormat
from gateway.prompt.output_grammar import choice_fragment, client_grammar_fragment
from gateway.prompt.tools import Function, ToolUse
from tests.support import toy_model

MODEL = ServedModel.from_card(toy_model.card())
USER = [{"role": "user", "content": "hello"}]
TOOLS = ToolUse((Function(name="time"),))


@pytest.fixture
def grammars() -> Iterator[GrammarService]:
    grammars = GrammarService()
    yield grammars
    grammars.close()


async def test_a_plain_chat_has_no_grammar(grammars: GrammarService) -> None:
    prepared = await prepare_chat(MODEL, grammars, USER, {})
    assert prepared.prompt == toy_model.chat_prompt(("user", "hello"))
    assert prepared.grammar == ""
    assert prepared.syntax is None


async def test_an_output_format_becomes_the_grammar(grammars: GrammarService) -> None:
    prepared = await prepare_chat(MODEL, grammars, USER, {}, output_format=OutputFormat((choice_fragment(["a"]),), "x"))
    assert '"a"' in prepared.grammar
    assert prepared.syntax is None


async def test_tools_are_part_of_the_output_syntax(grammars: GrammarService) -> None:
    prepared = await prepare_chat(MODEL, grammars, USER, {}, TOOLS)
    assert "time" in prepared.grammar
    assert prepared.syntax
    assert prepared.syntax.names == ("time",)


async def test_errors_name_the_parameter(grammars: GrammarService) -> None:
    without_template = ServedModel.from_card(toy_model.card(template=""))
    with pytest.raises(ApiError) as raised:
        await prepare_chat(without_template, grammars, USER, {}, messages_param="input")
    assert (raised.value.body["error"]["param"], raised.value.body["error"]["code"]) == ("input", "invalid_messages")
    strict = ToolUse((Function(name="f", parameters={"type": "objekt"}, strict=True),))
    with pytest.raises(ApiError) as raised:
        await prepare_chat(MODEL, grammars, USER, {}, strict)
    assert (raised.value.body["error"]["param"], raised.value.body["error"]["code"]) == (
        "tools",
        "invalid_function_parameters",
    )
    broken = OutputFormat((client_grammar_fragment("start: <nothing>"),), "guided_grammar")
    with pytest.raises(ApiError) as raised:
        await prepare_chat(MODEL, grammars, USER, {}, output_format=broken)
    assert raised.value.body["error"]["param"] == "guided_grammar"


def test_a_template_with_tools_receives_them_as_a_variable() -> None:
    messages, variable = template_inputs(MODEL, USER, TOOLS)
    assert (len(messages), variable) == (2, None)
    template = "{% for t in tools %}{% endfor %}{{ messages[0].tool_calls }}<tool_call> arguments"
    messages, variable = template_inputs(ServedModel.from_card(toy_model.card(template=template)), USER, TOOLS)
    assert messages == USER
    assert variable
    assert variable[0]["function"]["name"] == "time"
