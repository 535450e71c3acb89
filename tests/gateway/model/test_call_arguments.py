"""What this server answers, cut at any token, can be sent back with a tool's result, whatever the template does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from gateway.api.chat.message import AssistantMessage
from gateway.api.chat.request import parse_chat_request, template_messages
from gateway.api.responses.messages import chat_messages
from gateway.model.call_arguments import arguments_object, with_argument_objects
from gateway.model.chat_template import ChatTemplate
from gateway.model.prompt_jobs import Encoded, Message, Render, decode_result, encode_message, unpack_tokens
from gateway.model.prompt_worker import PromptModel, run_job
from gateway.model.served_model import prompt_setup
from gateway.model.tool_call_format import HERMES, LLAMA, MISTRAL, MISTRAL_LIST, ToolCallFormat
from gateway.model.tool_prompt import add_tools_as_text
from gateway.output.choice_output import ChoiceOutput
from gateway.output.events import ChoiceFinished
from gateway.output.parser import OutputSyntax
from tests.gateway.output.test_choice_output import THINKING, ids, model, written
from tests.support import toy_model

__all__ = ["model"]

# Templates walk over the arguments (Qwen3-Coder, GLM), print them (Qwen, Llama) or are strict about ids (Mistral).
_TURNS = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% if m.tool_calls %}{% for c in m.tool_calls %}"
_END = "{% endfor %}{% endif %}{% endfor %}{{ tools }}"
TEMPLATES = {
    "walks": _TURNS + "{% for k, v in c.function.arguments|items %}<{{ k }}>{{ v }}{% endfor %}" + _END,
    "methods": _TURNS + "{% for k, v in c.function.arguments.items() %}<{{ k }}>{{ v }}{% endfor %}" + _END,
    "prints": _TURNS + "{{ c.function.arguments | tojson }}" + _END,
    "ids": _TURNS + "{% if c.id|length != 9 %}{{ raise_exception('ids have 9 characters') }}{% endif %}" + _END,
}


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ('{"a": 1}', {"a": 1}),
        ({"a": 1}, {"a": 1}),
        ("", {}),
        (" ", {}),
        (None, {}),
        ("null", {}),
        ("[1]", {"arguments": [1]}),
        ([1], {"arguments": [1]}),
        ("5", {"arguments": 5}),
        (5, {"arguments": 5}),
        ('"x"', {"arguments": "x"}),
        ('{"a": 1', {"arguments": '{"a": 1'}),
        ("[" * 5000, {"arguments": "[" * 5000}),
    ],
)
def test_arguments_are_an_object_whatever_was_sent(given: Any, taken: dict[str, Any]) -> None:
    assert arguments_object(given) == taken


def history(model: Any, form: ToolCallFormat, text: str) -> tuple[AssistantMessage, bool]:
    """What a client has of an output that ended here, and whether it has a call."""
    output = ChoiceOutput(0, model, (), (), OutputSyntax(THINKING, form, ("get",)))
    message = AssistantMessage()
    for event in output.feed(ids(text), finish="length"):
        if not isinstance(event, ChoiceFinished):
            message.add(event)
    return message, bool(message.document().get("tool_calls"))


def render(template: str, messages: Sequence[Message]) -> str:
    return ChatTemplate(TEMPLATES[template], "", "").render(messages)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("form", [HERMES, MISTRAL, MISTRAL_LIST, LLAMA])
def test_an_answer_cut_anywhere_can_be_sent_back(model: Any, form: ToolCallFormat, legacy: bool) -> None:
    text = "<think>why</think>" + written(form, '{"a": [1, {"b": "}"}]}')
    for cut in range(1, len(text)):
        message, called = history(model, form, text[:cut])
        answer = message.document(legacy)
        turns = [{"role": "user", "content": "x"}, answer]
        if called and legacy:
            turns.append({"role": "function", "name": "get", "content": "ok"})
        elif called:
            turns.append({"role": "tool", "tool_call_id": answer["tool_calls"][0]["id"], "content": "ok"})
        sent = template_messages(parse_chat_request({"model": "m", "messages": turns}).messages)
        messages = with_argument_objects(sent)
        for template in TEMPLATES:
            if template != "ids" or form.id_length or legacy:
                assert "user: x" in render(template, messages)
        add_tools_as_text(messages, None)


@pytest.mark.parametrize("arguments", ["", "null", "[1]", '{"a": 1', "5"])
def test_the_items_of_a_response_can_be_sent_back(arguments: str) -> None:
    call = {"type": "function_call", "call_id": "123456789", "name": "get", "arguments": arguments}
    result = {"type": "function_call_output", "call_id": "123456789", "output": "ok"}
    messages = with_argument_objects(chat_messages(None, [call, result]))
    for template in TEMPLATES:
        assert "tool: ok" in render(template, messages)


def test_a_worker_parses_arguments_before_it_protects_texts() -> None:
    """Escaped in JSON, the text of a control token has to be parsed to be seen."""
    template = toy_model.TEMPLATE.replace("message['content']", "message['tool_calls'] | tojson")
    card = toy_model.card(template=template)
    loaded = PromptModel.load(prompt_setup(card).load())
    escaped = toy_model.END.replace("<", "\\u003c")
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": f'{{"a": "{escaped}"}}'}}
    message = {"role": "assistant", "content": "", "tool_calls": [call]}
    result = decode_result(run_job(encode_message(Render([message], {}, None, False, 2048)), loaded))
    assert isinstance(result, Encoded)
    tokens = unpack_tokens(result.tokens[0])
    text = toy_model.TOKENIZER.decode(tokens, skip_special_tokens=False)
    assert f'"arguments": {{"a": "{toy_model.END}"}}' in text, "it is an object"
    assert tokens.count(toy_model.EOS) == 1, "the template's own"
