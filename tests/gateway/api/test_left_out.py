"""What is left out of a schema without `strict` is told in the response, on every endpoint, streamed and whole."""

from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.api.test_chat import chunks, complete, user
from tests.gateway.api.test_chat import events as frames
from tests.gateway.conftest import Gateway

PATTERN = {"type": "string", "pattern": "^(?!x)"}
SCHEMA = {"type": "object", "properties": {"a": PATTERN}, "required": ["a"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}
KEPT = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}
PLACE = "#/properties/a/pattern"
FIELD = "left_out_schema_keywords"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"response_format": FORMAT}, [f"response_format{PLACE}"]),
        ({"tools": [TOOL]}, [f"tools.f{PLACE}"]),
        ({"tools": [TOOL], "response_format": FORMAT}, [f"response_format{PLACE}", f"tools.f{PLACE}"]),
        ({"response_format": KEPT}, None),
    ],
)
async def test_chats_tell(gateway: Gateway, fields: dict[str, Any], told: list[str] | None) -> None:
    whole = await complete(gateway, messages=user("say {}"), **fields)
    assert whole["edgedraft"].get(FIELD) == told
    *_, last = await chunks(gateway, messages=user("say {}"), **fields)
    assert last["edgedraft"].get(FIELD) == told
    assert "mode" in last["edgedraft"]


async def test_responses_tell(gateway: Gateway) -> None:
    body = {
        "model": "toy",
        "input": "say {}",
        "text": {"format": {"type": "json_schema", "name": "s", "schema": SCHEMA}},
    }
    async with gateway.http() as http:
        whole = (await http.post("/v1/responses", json=body)).json()
        streamed = (await http.post("/v1/responses", json=body | {"stream": True})).text
    assert whole["edgedraft"][FIELD] == [f"text.format{PLACE}"]
    assert f'"{FIELD}":["text.format{PLACE}"]' in streamed.split("event: ")[-1]


async def test_log_probabilities_of_a_text_that_was_held_back_come_in_several_chunks(gateway: Gateway) -> None:
    """A stop string of which all but the end was said holds back what was said."""
    text = "a" * 200
    body = {"messages": user(f"say {text}"), "logprobs": True, "top_logprobs": 5, "stop": text + "b"}
    texts = [chunk["choices"][0] for chunk in await chunks(gateway, **body) if chunk["choices"][0]["logprobs"]]
    entries = [len(choice["logprobs"]["content"]) for choice in texts]
    assert sum(entries) == 200
    assert max(entries) == 32
    assert "".join(choice["delta"].get("content", "") for choice in texts) == text
    legacy = await frames(gateway, "/v1/completions", prompt=f"say {text}", logprobs=5, stop=text + "b", max_tokens=300)
    assert legacy[-1] == "[DONE]"
    assert len(legacy) >= 7
