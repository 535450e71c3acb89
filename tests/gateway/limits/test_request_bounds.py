"""The bounds of a request: documented as they are, and each refused by the parameter's name and the number."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from gateway.limits import request_bounds
from tests.gateway.conftest import Gateway, running_gateway
from tests.support import toy_model
from tests.support.scripted_verifier import ScriptedVerifier

BOUNDS = {name: value for name, value in vars(request_bounds).items() if name.startswith("MAX_")}
SAID = {"role": "user", "content": "hi"}


def test_the_documentation_lists_them() -> None:
    text = (Path(__file__).parents[3] / "docs" / "api.md").read_text()
    assert {
        name: int(value) for name, value in re.findall(r"^\| `(MAX_\w+)` \| (\d+) \|", text, re.MULTILINE)
    } == BOUNDS


def chat(**fields: Any) -> tuple[str, dict[str, Any]]:
    return "/v1/chat/completions", {"messages": [SAID]} | fields


def said(**fields: Any) -> tuple[str, dict[str, Any]]:
    return chat(messages=[SAID | fields])


def responses(**fields: Any) -> tuple[str, dict[str, Any]]:
    return "/v1/responses", {"input": "hi"} | fields


def completion(**fields: Any) -> tuple[str, dict[str, Any]]:
    return "/v1/completions", {"prompt": "hi"} | fields


def nested(depth: int) -> dict[str, Any]:
    """A schema of so many objects and arrays inside one another."""
    schema: dict[str, Any] = {"anyOf": []}
    for _ in range(depth - 2):
        schema = {"items": schema}
    return schema


def tool(**function: Any) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": "f"} | function}]


def json_format(schema: Any, **more: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "s", "schema": schema} | more}


WIDE = {"enum": list(range(4096))}  # and one for the enum itself
PART = {"type": "text", "text": "a"}
CALL = {"id": "a", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("request_", "param", "bound"),
    [
        (chat(messages=[SAID] * 2049), "messages", 2048),
        (said(content=[PART] * 1025), "messages.0.content", 1024),
        (said(role="assistant", tool_calls=[CALL] * 257), "messages.0.tool_calls", 256),
        (said(name="a" * 513), "messages.0.name", 512),
        (said(role="tool", tool_call_id="a" * 513), "messages.0.tool_call_id", 512),
        (chat(tools=[TOOL] * 129), "tools", 128),
        (chat(functions=[{"name": "f"}] * 129), "functions", 128),
        (chat(tools=[{"type": "function", "function": {"name": "f" * 65}}]), "tools.0.function.name", 64),
        (chat(stop=["a"] * 17), "stop", 16),
        (chat(stop="a" * 1025), "stop", 1024),
        (chat(n=9), "n", 8),
        (chat(logit_bias={str(n): 1 for n in range(1025)}), "logit_bias", 1024),
        (chat(guided_choice=["a"] * 1025), "guided_choice", 1024),
        (chat(guided_regex="a" * 16385), "guided_regex", 16384),
        (chat(guided_grammar="a" * 32769), "guided_grammar", 32768),
        (chat(tools=tool(parameters=WIDE)), "tools", 4096),
        (chat(tools=tool(parameters=WIDE, strict=True)), "tools", 4096),
        (chat(tools=tool(parameters=nested(129))), "tools", 128),
        (chat(functions=[{"name": "f", "parameters": WIDE}]), "tools", 4096),
        (chat(response_format=json_format(WIDE)), "response_format", 4096),
        (chat(response_format=json_format(WIDE, strict=True)), "response_format", 4096),
        (chat(response_format=json_format(nested(129))), "response_format", 128),
        (chat(guided_json=WIDE), "guided_json", 4096),
        (chat(guided_json=" " * 131_073), "guided_json", 131072),
        (chat(structured_outputs={"json": json.dumps(WIDE)}), "structured_outputs.json", 4096),
        (completion(guided_json=WIDE), "guided_json", 4096),
        (responses(tools=[{"type": "function", "name": "f", "parameters": WIDE}]), "tools", 4096),
        (responses(text={"format": {"type": "json_schema", "name": "s", "schema": WIDE}}), "text.format", 4096),
        (chat(metadata={str(n): "a" for n in range(17)}), "metadata", 16),
        (chat(metadata={"a" * 65: "a"}), f"metadata.{'a' * 65}", 64),
        (chat(metadata={"a": "a" * 513}), "metadata.a", 512),
        (responses(input=[SAID] * 2049), "input", 2048),
        (responses(input=[SAID | {"content": [PART] * 1025}]), "input.0.content", 1024),
        (responses(include=["a"] * 65), "include", 64),
        (responses(metadata={str(n): "a" for n in range(17)}), "metadata", 16),
        (responses(metadata={"a": "a" * 513}), "metadata.a", 512),
        (responses(user="a" * 513), "user", 512),
        (responses(tools=[{"type": "function", "name": "f"}] * 129), "tools", 128),
        (completion(prompt=["a"] * 129), "prompt", 128),
        (completion(best_of=21), "best_of", 20),
        (("/tokenize", {"messages": [SAID] * 2049}), "messages", 2048),
        (completion(prompt=[5] * 140_000), None, 131072),
        (chat(user=[{}] * 40_000), None, 32768),
    ],
)
async def test_one_more_than_a_bound_is_refused(
    gateway: Gateway, request_: tuple[str, dict[str, Any]], param: str | None, bound: int
) -> None:
    path, body = request_
    async with gateway.http() as http:
        response = await http.post(path, json={"model": toy_model.NAME} | body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == param
    assert str(bound) in error["message"]


async def test_schemas_and_metadata_at_their_bounds_are_taken(tmp_path: Path) -> None:
    wide = {"enum": list(range(4095))}
    metadata = {f"{n:064}": "a" * 512 for n in range(16)}
    card = toy_model.card(context_length=1 << 16)
    async with (
        ScriptedVerifier(card=card) as verifier,
        running_gateway(tmp_path, verifier) as gateway,
        gateway.http() as http,
    ):
        for fields in (
            {"tools": tool(parameters=wide)},
            {"tools": tool(parameters={"items": nested(127)})},
            {"response_format": json_format(wide), "metadata": metadata},
        ):
            body = {"model": toy_model.NAME, "messages": [SAID], "max_tokens": 1} | fields
            response = await http.post("/v1/chat/completions", json=body)
            assert response.status_code == 200, (list(fields), response.text)


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": tool(parameters={"properties": {"a": {"maximum": 2**64}}})},
        {"chat_template_kwargs": {"a": -(2**64)}},
    ],
)
async def test_a_whole_number_beyond_64_bits_is_no_fault_of_the_gateway(
    gateway: Gateway, fields: dict[str, Any]
) -> None:
    async with gateway.http() as http:
        body = {"model": toy_model.NAME, "messages": [SAID]} | fields
        response = await http.post("/v1/chat/completions", json=body)
    assert response.status_code == 400, response.text
    assert "64 bits" in response.json()["error"]["message"]
