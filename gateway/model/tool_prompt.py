"""Describes tools as text, for models whose chat template does not support them, with Hermes' markers.

Functions go into the system message, earlier calls into the assistant's messages and their results into the user's, so
that any template can render them. Templates with support for tools receive them as a variable (chat_template.py).

Source of the markers: Nous Research, "Hermes Function Calling".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from gateway.model.prompt_jobs import Message
from gateway.model.tool_call_format import HERMES

_FUNCTIONS = """You can call these functions, each described by a JSON schema:
<tools>
{functions}
</tools>
To call one, write its name and its arguments as a JSON object between tool_call tags, like this:
<tool_call>
{{"name": "function_name", "arguments": {{"argument": "value"}}}}
</tool_call>
The result comes back between tool_response tags."""


def add_tools_as_text(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None) -> list[Message]:
    """Returns the messages with earlier calls and results as text, and a further system message for the tools.

    `tools` have the form of OpenAI's API.
    """
    converted: list[Message] = []
    results: list[str] = []  # of consecutive tool messages, which become one
    for message in messages:
        if message["role"] == "tool":
            results.append(f"<tool_response>\n{message['content']}\n</tool_response>")
            continue
        _add_results(results, converted)
        if calls := message.get("tool_calls"):
            texts = [message["content"]] if message["content"] else []
            converted.append(
                {
                    **{key: value for key, value in message.items() if key != "tool_calls"},
                    "content": "\n".join([*texts, *(_call_text(call) for call in calls)]),
                }
            )
        else:
            converted.append(message)
    _add_results(results, converted)
    if tools:
        functions = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
        converted.append({"role": "system", "content": _FUNCTIONS.format(functions=functions)})
    return converted


def _add_results(results: list[str], converted: list[Message]) -> None:
    if results:
        converted.append({"role": "user", "content": "\n".join(results)})
        results.clear()


def _call_text(call: Mapping[str, Any]) -> str:
    function = call.get("function") or {}
    arguments = json.dumps(function.get("arguments", {}), ensure_ascii=False)
    return f"{HERMES.opening}{function.get('name', '')}{HERMES.after_name}{arguments}{HERMES.closing}"
