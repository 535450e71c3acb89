"""Tools over HTTP: how they reach the model, how its calls come back, and which requests are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from gateway.http.errors import ApiError
from gateway.prompt.tools import Function, Tool, ToolUse, resolve_tool_use, tool_definition
from tests.gateway.api.test_chat import chunks, complete, user
from tests.gateway.conftest import Gateway, running_gateway
from tests.support import toy_model
from tests.support.scripted_verifier import ScriptedVerifier

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "Weather <now>", "parameters": CITY}}
TIME = {"type": "function", "function": {"name": "time"}}
TOOLS = [WEATHER, TIME]

ULM = '<tool_call>\n{"name": "weather", "arguments": {"city": "Ulm"}}\n</tool_call>'
NOW = '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>'

QWEN = (
    "{% if tools %}{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<tool_call> name arguments\n{% endif %}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content }}"
    "{% if message.tool_calls %}{{ message.tool_calls | tojson }}{% endif %}{{ '<|im_end|>\n' }}"
    "{% endfor %}{{ '<|im_start|>assistant\n' }}"
)
MISTRAL = QWEN.replace("<tool_call> name", "[TOOL_CALLS] [ARGS]")


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def prompt_of(verifier: ScriptedVerifier) -> str:
    return toy_model.TOKENIZER.decode(verifier.opened[-1].prompt, skip_special_tokens=False)


async def post(gateway: Gateway, **body: Any) -> tuple[int, dict[str, Any]]:
    async with gateway.http() as http:
        response = await http.post("/v1/chat/completions", json={"model": "toy", "messages": user("say a")} | body)
    return response.status_code, response.json()


@pytest.mark.parametrize("edge", [False, True], ids=["alone", "agent"])
async def test_calls_are_streamed_as_clients_join_them(gateway: Gateway, edge: bool) -> None:
    ask = {"messages": user(f"say Let me see.\n{ULM}\n{NOW}"), "tools": TOOLS, "edgedraft": {"edge": edge}}
    async with gateway.agent():
        got = await chunks(gateway, **ask)
    for chunk in got:
        ChatCompletionChunk.model_validate(chunk, strict=True)
    deltas = [chunk["choices"][0]["delta"] for chunk in got]
    assert deltas[0]["role"] == "assistant"
    assert all("role" not in delta for delta in deltas[1:])
    assert "".join(delta.get("content") or "" for delta in deltas) == "Let me see."
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    heads = [call for call in calls if "id" in call]
    assert [(call["index"], call["function"]["name"], call["type"]) for call in heads] == [
        (0, "weather", "function"),
        (1, "time", "function"),
    ]
    assert len({call["id"] for call in heads}) == 2
    assert all(set(call) == {"index", "function"} for call in calls if call not in heads)
    arguments = ["".join(call["function"]["arguments"] for call in calls if call["index"] == index) for index in (0, 1)]
    assert arguments == ['{"city": "Ulm"}', "{}"]
    assert len(calls) > 6 or edge, "arguments come as they are written"
    assert got[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_a_whole_answer_with_calls(gateway: Gateway) -> None:
    got = await complete(gateway, messages=user(f"say {ULM}"), tools=TOOLS)
    ChatCompletion.model_validate({key: got[key] for key in got if key != "headers"}, strict=True)
    message = got["choices"][0]["message"]
    assert message["content"] is None
    assert message["tool_calls"][0].pop("id").startswith("call_")
    assert message["tool_calls"] == [
        {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Ulm"}'}}
    ]
    assert got["choices"][0]["finish_reason"] == "tool_calls"


async def test_text_stays_text(gateway: Gateway) -> None:
    text = 'It is {"name": "weather"} <tool> < tool_call>'
    got = await complete(gateway, messages=user(f"say {text}"), tools=TOOLS)
    assert got["choices"][0]["message"] == {"role": "assistant", "content": text, "refusal": None}
    assert got["choices"][0]["finish_reason"] == "stop"
    got = await complete(gateway, messages=user(f"say {ULM}"))
    assert got["choices"][0]["message"]["content"] == ULM, "without tools nothing is a call"


async def test_a_call_that_is_cut_off_says_so(gateway: Gateway) -> None:
    got = await complete(gateway, messages=user(f"say {ULM}"), tools=TOOLS, max_tokens=52)
    assert got["choices"][0]["finish_reason"] == "length"
    assert got["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == '{"city"'
    got = await complete(gateway, messages=user(f"say {ULM}"), tools=TOOLS, max_tokens=20)
    assert got["choices"][0]["message"]["content"] == ""


@pytest.mark.parametrize(
    ("choice", "names", "reason"),
    [
        ("auto", {"weather", "time"}, "tool_calls"),
        ("required", {"weather", "time"}, "tool_calls"),
        (named("weather"), {"weather"}, "stop"),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [named("weather")]}},
            {"weather"},
            "tool_calls",
        ),
    ],
)
async def test_the_choice_binds_the_model(
    gateway: Gateway, verifier: ScriptedVerifier, choice: Any, names: set[str], reason: str
) -> None:
    got = await complete(gateway, messages=user(f"say {ULM}"), tools=TOOLS, tool_choice=choice)
    grammar = verifier.opened[0].sampling.grammar
    assert {name for name in ("weather", "time") if f'"{name}\\"' in grammar} == names
    assert ("output: TEXT" in grammar) == (reason == "tool_calls" and choice != "required")
    assert got["choices"][0]["finish_reason"] == reason
    assert got["choices"][0]["message"]["tool_calls"]


async def test_none_keeps_tools_from_the_model(gateway: Gateway, verifier: ScriptedVerifier) -> None:
    got = await complete(gateway, messages=user(f"say {ULM}"), tools=TOOLS, tool_choice="none")
    assert verifier.opened[0].sampling.grammar == ""
    assert verifier.opened[0].prompt == toy_model.chat_prompt(("user", f"say {ULM}"))
    assert got["choices"][0]["message"]["content"] == ULM


async def test_parallel_calls_can_be_forbidden(gateway: Gateway, verifier: ScriptedVerifier) -> None:
    for parallel in (True, False):
        await complete(gateway, messages=user("say a"), tools=TOOLS, parallel_tool_calls=parallel)
    assert ["{0,15}" in opened.sampling.grammar for opened in verifier.opened] == [True, False]


async def test_a_template_without_tools_is_told_in_words(gateway: Gateway, verifier: ScriptedVerifier) -> None:
    history = [
        {"role": "system", "content": "Be brief."},
        *user("Weather?"),
        {
            "role": "assistant",
            "content": "Well.",
            "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Ulm"}'}},
                {"id": "b", "type": "function", "function": {"name": "time", "arguments": ""}},
            ],
        },
        {"role": "tool", "tool_call_id": "a", "content": "rain"},
        {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "text": "noon"}]},
    ]
    await complete(gateway, messages=history, tools=TOOLS, max_tokens=1)
    prompt = prompt_of(verifier)
    system = prompt.partition("<|im_end|>")[0]
    assert system.startswith("<|im_start|>system\nBe brief.\n\n")
    shown = [json.loads(line) for line in system.splitlines() if line.startswith('{"type"')]
    assert shown == [WEATHER, {"type": "function", "function": {"name": "time", "parameters": {}}}]
    assert f"<|im_start|>assistant\nWell.\n{ULM}\n{NOW}<|im_end|>" in prompt
    responses = "<tool_response>\nrain\n</tool_response>\n<tool_response>\nnoon\n</tool_response>"
    assert prompt.endswith(f"<|im_start|>user\n{responses}<|im_end|>\n<|im_start|>assistant\n")


async def test_a_template_with_tools_gets_them(tmp_path: Path) -> None:
    async with (
        ScriptedVerifier(card=toy_model.card(template=QWEN)) as verifier,
        running_gateway(tmp_path, verifier) as gateway,
    ):
        calls = [{"id": "a", "type": "function", "function": {"name": "time", "arguments": "{}"}}]
        history = [{"role": "assistant", "content": None, "tool_calls": calls}, *user(f"say {NOW}")]
        got = await complete(gateway, messages=history, tools=[WEATHER, TIME])
        prompt = prompt_of(verifier)
        assert prompt.startswith(json.dumps(WEATHER))
        assert '"function": {"name": "time", "arguments": {}}' in prompt
        assert "<tools>" not in prompt
        assert got["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "time"


async def test_the_templates_own_form_of_calls_is_kept_to(tmp_path: Path) -> None:
    async with (
        ScriptedVerifier(card=toy_model.card(template=MISTRAL)) as verifier,
        running_gateway(tmp_path, verifier) as gateway,
    ):
        got = await complete(gateway, messages=user("say [TOOL_CALLS]time[ARGS]{}"), tools=TOOLS)
        call = got["choices"][0]["message"]["tool_calls"][0]
        assert call["function"] == {"name": "time", "arguments": "{}"}
        assert len(call["id"]) == 9
        assert call["id"].isalnum()
        assert "[ARGS]" in verifier.opened[0].sampling.grammar


async def test_functions_are_answered_in_their_older_form(gateway: Gateway, verifier: ScriptedVerifier) -> None:
    ask = {
        "messages": user(f"say {ULM}"),
        "functions": [WEATHER["function"], TIME["function"]],
        "function_call": {"name": "weather"},
    }
    got = await complete(gateway, **ask)
    assert got["choices"][0]["message"]["function_call"] == {"name": "weather", "arguments": '{"city": "Ulm"}'}
    assert "tool_calls" not in got["choices"][0]["message"]
    assert got["choices"][0]["finish_reason"] == "stop"
    streamed = await chunks(gateway, **ask | {"function_call": "auto"})
    pieces = [chunk["choices"][0]["delta"].get("function_call", {}) for chunk in streamed]
    assert "".join(piece.get("name", "") for piece in pieces) == "weather"
    assert "".join(piece.get("arguments", "") for piece in pieces) == '{"city": "Ulm"}'
    assert streamed[-1]["choices"][0]["finish_reason"] == "function_call"


def tool(**function: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {"name": "f"} | function}]}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        (tool(name="two words"), "tools.0.function.name"),
        (tool(name="x" * 65), "tools.0.function.name"),
        (tool(name="line\n"), "tools.0.function.name"),
        (tool(parameters=[]), "tools.0.function.parameters"),
        (tool(parameters={"type": "objekt"}, strict=True), "tools"),
        (tool(parameters={"not": {}}, strict=True), "tools"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools.0.type"),
        ({"tools": TOOLS * 65}, "tools"),
        ({"tools": [TIME, TIME]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": named("other")}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "function"}}, "tool_choice.function"),
        (
            {"tools": TOOLS, "tool_choice": {"type": "allowed_tools", "allowed_tools": {}}},
            "tool_choice.allowed_tools.mode",
        ),
        ({"tools": TOOLS, "functions": [TIME["function"]]}, "functions"),
        ({"functions": [TIME["function"]], "function_call": {"name": "g"}}, "tool_choice"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"function": 5}]}]}, "messages.0.tool_calls.0.function"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}}, None),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
            "response_format.json_schema.schema",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "objekt"}}}},
            "response_format",
        ),
        ({"guided_regex": "(a"}, "guided_regex"),
        ({"guided_regex": "a" * 20000}, "guided_regex"),
        ({"guided_regex": "(a{1000}){1000}"}, "guided_regex"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_json": "[]"}, "guided_json"),
        ({"guided_grammar": "nothing of the kind"}, "guided_grammar"),
        ({"structured_outputs": {"regex": "["}}, "structured_outputs.regex"),
        ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "response_format"),
    ],
)
async def test_what_cannot_be_served_is_refused_by_name(gateway: Gateway, change: dict[str, Any], param: str) -> None:
    status, body = await post(gateway, **change)
    assert status == 400, body
    assert body["error"]["type"] == "invalid_request_error"
    assert param is None or body["error"]["param"] == param
    assert body["error"]["message"]


BROKEN = {"type": "object", "properties": {"a": {"type": "objekt"}}}


async def test_schemas_without_strict_are_kept_to_as_far_as_they_can_be(
    gateway: Gateway, verifier: ScriptedVerifier
) -> None:
    for parameters in ({"type": "object", "not": {}, "properties": {"seen": {"type": "string"}}}, BROKEN):
        await complete(gateway, messages=user("say a"), **tool(parameters=parameters))
    lenient, free = (opened.sampling.grammar for opened in verifier.opened)
    assert '"seen"' in lenient
    assert '"lenient": true' in lenient
    assert "objekt" not in free


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"response_format": {"type": "json_object"}}, '%json {"type": "object"'),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": CITY, "strict": True}}},
            '"city"',
        ),
        ({"guided_json": json.dumps(CITY)}, '"city"'),
        ({"guided_regex": "[a-z]{2}"}, "/[a-z]{2}/"),
        ({"guided_choice": ["ja", "nein"]}, '"ja" | "nein"'),
        ({"guided_grammar": 'root ::= "x" "y"'}, '"client"'),
        ({"structured_outputs": {"json": CITY}}, '"city"'),
        ({"structured_outputs": {"choice": ["ja"]}}, '"ja"'),
        ({"structured_outputs": {"json_object": True}}, "%json"),
        ({"response_format": {"type": "text"}}, ""),
        ({"response_format": None, "structured_outputs": {}}, ""),
    ],
)
async def test_formats_become_grammars(
    gateway: Gateway, verifier: ScriptedVerifier, change: dict[str, Any], part: str
) -> None:
    await complete(gateway, messages=user("say a"), **change)
    grammar = verifier.opened[0].sampling.grammar
    assert part in grammar
    assert bool(part) == bool(grammar)


async def test_completions_take_the_extras_too(gateway: Gateway, verifier: ScriptedVerifier) -> None:
    async with gateway.http() as http:
        prompt = toy_model.TOKENIZER.decode(toy_model.chat_prompt(("user", "say a")), skip_special_tokens=False)
        ask = {"model": "toy", "prompt": prompt, "guided_regex": "a+"}
        response = await http.post("/v1/completions", json=ask)
        assert response.status_code == 200, response.text
        assert "/a+/" in verifier.opened[0].sampling.grammar
        assert (await http.post("/v1/completions", json=ask | {"guided_regex": "("})).status_code == 400


THINKS = toy_model.TEMPLATE + "{# </think> #}"


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("edge", [False, True], ids=["alone", "agent"])
async def test_thought_is_told_apart(tmp_path: Path, begun: bool, edge: bool) -> None:
    template = THINKS + ("{{ '<think>\n' }}" if begun else "")
    output = f"{'' if begun else '<think>'}\nWell.\nHm.\n</think>\n\n{ULM}"
    async with (
        ScriptedVerifier(card=toy_model.card(template=template)) as verifier,
        running_gateway(tmp_path, verifier) as gateway,
        gateway.agent(),
    ):
        ask = {"messages": user(f"say {output}"), "tools": TOOLS, "edgedraft": {"edge": edge}}
        got = await complete(gateway, **ask)
        message = got["choices"][0]["message"]
        assert message["reasoning_content"] == message["reasoning"] == "Well.\nHm."
        assert message["content"] is None
        assert message["tool_calls"][0]["function"]["name"] == "weather"
        assert got["usage"]["completion_tokens_details"]["reasoning_tokens"] == len("Well.\nHm.")
        streamed = await chunks(gateway, **ask | {"stream_options": {"include_usage": True}})
    deltas = [chunk["choices"][0]["delta"] for chunk in streamed[:-1]]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "Well.\nHm."
    assert not any(delta.get("content") for delta in deltas)
    assert streamed[-1]["usage"]["completion_tokens_details"]["reasoning_tokens"] == len("Well.\nHm.")


async def test_a_template_may_be_told_not_to_think(tmp_path: Path) -> None:
    template = THINKS + "{% if enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    async with (
        ScriptedVerifier(card=toy_model.card(template=template)) as verifier,
        running_gateway(tmp_path, verifier) as gateway,
    ):
        ask = {"messages": user("say <think>a</think>b")}
        got = await complete(gateway, **ask, chat_template_kwargs={"enable_thinking": False})
        assert got["choices"][0]["message"]["content"] == "<think>a</think>b"
        assert prompt_of(verifier).endswith("</think>\n\n")
        got = await complete(gateway, **ask)
        assert got["choices"][0]["message"]["reasoning"] == "a"
        assert got["choices"][0]["message"]["content"] == "b"


def resolve(choice: Any, parallel: bool | None = None, tools: list[dict[str, Any]] = TOOLS) -> ToolUse | None:
    return resolve_tool_use([Tool.model_validate(tool) for tool in tools], choice, parallel)


def allowed(mode: str, *names: str) -> dict[str, Any]:
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [named(name) for name in names]}}


@pytest.mark.parametrize(
    ("choice", "parallel", "expected"),
    [
        (None, None, (["weather", "time"], False, False, True)),
        ("auto", False, (["weather", "time"], False, False, False)),
        ("required", True, (["weather", "time"], True, False, True)),
        (named("time"), True, (["time"], True, True, False)),
        (allowed("auto", "time", "time"), None, (["time"], False, False, True)),
        (allowed("required", "time", "weather"), False, (["time", "weather"], True, False, False)),
    ],
)
def test_tool_use_follows_the_parameters(
    choice: Any, parallel: bool | None, expected: tuple[list[str], bool, bool, bool]
) -> None:
    use = resolve(choice, parallel)
    assert use
    assert ([function.name for function in use.functions], use.required, use.named, use.parallel) == expected


def test_no_tool_may_be_called_without_tools_or_with_none() -> None:
    assert resolve("none") is None
    assert [resolve(choice, tools=[]) for choice in (None, "none", "auto")] == [None] * 3


def test_allowed_tools_without_a_tool_are_rejected() -> None:
    with pytest.raises(ApiError, match="names no tool"):
        resolve(allowed("auto"))


def test_a_definition_has_what_the_function_has() -> None:
    assert tool_definition(Function(name="f")) == {"type": "function", "function": {"name": "f", "parameters": {}}}
    described = tool_definition(Function(name="f", description="d", parameters={"type": "object"}))
    assert described["function"] == {"name": "f", "description": "d", "parameters": {"type": "object"}}


@pytest.mark.parametrize("kind", ["array", "string", ["string", "null"]])
def test_a_schema_that_is_no_object_is_refused(kind: Any) -> None:
    tool = Tool(type="function", function=Function(name="listing", parameters={"type": kind}))
    with pytest.raises(ApiError, match="'listing'") as raised:
        resolve_tool_use([tool], "auto", None)
    assert (raised.value.status, raised.value.body["error"]["code"]) == (400, "invalid_function_parameters")
