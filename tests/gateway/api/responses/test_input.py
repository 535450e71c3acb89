"""What a request puts in, as the model's prompt sees it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.api.responses.reading import complete, post, text_of
from tests.gateway.conftest import Gateway, running_gateway
from tests.support import toy_model
from tests.support.scripted_verifier import ScriptedVerifier

TOOLS_TEMPLATE = (
    "{% if tools %}<tool_call> name and arguments{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<call>{{ c.id }} {{ c.function.name }} {{ c.function.arguments | tojson }}</call>"
    "{% endfor %}{% if m.tool_call_id %}<for>{{ m.tool_call_id }}</for>{% endif %}<|im_end|>\n"
    "{% endfor %}{{ '<|im_start|>assistant\n' }}"
)


@pytest.mark.parametrize(
    "given",
    [
        "say hi",
        [{"role": "user", "content": "say hi"}],
        [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "say hi"}]}],
        [{"role": "user", "content": [{"type": "input_text", "text": "say "}, {"type": "input_text", "text": "hi"}]}],
    ],
)
async def test_a_text_and_a_message_are_the_same(gateway: Gateway, verifier: ScriptedVerifier, given: Any) -> None:
    got = await complete(gateway, input=given, instructions="be brief")
    assert verifier.opened[0].prompt == toy_model.chat_prompt(("system", "be brief"), ("user", "say hi"))
    assert text_of(got) == "hi"
    assert got["instructions"] == "be brief"


async def test_a_conversation_reaches_the_template_as_it_wants_it(tmp_path) -> None:
    card = toy_model.card(template=TOOLS_TEMPLATE)
    given = [
        {"role": "developer", "content": "be kind"},
        {"role": "user", "content": "how warm?"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "look"}]},
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "I look.", "annotations": []}],
        },
        {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "warmth", "arguments": '{"of": "Rome"}'},
        {"type": "function_call", "call_id": "c2", "name": "warmth", "arguments": "not json"},
        {"type": "function_call_output", "call_id": "c1", "output": "20"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "30"}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "I will not."}]},
        {"role": "assistant", "content": "Or I will."},
        {"role": "user", "content": "say so"},
    ]
    async with ScriptedVerifier(card=card) as verifier, running_gateway(tmp_path, verifier) as gateway:
        assert text_of(await complete(gateway, input=given, instructions="be brief")) == "so"
        prompt = toy_model.TOKENIZER.decode(verifier.opened[0].prompt, skip_special_tokens=False)
    assert prompt == (
        "<|im_start|>system\nbe brief\n\nbe kind<|im_end|>\n"
        "<|im_start|>user\nhow warm?<|im_end|>\n"
        "<|im_start|>assistant\n<think>look</think>I look."
        '<call>c1 warmth {"of": "Rome"}</call><call>c2 warmth {"arguments": "not json"}</call><|im_end|>\n'
        "<|im_start|>tool\n20<for>c1</for><|im_end|>\n"
        "<|im_start|>tool\n30<for>c2</for><|im_end|>\n"
        "<|im_start|>assistant\nI will not.<|im_end|>\n"
        "<|im_start|>assistant\nOr I will.<|im_end|>\n"
        "<|im_start|>user\nsay so<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"input": None}, "input", "invalid_value"),
    ({"input": []}, "input", "invalid_value"),
    ({"input": 5}, "input", "invalid_value"),
    ({"input": [5]}, "input.0", "invalid_value"),
    ({"input": [{"role": "user"}]}, "input.0.content", "invalid_value"),
    ({"input": [{"role": "king", "content": "hi"}]}, "input.0.role", "invalid_value"),
    ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input.0.content.0", "unsupported_content"),
    ({"input": [{"type": 7, "id": "1"}]}, "input.0", "invalid_value"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input.0.id", "item_not_found"),
    ({"input": [{"type": "item_reference", "id": 7}]}, "input.0.id", "item_not_found"),
    ({"input": [{"type": "function_call_output", "call_id": "c", "output": "1"}]}, "input", "invalid_value"),
    ({"input": [{"type": "function_call", "name": "f"}]}, "input.0.call_id", "invalid_value"),
    ({"max_output_tokens": 0}, "max_output_tokens", "invalid_value"),
    ({"temperature": 3}, "temperature", "invalid_value"),
    ({"top_logprobs": 21}, "top_logprobs", "invalid_value"),
    ({"truncation": "middle"}, "truncation", "invalid_value"),
    ({"metadata": {"k": 1}}, "metadata.k", "invalid_value"),
    ({"metadata": {str(n): "" for n in range(17)}}, "metadata", "invalid_value"),
    ({"background": True}, "background", "unsupported_parameter"),
    ({"conversation": "conv_1"}, "conversation", "unsupported_parameter"),
    ({"prompt": {"id": "pmpt_1"}}, "prompt", "unsupported_parameter"),
    ({"include": [7]}, "include.0", "invalid_value"),
    ({"previous_response_id": "resp_1"}, "previous_response_id", "previous_response_not_found"),
]


async def test_what_is_wrong_is_named(gateway: Gateway) -> None:
    for change, param, code in WRONG:
        response = await post(gateway, {"input": "say hi"} | change)
        assert response.status_code == 400, (change, response.text)
        error = response.json()["error"]
        assert (error["param"], error["code"]) == (param, code), change
        assert error["message"]
        assert error["type"] == "invalid_request_error"


async def test_what_changes_nothing_passes(gateway: Gateway) -> None:
    got = await complete(
        gateway,
        input="say hi",
        background=False,
        conversation=None,
        include=["reasoning.encrypted_content", "web_search_call.action.sources", "what_comes_next"],
        client_metadata={"session_id": "1"},
        reasoning={"effort": "low", "summary": "auto"},
        service_tier="flex",
        safety_identifier="s",
        prompt_cache_key="k",
        stream_options={"include_obfuscation": False},
        text={"format": {"type": "text"}, "verbosity": "low"},
        no_such_parameter=[1, 2],
    )
    assert text_of(got) == "hi"
    assert got["reasoning"] == {"effort": "low", "summary": "auto"}
    assert (got["service_tier"], got["safety_identifier"], got["prompt_cache_key"]) == ("default", "s", "k")


def long_conversation(turns: int) -> list[dict[str, str]]:
    said = [{"role": role, "content": f"{n} " + "x" * 96} for n in range(turns) for role in ("user", "assistant")]
    return [*said, {"role": "user", "content": "say hi"}]


async def test_a_conversation_that_is_too_long_is_a_400(gateway: Gateway) -> None:
    response = await post(gateway, {"input": long_conversation(20)})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"
    assert response.json()["error"]["param"] == "input"


async def test_or_loses_its_beginning_where_that_is_asked_for(gateway: Gateway, verifier: ScriptedVerifier) -> None:
    given = long_conversation(20)
    asked = {"instructions": "be brief", "truncation": "auto", "max_output_tokens": 100}
    got = await complete(gateway, input=given, **asked)
    assert text_of(got) == "hi"
    assert got["truncation"] == "auto"
    used = verifier.opened[0].prompt
    limit = 2048 - 100
    ends = [
        toy_model.chat_prompt(("system", "be brief"), *((m["role"], m["content"]) for m in given[start:]))
        for start in range(0, len(given), 2)
    ]
    assert used == next(end for end in ends if len(end) <= limit)
    assert len(used) > limit - 250
    # One that fits loses nothing.
    await complete(gateway, input=given[-3:], **asked)
    assert verifier.opened[1].prompt == ends[-2]
    # The last message stays, however long.
    response = await post(gateway, {"input": [*given, {"role": "user", "content": "x" * 3000}]} | asked)
    assert response.json()["error"]["code"] == "context_length_exceeded"
