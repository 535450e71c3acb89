"""What coding agents send: custom tools, namespaces, hosted tools that a model cannot be given."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.gateway.api.responses.reading import complete, events, post, text_of
from tests.gateway.conftest import Gateway
from tests.support import toy_model
from tests.support.scripted_verifier import ScriptedVerifier

TIME = {"type": "function", "name": "time", "parameters": None, "strict": None}
WEB = {"type": "web_search", "external_web_access": False}
NOTE = {"type": "custom", "name": "note"}
LINES = 'start: begin line+ "*** End"\nbegin: "*** Begin" LF\nline: /[+-].*/ LF\n%import common.LF'
LOOPS = 'start: term\nterm: "(" term ")" | /[a-z]+/ | "\\""'


def grammar(syntax: str, definition: str) -> dict[str, Any]:
    return {"type": "grammar", "syntax": syntax, "definition": definition}


PATCH = {"type": "custom", "name": "apply_patch", "description": "Edit files", "format": grammar("lark", LINES)}
DIFF = '*** Begin\n+one "}\n-\\two é 😀\n*** End'


def written(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def given(name: str, text: str) -> str:
    return written(name, json.dumps({"input": text}))


@pytest.mark.parametrize("tool", [PATCH, NOTE], ids=["by a grammar", "free text"])
async def test_a_custom_tools_input_is_a_text(gateway: Gateway, tool: dict[str, Any]) -> None:
    asked: dict[str, Any] = {"input": f"say {given(tool['name'], DIFF)}", "tools": [tool, TIME]}
    got = await complete(gateway, **asked)
    (call,) = got["output"]
    assert (call["type"], call["name"], call["input"]) == ("custom_tool_call", tool["name"], DIFF)
    assert call["id"].startswith("ctc_")
    streamed = await events(gateway, **asked)
    kinds = [event["type"].removeprefix("response.") for event in streamed]
    done = ["custom_tool_call_input.done", "output_item.done", "completed"]
    assert kinds[:3] == ["created", "in_progress", "output_item.added"]
    assert set(kinds[3:-3]) == {"custom_tool_call_input.delta"}
    assert kinds[-3:] == done
    assert len(kinds) > 9, "the input is streamed"
    assert "".join(event["delta"] for event in streamed[3:-3]) == streamed[-3]["input"] == DIFF
    assert streamed[2]["item"]["input"] == ""
    assert streamed[-2]["item"]["input"] == DIFF


async def test_the_loop_of_custom_tools(gateway: Gateway, verifier: ScriptedVerifier) -> None:
    first = await complete(gateway, input=f"say {given('apply_patch', DIFF)}", tools=[PATCH])
    (call,) = first["output"]
    result = {"type": "custom_tool_call_output", "call_id": call["call_id"], "output": "done"}
    asked: list[dict[str, Any]] = [
        {"input": [result, {"role": "user", "content": "say so"}], "previous_response_id": first["id"]},
        {"input": [{"role": "user", "content": "x"}, call, result, {"role": "user", "content": "say so"}]},
    ]
    for body in asked:
        assert text_of(await complete(gateway, tools=[PATCH], **body)) == "so"
        prompt = toy_model.TOKENIZER.decode(verifier.opened[-1].prompt, skip_special_tokens=False)
        history = prompt[: prompt.index("<tool_response>")]
        shown = json.dumps({"input": DIFF}, ensure_ascii=False)
        assert written("apply_patch", shown) in history
        assert "<tool_response>\ndone\n</tool_response>" in prompt


async def test_a_custom_tools_grammar_constrains_the_call(gateway: Gateway, verifier: ScriptedVerifier) -> None:
    digits = PATCH | {"format": grammar("regex", "^[0-9]{3}$"), "name": "digits"}
    loops = PATCH | {"format": grammar("lark", LOOPS), "name": "loops"}
    choice = {"type": "custom", "name": "apply_patch"}
    await complete(gateway, input="say hi", tools=[PATCH, digits], tool_choice=choice)
    named = json.loads(verifier.opened[0].sampling.grammar)
    assert [one["name"] for one in named["grammars"]] == ["output", "client_0"]
    assert "*** Begin" in named["grammars"][1]["lark_grammar"]
    await complete(gateway, input="say hi", tools=[digits], tool_choice="required")
    assert "^(?:[0-9]{3})$" in verifier.opened[1].sampling.grammar
    await complete(gateway, input="say hi", tools=[digits, PATCH, loops])
    named = json.loads(verifier.opened[2].sampling.grammar)
    assert [one["name"] for one in named["grammars"]] == ["output", "client_1", "client_2"]
    # A model that has not learnt the grammar can read it.
    prompt = toy_model.TOKENIZER.decode(verifier.opened[0].prompt)
    assert "*** Begin" in prompt


async def test_a_cut_call_has_its_input_as_far_as_it_came(gateway: Gateway) -> None:
    text = given("note", "*** Begin")
    got = await complete(gateway, input=f"say {text}", tools=[NOTE], max_output_tokens=text.index("gin"))
    (call,) = got["output"]
    assert (got["status"], call["input"]) == ("incomplete", "*** Be")
    assert got["incomplete_details"] == {"reason": "max_output_tokens"}
    assert got["usage"]["output_tokens"] == text.index("gin")


async def test_a_namespaces_tools_have_their_own_names(gateway: Gateway, verifier: ScriptedVerifier) -> None:
    spaces = {"files": "files__", "mcp__a.b__": "mcp__a_b__", "n" * 64: "n" * 55 + "_"}
    for space, prefix in spaces.items():
        tool = {"type": "namespace", "name": space, "description": "Of files.", "tools": [TIME, NOTE]}
        await complete(gateway, input="say hi", tools=[tool], tool_choice="required")
        shown = toy_model.TOKENIZER.decode(verifier.opened[-1].prompt)
        assert shown.count("Of files.") == 1
        names = [json.loads(line)["function"]["name"] for line in shown.splitlines() if line.startswith('{"type": "f')]
        assert all(name.startswith(prefix) and len(name) <= 64 for name in names)
        assert len(set(names)) == 2
        for model_name, name, kind in zip(names, ("time", "note"), ("function_call", "custom_tool_call"), strict=True):
            arguments = "{}" if kind == "function_call" else '{"input": "x"}'
            got = await complete(gateway, input=f"say {written(model_name, arguments)}", tools=[tool])
            (call,) = got["output"]
            assert (call["type"], call["name"], call["namespace"]) == (kind, name, space)
            result = {"type": f"{kind}_output", "call_id": call["call_id"], "output": "noon"}
            history = [{"role": "user", "content": "x"}, call, result, {"role": "user", "content": "say so"}]
            await complete(gateway, input=history, tools=[tool])
            prompt = toy_model.TOKENIZER.decode(verifier.opened[-1].prompt)
            assert written(model_name, arguments) in prompt, "a call of the history has the name that the model knows"
        choice = {"type": "function", "name": "time", "namespace": space}
        got = await complete(gateway, input="say hi", tools=[tool], tool_choice=choice)
        assert names[0] in verifier.opened[-1].sampling.grammar
        assert names[1] not in verifier.opened[-1].sampling.grammar


async def test_tools_that_a_model_cannot_be_given_are_left_out_and_said_so(gateway: Gateway) -> None:
    hosted = [WEB, {"type": "mcp", "server_label": "s"}, {"type": "what_comes_next"}, TIME]
    for choice in ("auto", "required", {"type": "allowed_tools", "mode": "auto", "tools": [WEB, TIME]}):
        got = await complete(gateway, input=f"say {written('time', '{}')}", tools=hosted, tool_choice=choice)
        assert got["edgedraft"]["left_out_tools"] == ["web_search", "mcp", "what_comes_next"]
        assert got["output"][0]["name"] == "time"
        assert [tool["type"] for tool in got["tools"]] == ["function"], "types that no SDK knows are not repeated"
    for choice in ("auto", "none", {"type": "allowed_tools", "mode": "auto", "tools": [WEB]}):
        alone = await complete(gateway, input="say hi", tools=hosted[:1], tool_choice=choice)
        assert text_of(alone) == "hi"
    streamed = await events(gateway, input="say hi", tools=[WEB])
    assert streamed[-1]["response"]["edgedraft"]["left_out_tools"] == ["web_search"]


async def test_what_is_wrong_is_named(gateway: Gateway) -> None:
    many = [PATCH | {"name": f"p{n}", "format": grammar("lark", f"start: /{'a' * 12000}/")} for n in range(3)]
    crowd = {"type": "namespace", "name": "n", "tools": [TIME | {"name": f"t{n}"} for n in range(100)]}
    wrong: list[tuple[dict[str, Any], str, str]] = [
        ({"tools": [{"name": "typeless"}]}, "tools.0.type", "invalid_value"),
        ({"tools": [TIME, WEB], "tool_choice": {"type": "web_search"}}, "tool_choice", "unsupported_tool"),
        ({"tools": [WEB], "tool_choice": "required"}, "tool_choice", "unsupported_tool"),
        ({"tools": [NOTE | {"format": grammar("ebnf", "x")}]}, "tools.0.format.syntax", "invalid_value"),
        ({"tools": [NOTE | {"format": grammar("lark", "<")}]}, "tools", "invalid_function_parameters"),
        ({"tools": [NOTE | {"format": grammar("lark", "start: x")}]}, "tools", "invalid_function_parameters"),
        ({"tools": [NOTE | {"format": grammar("regex", "(")}]}, "tools", "invalid_function_parameters"),
        ({"tools": many}, "tools", "invalid_value"),
        ({"tools": [crowd, crowd | {"name": "m"}]}, "tools", "invalid_value"),
        ({"tools": [crowd | {"tools": [NOTE, {"type": "function"}]}]}, "tools.0.tools.1.name", "invalid_value"),
    ]
    for change, param, code in wrong:
        response = await post(gateway, {"input": "say hi"} | change)
        assert response.status_code == 400, (change, response.text)
        error = response.json()["error"]
        assert (error["param"], error["code"]) == (param, code), change
