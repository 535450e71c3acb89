"""Tools, calls and results as text, for templates without support for tools."""

from __future__ import annotations

import json

from gateway.model.tool_prompt import add_tools_as_text

USER = {"role": "user", "content": "Weather?"}
CALL = {"function": {"name": "weather", "arguments": {"city": "Ülm"}}}
CALL_TEXT = '<tool_call>\n{"name": "weather", "arguments": {"city": "Ülm"}}\n</tool_call>'


def test_messages_without_tools_are_unchanged() -> None:
    assert add_tools_as_text([USER], None) == [USER]


def test_calls_and_results_become_text() -> None:
    history = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "rain", "tool_call_id": "a"},
        {"role": "tool", "content": "wind", "tool_call_id": "b"},
    ]
    user, assistant, results = add_tools_as_text(history, None)
    assert user == USER
    assert assistant == {"role": "assistant", "content": CALL_TEXT}
    wrapped = [f"<tool_response>\n{text}\n</tool_response>" for text in ("rain", "wind")]
    assert results == {"role": "user", "content": "\n".join(wrapped)}


def test_functions_are_described_in_a_system_message() -> None:
    tool = {"type": "function", "function": {"name": "weather", "description": "says {it}", "parameters": {}}}
    _, system = add_tools_as_text([USER], [tool])
    assert system["role"] == "system"
    assert json.dumps(tool) in system["content"].splitlines()
