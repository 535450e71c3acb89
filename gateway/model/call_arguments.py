"""The arguments of an earlier tool call in the form that chat templates take: an object, whatever was sent back.

Models cut off by max_tokens leave arguments that are no JSON, and clients send what they got. Prompt workers do this:
a text of arguments may be as long as a body, and parsing it takes a second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import from_json

from gateway.model.prompt_jobs import Message


def arguments_object(arguments: Any) -> dict[str, Any]:
    """Returns the arguments as an object: a JSON text is parsed, nothing is {}, anything else becomes `arguments`.

    Templates walk over the keys, so they fail on what is no object.
    """
    if isinstance(arguments, str):
        try:
            arguments = from_json(arguments) if arguments.strip() else None
        except ValueError:
            return {"arguments": arguments}
    if arguments is None:
        return {}
    return arguments if isinstance(arguments, dict) else {"arguments": arguments}


def with_argument_objects(messages: Sequence[Message]) -> list[Message]:
    """The messages with the arguments of their calls as objects."""
    return [
        {**message, "tool_calls": [_with_object(call) for call in calls]}
        if (calls := message.get("tool_calls"))
        else message
        for message in messages
    ]


def _with_object(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {**call, "function": {**function, "arguments": arguments_object(function["arguments"])}}
