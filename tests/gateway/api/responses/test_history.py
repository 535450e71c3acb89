"""Histories that clients send: what this server or another one made in earlier turns does not end a conversation."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.api.responses.foreign_items import served_form
from tests.gateway.api.responses.reading import complete, text_of
from tests.gateway.api.responses.test_input import TOOLS_TEMPLATE
from tests.gateway.conftest import Gateway, running_gateway
from tests.support import toy_model
from tests.support.scripted_verifier import ScriptedVerifier

SAY = {"role": "user", "content": "say done"}
SHELL = {"type": "local_shell_call", "id": "lsh_1", "call_id": "c1", "status": "completed"}
ACTION = {"type": "exec", "command": ["ls"]}


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("null", "{}"),
        ("", "{}"),
        (None, "{}"),
        ('{"city": "Ul', '{"arguments": "{\\"city\\": \\"Ul"}'),
        ("[1]", '{"arguments": [1]}'),
        ({"city": "Ulm"}, '{"city": "Ulm"}'),
    ],
)
async def test_arguments_that_are_no_object(tmp_path, sent: Any, shown: str) -> None:
    """The template walks over the arguments."""
    template = TOOLS_TEMPLATE.replace(
        "{{ c.function.arguments | tojson }}",
        "{% for k in c.function.arguments.items() %}{% endfor %}{{ c.function.arguments | tojson }}",
    )
    call = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": sent}
    result = {"type": "function_call_output", "call_id": "c1", "output": "20"}
    async with (
        ScriptedVerifier(card=toy_model.card(template=template)) as verifier,
        running_gateway(tmp_path, verifier) as gateway,
    ):
        got = await complete(gateway, input=[{"role": "user", "content": "x"}, call, result, SAY])
        assert text_of(got) == "done"
        prompt = toy_model.TOKENIZER.decode(verifier.opened[0].prompt, skip_special_tokens=False)
        assert f"<call>c1 f {shown}</call>" in prompt
        assert text_of(await complete(gateway, input=[SAY], previous_response_id=got["id"])) == "done"


async def test_items_of_other_servers_do_not_end_a_conversation(tmp_path) -> None:
    history = [
        {"role": "user", "content": "x"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAA"},
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "q"}},
        SHELL | {"action": ACTION},
        {"type": "function_call_output", "call_id": "c1", "output": "a.txt"},
        {"type": "compaction", "id": "cmp_1", "encrypted_content": "gAAAA"},
        {"type": "reasoning", "id": "rs_2", "summary": [], "content": None, "encrypted_content": "gAAAA"},
        {"type": "agent_message", "content": [{"type": "input_text", "text": "from another agent"}]},
        {"type": "mcp_call", "id": "mcp_1", "name": "look", "server_label": "s", "arguments": "{}", "output": "seen"},
        {"type": "mcp_list_tools", "id": "mcpl_1", "server_label": "s", "tools": []},
        {"type": "what_comes_next", "data": {"x": [1]}},
        SAY,
    ]
    async with (
        ScriptedVerifier(card=toy_model.card(template=TOOLS_TEMPLATE)) as verifier,
        running_gateway(tmp_path, verifier) as gateway,
    ):
        assert text_of(await complete(gateway, input=history)) == "done"
        prompt = toy_model.TOKENIZER.decode(verifier.opened[0].prompt, skip_special_tokens=False)
    assert prompt == (
        "<|im_start|>user\nx<|im_end|>\n"
        '<|im_start|>assistant\n<call>c1 local_shell {"action": {"type": "exec", "command": ["ls"]}}</call><|im_end|>\n'
        "<|im_start|>tool\na.txt<for>c1</for><|im_end|>\n"
        "<|im_start|>user\nfrom another agent<|im_end|>\n"
        "<|im_start|>assistant\n<call>mcp_1 look {}</call><|im_end|>\n"
        "<|im_start|>tool\nseen<for>mcp_1</for><|im_end|>\n"
        "<|im_start|>user\nsay done<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


async def test_an_image_in_a_tools_result_is_told_in_words(gateway: Gateway, verifier: ScriptedVerifier) -> None:
    output = [{"type": "input_text", "text": "it: "}, {"type": "input_image", "image_url": "data:image/png;base64,AA"}]
    history = [
        {"role": "user", "content": "x"},
        {"type": "function_call", "call_id": "c1", "name": "view_image", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": output},
        SAY,
    ]
    assert text_of(await complete(gateway, input=history)) == "done"
    assert "it: [input_image: left out, this model reads text only]" in toy_model.TOKENIZER.decode(
        verifier.opened[0].prompt
    )


@pytest.mark.parametrize(
    ("item", "texts"),
    [
        (
            SHELL | {"type": "shell_call_output", "output": [{"stdout": "é", "stderr": ""}]},
            ['[{"stdout": "é", "stderr": ""}]'],
        ),
        ({"type": "local_shell_call_output", "id": "c1", "output": "x"}, ["x"]),
        ({"type": "local_shell_call_output", "output": "x"}, []),
        ({"type": "custom_thing_call_output", "call_id": "c", "output": [{"type": "text", "text": "y"}]}, ["y"]),
        ({"type": "file_search_call", "id": "fs_1", "queries": ["q"], "results": None}, []),
        ({"type": "mcp_call", "id": "m", "name": "n", "arguments": "{}", "output": None, "error": "e"}, []),
        ({"type": "note", "text": "hello"}, ["hello"]),
        ({"type": "note", "content": [{"text": 5}, "x", {"text": "a"}, {"text": "b"}]}, ["ab"]),
        ({"type": "note", "content": {"text": "x"}}, []),
    ],
)
def test_items_of_other_types_keep_their_texts(item: dict[str, Any], texts: list[str]) -> None:
    made = served_form(item["type"], item)
    assert [one.get("output", one.get("content")) for one in made] == texts
