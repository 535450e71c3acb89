"""Client packages, each in its own process: all get the text that a plain HTTP request gets without an agent."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tests.conformance.conftest import LONG, PROMPT, SCHEMA, SIDES, TOOL, TOOL_RESULT, Gateway, run_client, text_of
from tests.conformance.environments import node_clients, python_clients

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

TEXTS = ("whole", "sampled", "streamed", "streamed_async")
BOUND = ("structured", "called")
OPENAI = (*TEXTS, "stopped", "usage", *BOUND)
CLIENTS = {
    "langchain_chat.py": OPENAI,
    "llamaindex_chat.py": (*TEXTS, "stopped", *BOUND),
    "litellm_chat.py": OPENAI,
    "openai_agents.py": (*TEXTS, "usage", *BOUND, "tool_round_bound"),
    "pydantic_ai_chat.py": (*TEXTS, "usage", "structured", "tool_round"),
    "openai_chat.mjs": (*OPENAI, "response", "refused", "aborted"),
    "ai_sdk.mjs": (*OPENAI, "tool_round"),
}
LOCKS = {"openai_agents.py": "agents_requirements.txt", "pydantic_ai_chat.py": "agents_requirements.txt"}


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
    tools: dict[str, Any] = {"tools": [TOOL], "parallel_tool_calls": False, "max_tokens": LONG}
    message = gateway.reference(**tools, tool_choice="required")["choices"][0]["message"]
    (call,) = message["tool_calls"]
    called = [call["function"]["name"], json.loads(call["function"]["arguments"])]
    result = {"role": "tool", "tool_call_id": call["id"], "content": TOOL_RESULT}
    behind = [{"role": "user", "content": PROMPT}, message, result]
    bound = gateway.reference(messages=behind, response_format=shape, max_tokens=LONG)
    return {
        "structured": json.loads(text_of(structured)),
        "called": called,
        "tool_round": [*called, text_of(gateway.reference(**tools, messages=behind))],
        "tool_round_bound": [*called, json.loads(text_of(bound))],
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


@pytest.fixture(scope="module")
def reports(
    request: pytest.FixtureRequest, gateway: Gateway, expected: dict[str, Any]
) -> Iterator[dict[str, Future[dict[str, Any]]]]:
    """By script, for those that are selected: what it reports, by side. They run all at once, which takes less time."""
    parametrized = [call for item in request.session.items if (call := getattr(item, "callspec", None))]
    selected = {call.params.get("script") for call in parametrized}
    scripts = [script for script in CLIENTS if script in selected]
    with ThreadPoolExecutor(len(scripts)) as pool:
        yield {script: pool.submit(run_client, command(script), gateway) for script in scripts}


@pytest.mark.parametrize("script", CLIENTS)
def test_clients_read_the_same_text(
    script: str, expected: dict[str, Any], reports: dict[str, Future[dict[str, Any]]]
) -> None:
    right = {feature: expected[feature] for feature in CLIENTS[script]}
    assert reports[script].result() == dict.fromkeys(SIDES, right)


def command(script: str) -> Sequence[str]:
    """What runs a script, in an environment that is made on the first run, which takes about a minute."""
    if script.endswith(".py"):
        return [str(python_clients(LOCKS.get(script, "requirements.txt"))), script]
    node = shutil.which("node")
    assert node, "Node is needed: some of the clients run in it"
    return [node, str(node_clients() / script)]
