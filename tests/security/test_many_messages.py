"""Attack: a body of as many messages, parts or items as it holds, whose rendering grew with their square."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.api.chat.request import parse_chat_request, template_messages
from gateway.api.responses.items import input_items
from gateway.api.responses.messages import chat_messages, turn_starts
from gateway.model.chat_template import merge_system_messages, split_reasoning
from gateway.model.tool_prompt import add_tools_as_text
from tests.support.event_loop import assert_never_held
from tests.support.processor_time import fastest
from tests.support.server_processes import KEY, running_servers, served_model

COUNT = 500  # and four times as many; texts of 1 KB, so that copying what was joined before would show
TEXT = "x" * 1000
SAID = {"role": "user", "content": TEXT}
RESULT = {"role": "tool", "content": TEXT, "tool_call_id": "a"}
CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALLS = {"role": "assistant", "content": "", "tool_calls": [CALL]}
ITEM = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": TEXT}]}


def prepared(message: dict[str, Any]) -> Callable[[int], object]:
    def prepare(count: int) -> object:
        return template_messages(parse_chat_request({"model": "m", "messages": [message] * count}).messages)

    return prepare


STEPS: dict[str, Callable[[int], object]] = {
    "tool messages": lambda count: add_tools_as_text([RESULT] * count, None),
    "calls": lambda count: add_tools_as_text([CALLS, RESULT] * (count // 2), None),
    "tools": lambda count: add_tools_as_text([SAID], [CALL] * count),
    "system messages": lambda count: merge_system_messages([SAID | {"role": "developer"}] * count),
    "reasoning": lambda count: [
        split_reasoning(message, ("<think>", "</think>")) for message in [{**CALLS, "content": "</think>"}] * count
    ],
    "chat": prepared(SAID),
    "chat of calls": prepared(CALLS),
    "parts": lambda count: prepared({"role": "user", "content": [{"type": "text", "text": TEXT}] * (count // 2)})(1),
    "items": lambda count: chat_messages(None, input_items([ITEM] * count, "resp_1", {})),
    "turns": lambda count: turn_starts([SAID] * count),
}


@pytest.mark.parametrize("name", STEPS)
def test_preparing_messages_grows_with_their_number(name: str) -> None:
    step = STEPS[name]
    # Four times as many take four times as long, and sixteen times if all are copied for each.
    assert fastest(lambda: step(4 * COUNT)) < 9 * fastest(lambda: step(COUNT)) + 0.01


@pytest.mark.long
async def test_bodies_full_of_messages_cost_next_to_nothing(tmp_path: Path) -> None:
    with running_servers(tmp_path) as servers:
        gateway = servers["gateway"]
        url = "http://{}:{}".format(*gateway.address)
        tiny = {"role": "tool", "content": ""}
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as http:
            http.headers["authorization"] = f"Bearer {KEY}"
            model = await served_model(http)

            async def post(path: str, **fields: Any) -> httpx.Response:
                content = json.dumps({"model": model, "max_tokens": 1} | fields, separators=(",", ":")).encode()
                return await http.post(path, content=content)

            await post("/v1/chat/completions", messages=[SAID])
            before = gateway.process.cpu_times()
            for path, fields in (
                ("/v1/chat/completions", {"messages": [tiny] * 270_000}),
                ("/v1/chat/completions", {"messages": [tiny | {"role": "system"}] * 200_000}),
                ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "a"}] * 600_000}]}),
                ("/v1/chat/completions", {"messages": [SAID], "tools": [{}] * 2_000_000}),
                ("/v1/responses", {"input": [{"role": "user", "content": ""}] * 200_000}),
                ("/tokenize", {"messages": [tiny] * 270_000}),
                ("/v1/completions", {"prompt": [""] * 2_000_000}),
                ("/v1/completions", {"prompt": [1] * 3_000_000}),
            ):
                answer = await post(path, **fields)
                assert answer.status_code == 400, answer.text
                assert answer.json()["error"]["code"] == "too_many_values", answer.text
            # As many as are allowed are prepared, whether or not the context holds them.
            answer = await post("/v1/chat/completions", messages=[SAID, *[tiny] * 2047])
            assert answer.status_code in (200, 400)
            after = gateway.process.cpu_times()
            assert after.user + after.system - before.user - before.system < 8
        assert_never_held(url)
        assert "Traceback" not in gateway.log.read_text()
