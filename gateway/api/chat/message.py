"""An assistant's message in a chat completion: complete, or as the deltas of a stream.

Reasoning is sent under both names that clients know. `legacy` is for requests with `functions`, the older form of
tools: one call, without an id.
"""

from __future__ import annotations

from typing import Any

from gateway.output.events import (
    ChoiceFinishReason,
    OutputDelta,
    ReasoningDelta,
    TextDelta,
    ToolCallArgumentsDelta,
    ToolCallStarted,
)


def message_delta(event: OutputDelta, first: bool, legacy: bool = False) -> dict[str, Any]:
    """One event as a chunk's `delta`; the first of a choice has the role."""
    role: dict[str, Any] = {"role": "assistant", "content": None} if first else {}
    match event:
        case TextDelta(_, text):
            return role | {"content": text}
        case ReasoningDelta(_, text):
            return role | {"reasoning_content": text, "reasoning": text}
        case ToolCallStarted(_, index, id_, name):
            function = {"name": name, "arguments": ""}
            call = {"index": index, "id": id_, "type": "function", "function": function}
        case ToolCallArgumentsDelta(_, index, text):
            function = {"arguments": text}
            call = {"index": index, "function": function}
    return role | ({"function_call": function} if legacy else {"tool_calls": [call]})


def finish_reason(reason: ChoiceFinishReason | None, legacy: bool) -> str | None:
    return "function_call" if legacy and reason == "tool_calls" else reason


class AssistantMessage:
    """One choice's message, built from its events; `text` are the deltas of its content."""

    def __init__(self) -> None:
        self.text: list[TextDelta] = []
        self._reasoning = ""
        self._calls: list[dict[str, Any]] = []

    def add(self, event: OutputDelta) -> None:
        match event:
            case TextDelta():
                self.text.append(event)
            case ReasoningDelta(_, text):
                self._reasoning += text
            case ToolCallStarted(_, _, id_, name):
                self._calls.append({"id": id_, "type": "function", "function": {"name": name, "arguments": ""}})
            case ToolCallArgumentsDelta(_, index, text):
                self._calls[index]["function"]["arguments"] += text

    def document(self, legacy: bool = False) -> dict[str, Any]:
        """The message. Its content is null when it has tool calls or reasoning and no text."""
        text = "".join(delta.text for delta in self.text)
        without_content = not text and (self._calls or self._reasoning)
        message: dict[str, Any] = {"role": "assistant", "content": None if without_content else text, "refusal": None}
        if self._reasoning:
            message |= {"reasoning_content": self._reasoning, "reasoning": self._reasoning}
        if self._calls:
            message |= {"function_call": self._calls[0]["function"]} if legacy else {"tool_calls": self._calls}
        return message
