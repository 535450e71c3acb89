"""Wrong inputs, and the parameter and the message that a person would give; whole numbers written with a point."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.api.chat.request import parse_chat_request, template_messages
from gateway.api.completions.request import parse_completion_request
from gateway.api.responses.request import parse_responses_request
from gateway.http.bodies.validation import read_object
from gateway.http.errors import MAX_MESSAGE, ApiError
from tests.support.processor_time import fastest

USER = {"role": "user", "content": "hi"}


def said(content: Any) -> dict[str, Any]:
    return {"messages": [USER, {"role": "user", "content": content}]}


CHAT: list[tuple[dict[str, Any], str, str]] = [
    ({"messages": None}, "messages", "an array"),
    ({"messages": []}, "messages", "at least 1 item"),
    ({"messages": ["hi"]}, "messages.0", "an object"),
    ({"messages": [USER, {"content": "hi"}]}, "messages.1.role", "required"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role", "'assistant'"),
    (said(5), "messages.1.content", "a string or an array"),
    (said({"type": "text"}), "messages.1.content", "a string or an array"),
    (said([{"text": "x"}]), "messages.1.content.0.type", "required"),
    (said(["x"]), "messages.1.content.0", "an object"),
    (said([{"type": "text", "text": "x"}, {"type": 5}]), "messages.1.content.1.type", "a string"),
    (said([{"type": "text", "text": 5}]), "messages.1.content.0.text", "a string"),
    (said([{"type": "text", "text": None}]), "messages.1.content.0.text", "a string"),
    (said([{"type": "text"}]), "messages.1.content.0.text", "a string"),
    (said([{"type": "refusal"}]), "messages.1.content.0.refusal", "a string"),
    (said([{"type": "image_url", "image_url": {}}]), "messages.1.content.0", "'image_url' is not supported"),
    ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages.0.tool_calls.0.function", "required"),
    ({"messages": [USER | {"tool_calls": "x"}]}, "messages.0.tool_calls", "an array"),
    ({"stop": [""]}, "stop.0", "at least 1 character"),
    ({"stop": ""}, "stop", "at least 1 character"),
    ({"stop": 5}, "stop", "a string or an array"),
    ({"stop": ["a", 5]}, "stop.1", "a string"),
    ({"stop": ["a"] * 17}, "stop", "at most 16"),
    ({"max_tokens": 5.5}, "max_tokens", "an integer"),
    ({"max_tokens": "5"}, "max_tokens", "an integer"),
    ({"max_tokens": True}, "max_tokens", "an integer"),
    ({"max_tokens": 2**63}, "max_tokens", "less than or equal to 9223372036854775807"),
    ({"seed": 1e300}, "seed", "less than or equal to 9223372036854775807"),
    ({"temperature": "1"}, "temperature", "a number"),
    ({"logit_bias": {"5": "much"}}, "logit_bias.5", "a number"),
    ({"tools": [{"type": "function"}]}, "tools.0.function", "required"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name", "pattern"),
    ({"prediction": {"type": "content", "content": [{"text": "x"}]}}, "prediction.content.0.type", "required"),
    ({"min_tokens": 6, "max_tokens": 5}, "min_tokens", "above the limit of 5"),
]
COMPLETIONS: list[tuple[dict[str, Any], str, str]] = [
    ({"prompt": 5}, "prompt", "a string or an array"),
    ({"prompt": {}}, "prompt", "a string or an array"),
    ({"prompt": ["a", 5]}, "prompt.1", "a string"),
    ({"prompt": [1, 2, "c"]}, "prompt.2", "an integer"),
    ({"prompt": [[1, "a"], [2]]}, "prompt.0.1", "an integer"),
    ({"prompt": [1, 1.5]}, "prompt.1", "an integer"),
    ({"prompt": [1, -1]}, "prompt.1", "greater than or equal to 0"),
]
RESPONSES: list[tuple[dict[str, Any], str, str]] = [
    ({"input": []}, "input", "at least 1 item"),
    ({"input": 5}, "input", "a string or an array"),
    ({}, "input", "required"),
    ({"input": "x", "tool_choice": 5}, "tool_choice", "a string or an object"),
]


def fault(parse: Any, change: dict[str, Any]) -> tuple[str | None, str]:
    def read() -> None:
        request = parse({"model": "m"} | change)
        if parse is parse_chat_request:
            template_messages(request.messages)
        request.sampling(1000)

    with pytest.raises(ApiError) as caught:
        read()
    error = caught.value.body["error"]
    assert error["type"] == "invalid_request_error"
    return error["param"], error["message"]


@pytest.mark.parametrize(("change", "param", "message"), CHAT)
def test_a_chats_error_names_what_is_wrong(change: dict[str, Any], param: str, message: str) -> None:
    named, text = fault(parse_chat_request, {"messages": [USER]} | change)
    assert named == param
    assert message in text


@pytest.mark.parametrize(("change", "param", "message"), COMPLETIONS)
def test_a_completions_error_names_what_is_wrong(change: dict[str, Any], param: str, message: str) -> None:
    named, text = fault(parse_completion_request, change)
    assert named == param
    assert message in text


@pytest.mark.parametrize(("change", "param", "message"), RESPONSES)
def test_a_responses_error_names_what_is_wrong(change: dict[str, Any], param: str, message: str) -> None:
    named, text = fault(parse_responses_request, change)
    assert named == param
    assert message in text


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "top_k", "seed", "n", "min_tokens"])
def test_a_whole_number_may_be_written_with_a_point(name: str) -> None:
    for text, value in {"5.0": 5, "5e0": 5, "5": 5}.items():
        body = f'{{"model": "m", "messages": [{json.dumps(USER)}], "{name}": {text}}}'
        read = getattr(parse_chat_request(read_object(body.encode())), name)
        assert (read, type(read)) == (value, int)


def test_tokens_and_limits_of_the_other_endpoints_may_be_written_with_a_point() -> None:
    completion = parse_completion_request({"model": "m", "prompt": [1.0, 2], "logprobs": 2.0, "best_of": 1.0})
    assert (completion.prompts, completion.logprobs, completion.best_of) == ([[1, 2]], 2, 1)
    assert parse_responses_request({"model": "m", "input": "x", "max_output_tokens": 7.0}).output_limit == 7


def test_what_changes_nothing_is_accepted() -> None:
    neutral = {"service_tier": "fast", "top_logprobs": 0, "min_tokens": 0, "stop": [], "logit_bias": {}, "tools": []}
    parse_chat_request({"model": "m", "messages": [USER]} | neutral)


def test_a_message_repeats_little_of_what_was_sent() -> None:
    long = ApiError(400, "x" * 5000)
    assert len(long.body["error"]["message"]) == len(long.message) == MAX_MESSAGE
    assert len(fault(parse_chat_request, {"messages": [USER], "r" * 400: 1, "stop": 5})[1]) <= MAX_MESSAGE


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (rb"x \ud83d.", "x \ufffd."),
        (rb"x \udE00", "x \ufffd"),
        (rb"\ud83d\ude00", "\U0001f600"),
        (rb"\ud83d\ude00 \ud83d", "\U0001f600 \ufffd"),
        (rb"\\ud83d \ud83d\n", "\\ud83d \ufffd\n"),
        (rb"\ud83d\ud83d\ude00", "\ufffd\U0001f600"),
    ],
)
def test_half_a_surrogate_pair_is_a_replacement_character(text: bytes, read: str) -> None:
    assert read_object(b'{"a": "' + text + b'"}') == {"a": read}
    with pytest.raises(ApiError):
        read_object(b'{"a": "' + text)


WRONG: dict[str, tuple[Any, dict[str, Any], str]] = {
    "parts": (
        parse_chat_request,
        {"messages": [USER | {"content": [1] * 1024}] * 100},
        "messages.0.content.0",
    ),
    "messages": (parse_chat_request, {"messages": [{"role": "x", "content": [1]}] * 2048}, "messages.0.role"),
    "calls": (
        parse_chat_request,
        {"messages": [{"role": "assistant", "tool_calls": [1] * 256}] * 400},
        "messages.0.tool_calls.0",
    ),
    "metadata": (parse_chat_request, {"messages": [USER], "metadata": {str(n): n for n in range(60_000)}}, "metadata"),
    "logit_bias": (
        parse_chat_request,
        {"messages": [USER], "logit_bias": {str(n): "a" for n in range(60_000)}},
        "logit_bias",
    ),
    "numbers": (parse_completion_request, {"prompt": ["a", *[1] * 130_000]}, "prompt.1"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_request_full_of_wrong_values_costs_as_much_as_one(name: str) -> None:
    """An error of each would take half a second."""
    parse, change, param = WRONG[name]
    assert fault(parse, change)[0] == param
    assert fastest(lambda: fault(parse, change)) < 0.04


def test_allowed_tools_are_bounded() -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [1] * 130_000}}
    request = parse_chat_request({"model": "m", "messages": [USER], "tools": [tool], "tool_choice": allowed})

    def read() -> str:
        with pytest.raises(ApiError) as refused:
            request.tool_use()
        return refused.value.body["error"]["param"]

    assert read() == "tool_choice.allowed_tools.tools.0"
    assert fastest(read) < 0.04


def test_the_arguments_of_a_call_are_not_parsed_here() -> None:
    """They may be as long as a body, and a prompt worker parses them."""
    call = {"id": "a", "function": {"name": "f", "arguments": "[" + "[]," * 2_000_000 + "[]]"}}

    def read() -> list[dict[str, Any]]:
        raw = {"model": "m", "messages": [{"role": "assistant", "tool_calls": [call]}]}
        return template_messages(parse_chat_request(raw).messages)

    assert read()[0]["tool_calls"][0]["function"] == call["function"]
    assert fastest(read) < 0.1
