"""A prepared chat: prompt, grammar and output syntax for models with and without tools and reasoning."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edgedraft.grammar.service import GrammarChecker, GrammarService
from edgedraft.workers.pool import JobOwner
from gateway.http.errors import ApiError
from gateway.model.prompt_workers import PromptWorkers
from gateway.model.served_model import ServedModel
from gateway.prompt.chat import prepare_chat
from gateway.prompt.output_format import OutputFormat
from gateway.prompt.output_grammar import choice_fragment, client_grammar_fragment
from gateway.prompt.preparation import PromptPreparation
from gateway.prompt.tools import Function, ToolUse
from tests.support import toy_model

MODEL = ServedModel.from_card(toy_model.card())
USER = [{"role": "user", "content": "hello"}]
TOOLS = ToolUse((Function(name="time"),))


@pytest.fixture
def grammars() -> Iterator[GrammarChecker]:
    service = GrammarService()
    yield GrammarChecker(service, JobOwner("key"))
    service.close()


@pytest.fixture
def prompts() -> Iterator[PromptPreparation]:
    workers = PromptWorkers()
    yield PromptPreparation(workers, JobOwner("key"))
    workers.close()


async def test_a_plain_chat_has_no_grammar(prompts: PromptPreparation, grammars: GrammarChecker) -> None:
    prepared = await prepare_chat(MODEL, prompts, grammars, USER, {})
    assert prepared.prompt == toy_model.chat_prompt(("user", "hello"))
    assert prepared.grammar == ""
    assert prepared.syntax is None


async def test_an_output_format_becomes_the_grammar(prompts: PromptPreparation, grammars: GrammarChecker) -> None:
    prepared = await prepare_chat(
        MODEL, prompts, grammars, USER, {}, output_format=OutputFormat(choice_fragment(["a"]), "x")
    )
    assert '"a"' in prepared.grammar
    assert prepared.syntax is None


async def test_tools_are_part_of_the_output_syntax(prompts: PromptPreparation, grammars: GrammarChecker) -> None:
    prepared = await prepare_chat(MODEL, prompts, grammars, USER, {}, TOOLS)
    assert "time" in prepared.grammar
    assert prepared.syntax
    assert prepared.syntax.names == ("time",)


async def test_errors_name_the_parameter(prompts: PromptPreparation, grammars: GrammarChecker) -> None:
    without_template = ServedModel.from_card(toy_model.card(template=""))
    with pytest.raises(ApiError) as raised:
        await prepare_chat(without_template, prompts, grammars, USER, {}, messages_param="input")
    assert (raised.value.body["error"]["param"], raised.value.body["error"]["code"]) == ("input", "invalid_messages")
    strict = ToolUse((Function(name="f", parameters={"properties": {"a": {"type": "objekt"}}}, strict=True),))
    with pytest.raises(ApiError) as raised:
        await prepare_chat(MODEL, prompts, grammars, USER, {}, strict)
    assert (raised.value.body["error"]["param"], raised.value.body["error"]["code"]) == (
        "tools",
        "invalid_function_parameters",
    )
    broken = OutputFormat(client_grammar_fragment("start: <nothing>"), "guided_grammar")
    with pytest.raises(ApiError) as raised:
        await prepare_chat(MODEL, prompts, grammars, USER, {}, output_format=broken)
    assert raised.value.body["error"]["param"] == "guided_grammar"


async def test_a_template_with_tools_receives_them_as_a_variable(
    prompts: PromptPreparation, grammars: GrammarChecker
) -> None:
    template = "{% for t in tools %}{{ t.function.name }}{% endfor %}{{ messages[0].tool_calls }}<tool_call> arguments"
    model = ServedModel.from_card(toy_model.card(template=template), supports_tools=True)
    prepared = await prepare_chat(model, prompts, grammars, USER, {}, TOOLS)
    assert toy_model.TOKENIZER.decode(prepared.prompt) == "time<tool_call> arguments"
    as_text = await prepare_chat(MODEL, prompts, grammars, USER, {}, TOOLS)
    assert '"name": "time"' in toy_model.TOKENIZER.decode(as_text.prompt)
