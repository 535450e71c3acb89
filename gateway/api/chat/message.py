"""An assistant's message as chat completions show it: whole, or as a stream's deltas.

Reasoning goes by both names that clients know. `legacy` is for requests with `functions`, the older form of tools: one
call, without an id.
"""

from __future__ import annotations

from typing import Any

from gateway.output.events import CallArguments, CallBegun, Delta, EndReason, Part, Reasoning


def message_delta(part: Part, first: bool, legacy: bool = False) -> dict[str, Any]:
    """One part as a chunk's delta; the role comes with a choice's first."""
    role: dict[str, Any] = {"role": "assistant", "content": None} if first else {}
    match part:
        case Delta(_, text):
            return role | {"content": text}
        case Reasoning(_, text):
            return role | {"reasoning_content": text, "reasoning": text}
        case CallBegun(_, index, id_, name):
            function = {"name": name, "arguments": ""}
            call = {"index": index, "id": id_, "type": "function", "function": function}
        case CallArguments(_, index, text):
            function = {"arguments": text}
            call = {"index": index, "function": function}
    return role | ({"function_call": function} if legacy else {"tool_calls": [call]})


def end_reason(reason: EndReason, legacy: bool) -> str:
    return "function_call" if legacy and reason == "tool_calls" else reason


class AssistantMessage:
    """One choice's message, part by part; `said` is its content."""

    def __init__(self) -> None:
        self.said: list[Delta] = []
        self._reasoning = ""
        self._calls: list[dict[str, Any]] = []

    def add(self, part: Part) -> None:
        match part:
            case Delta():
                self.said.append(part)
            case Reasoning(_, text):
                self._reasoning += text
            case CallBegun(_, _, id_, name):
                self._calls.append({"id": id_, "type": "function", "function": {"name": name, "arguments": ""}})
            case CallArguments(_, index, text):
                self._calls[index]["function"]["arguments"] += text

    def document(self, legacy: bool = False) -> dict[str, Any]:
        """The message; its content is null where it has calls or reasoning and no text."""
        text = "".join(delta.text for delta in self.said)
        silent = not text and (self._calls or self._reasoning)
        message: dict[str, Any] = {"role": "assistant", "content": None if silent else text, "refusal": None}
        if self._reasoning:
            message |= {"reasoning_content": self._reasoning, "reasoning": self._reasoning}
        if self._calls:
            message |= {"function_call": self._calls[0]["function"]} if legacy else {"tool_calls": self._calls}
        return message
