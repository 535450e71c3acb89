"""Client packages, each in its own process: all get the text that a plain HTTP request gets without an agent."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.conftest import LONG, SCHEMA, SIDES, TOOL, Gateway, run_client, text_of

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

TEXTS = ("whole", "sampled", "streamed", "streamed_async", "stopped")
BOUND = ("structured", "called")
PYTHON_CLIENTS = {
    "langchain_chat.py": (*TEXTS, "usage", *BOUND),
    "llamaindex_chat.py": (*TEXTS, *BOUND),
    "litellm_chat.py": (*TEXTS, "usage", *BOUND),
}
NODE_CLIENT = (*TEXTS, "usage", *BOUND, "response", "refused", "aborted")


@pytest.fixture(scope="module")
def expected(gateway: Gateway) -> dict[str, Any]:
    """By feature: what a bare request is reported, with no agent."""
    greedy, sampled = gateway.reference(), gateway.reference(temperature=0.8)
    stopped = gateway.reference(stop=[gateway.stop])
    assert stopped["choices"][0]["finish_reason"] == "stop"
    assert text_of(greedy).startswith(text_of(stopped) + gateway.stop)
    assert text_of(greedy) != text_of(sampled)
    shape = {"type": "json_schema", "json_schema": {"name": "planet", "schema": SCHEMA, "strict": True}}
    structured = gateway.reference(response_format=shape, max_tokens=LONG)
    called = gateway.reference(tools=[TOOL], tool_choice="required", parallel_tool_calls=False, max_tokens=LONG)
    function = called["choices"][0]["message"]["tool_calls"][0]["function"]
    return {
        "structured": json.loads(text_of(structured)),
        "called": [function["name"], json.loads(function["arguments"])],
        "response": text_of(sampled),
        "whole": text_of(greedy),
        "sampled": text_of(sampled),
        "streamed": text_of(greedy),
        "streamed_async": text_of(sampled),
        "stopped": text_of(stopped),
        "usage": [greedy["usage"]["prompt_tokens"], greedy["usage"]["completion_tokens"]],
        "refused": ["NotFoundError", 404, "model_not_found", "model"],
        "aborted": True,
    }


@pytest.mark.parametrize("script", PYTHON_CLIENTS)
def test_python_clients_read_the_same_text(
    script: str, gateway: Gateway, expected: dict[str, Any], python_client: Path
) -> None:
    reported = run_client([str(python_client), script], gateway)
    right = {feature: expected[feature] for feature in PYTHON_CLIENTS[script]}
    assert reported == dict.fromkeys(SIDES, right)


def test_the_node_client_reads_the_same_text(gateway: Gateway, expected: dict[str, Any], node_client: Path) -> None:
    node = shutil.which("node")
    assert node, "Node is needed: it is one of the clients"
    reported = run_client([node, str(node_client / "openai_chat.mjs")], gateway)
    right = {feature: expected[feature] for feature in NODE_CLIENT}
    assert reported == dict.fromkeys(SIDES, right)
