"""Converts a conversation's items to the messages that chat templates take, but for arguments of calls.

Consecutive reasoning, text and function calls are one assistant message; their results are `tool` messages.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from gateway.api.responses.custom_input import INPUT
from gateway.api.responses.items import Item
from gateway.api.responses.tools import tool_name
from gateway.http.errors import ApiError
from gateway.model.prompt_jobs import Message


def chat_messages(instructions: str | None, items: Iterable[Item]) -> list[dict[str, Any]]:
    """Instructions become the first, system message. Raises ApiError 400 for a result without its call."""
    messages: list[dict[str, Any]] = []
    if instructions is not None:
        messages.append({"role": "system", "content": instructions})
    called: set[str] = set()
    turn: dict[str, Any] | None = None  # the assistant's message that is still being assembled

    for item in items:
        kind = item["type"]
        if kind in ("function_call_output", "custom_tool_call_output"):
            if item["call_id"] not in called:
                message = f"No function call found for the function call output with call_id {item['call_id']!r}."
                raise ApiError(400, message, param="input", code="invalid_value")
            messages.append({"role": "tool", "tool_call_id": item["call_id"], "content": item["output"]})
            turn = None
        elif kind == "message" and item["role"] != "assistant":
            messages.append({"role": item["role"], "content": _text(item["content"])})
            turn = None
        elif kind != "reasoning" or _text(item["content"] or item["summary"]):  # encrypted reasoning has no text
            if turn is None or not _goes_on(turn, kind):
                turn = {"role": "assistant", "content": ""}
                messages.append(turn)
            if kind == "reasoning":
                turn["reasoning_content"] = _text(item["content"] or item["summary"])
            elif kind == "message":
                turn["content"] = _text(item["content"])
            else:
                called.add(item["call_id"])
                turn.setdefault("tool_calls", []).append(_tool_call(item))
    return messages


def turn_starts(messages: Sequence[Message]) -> list[int]:
    """Indices where a conversation may be truncated: user messages, except the first message after the system's."""
    said = [index for index, message in enumerate(messages) if message["role"] not in ("system", "developer")]
    return [index for index in said[1:] if messages[index]["role"] == "user"]


def without_beginning(messages: Sequence[Message], start: int) -> list[Message]:
    """Returns the messages from `start` on, preceded by earlier system messages."""
    return [m for m in messages[:start] if m["role"] in ("system", "developer")] + list(messages[start:])


def _goes_on(turn: Message, kind: str) -> bool:
    """Whether an item of this kind belongs to the turn: reasoning comes first, text next, calls last."""
    if kind == "reasoning":
        return False
    return kind in ("function_call", "custom_tool_call") or not (turn["content"] or "tool_calls" in turn)


def _text(parts: Sequence[dict[str, Any]]) -> str:
    return "".join(part.get("text") or part.get("refusal") or "" for part in parts)


def _tool_call(item: Item) -> dict[str, Any]:
    custom = item["type"] == "custom_tool_call"
    arguments = {INPUT: item["input"]} if custom else item["arguments"]
    name = tool_name(item["name"], item.get("namespace"))
    return {"id": item["call_id"], "type": "function", "function": {"name": name, "arguments": arguments}}
