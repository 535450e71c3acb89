"""Describes tools as text, for models whose chat template does not support them, with Hermes' markers.

Functions go into the system message, earlier calls into the assistant's messages and their results into the user's, so
that any template can render them. Templates with support for tools receive them as a variable (chat_template.py).

Source of the markers: Nous Research, "Hermes Function Calling".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from gateway.model.chat_template import Message
from gateway.model.tool_call_format import HERMES
from gateway.prompt.tools import Function, ToolUse

_FUNCTIONS = """You can call these functions, each described by a JSON schema:
<tools>
{functions}
</tools>
To call one, write its name and its arguments as a JSON object between tool_call tags, like this:
<tool_call>
{{"name": "function_name", "arguments": {{"argument": "value"}}}}
</tool_call>
The result comes back between tool_response tags."""


def tool_definition(function: Function) -> dict[str, Any]:
    """Returns a function in the form that templates and prompts show."""
    definition: dict[str, Any] = {"name": function.name}
    if function.description is not None:
        definition["description"] = function.description
    return {"type": "function", "function": {**definition, "parameters": function.parameters or {}}}


def add_tools_as_text(messages: Sequence[Message], tools: ToolUse | None) -> list[Message]:
    """Returns the messages with earlier calls and results as text, and a further system message for the tools."""
    converted: list[Message] = []
    for message in messages:
        if message["role"] == "tool":
            result = f"<tool_response>\n{message['content']}\n</tool_response>"
            if converted and converted[-1]["role"] == "tool":
                converted[-1] = {"role": "tool", "content": f"{converted[-1]['content']}\n{result}"}
            else:
                converted.append({"role": "tool", "content": result})
        elif calls := message.get("tool_calls"):
            texts = [message["content"]] if message["content"] else []
            converted.append(
                {
                    **{key: value for key, value in message.items() if key != "tool_calls"},
                    "content": "\n".join([*texts, *(_call_text(call) for call in calls)]),
                }
            )
        else:
            converted.append(message)
    converted = [{**message, "role": "user"} if message["role"] == "tool" else message for message in converted]
    if tools:
        functions = "\n".join(json.dumps(tool_definition(function), ensure_ascii=False) for function in tools.functions)
        converted.append({"role": "system", "content": _FUNCTIONS.format(functions=functions)})
    return converted


def _call_text(call: Mapping[str, Any]) -> str:
    function = call.get("function") or {}
    arguments = json.dumps(function.get("arguments", {}), ensure_ascii=False)
    return f"{HERMES.opening}{function.get('name', '')}{HERMES.after_name}{arguments}{HERMES.closing}"
