"""Assembles a response's output items, and makes the streaming event of each change.

One item is open at a time; opening another closes it. Events have the shape of
https://platform.openai.com/docs/api-reference/responses-streaming without the sequence number, which response.py adds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from gateway.api.responses.custom_input import CustomInput
from gateway.api.responses.items import Item, item_id
from gateway.api.responses.tools import Origin

StreamEvent = dict[str, Any]
ItemStatus = Literal["completed", "incomplete"]


class ResponseOutput:
    """Takes a model's output in order. Each call returns the events to send; `items` is valid at any time."""

    def __init__(self, response_id: str, origin_of: Callable[[str], Origin] = Origin) -> None:
        """`origin_of` tells how the client knows a tool by its name for the model."""
        self.items: list[Item] = []
        self._origin_of = origin_of
        self._custom: CustomInput | None = None  # of the last call, if it is a custom tool's
        self._response_id = response_id
        self._open: Item | None = None
        self._event_logprobs: list[dict[str, Any]] = []  # of the open item, as events have them

    def text(self, delta: str, logprobs: Sequence[dict[str, Any]] = ()) -> list[StreamEvent]:
        """More of the answer. `logprobs` are in the API's shape, one per token."""
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        opening = self._within("message", {"role": "assistant", "content": []}, part)
        open_part = self._part()
        open_part["text"] += delta
        open_part["logprobs"].extend(logprobs)
        if not delta and not logprobs:
            return opening
        without_bytes = _without_bytes(logprobs)
        self._event_logprobs += without_bytes
        return [*opening, self._part_event("output_text.delta", delta=delta, logprobs=without_bytes)]

    def reasoning(self, delta: str) -> list[StreamEvent]:
        """More of the reasoning before the answer."""
        part = {"type": "reasoning_text", "text": ""}
        opening = self._within("reasoning", {"summary": [], "content": []}, part)
        self._part()["text"] += delta
        return [*opening, self._part_event("reasoning_text.delta", delta=delta)]

    def tool_call(self, call_id: str, name: str) -> list[StreamEvent]:
        """A call of a function or of a custom tool starts."""
        events = self.end("completed")
        origin = self._origin_of(name)
        named: dict[str, Any] = {"call_id": call_id, "name": origin.name}
        if origin.namespace:
            named["namespace"] = origin.namespace
        self._custom = CustomInput() if origin.custom else None
        if self._custom:
            return [*events, self._open_item("custom_tool_call", **named, input="")]
        return [*events, self._open_item("function_call", **named, arguments="")]

    def arguments(self, delta: str) -> list[StreamEvent]:
        """More of the arguments of the last call."""
        if self._custom:
            more = self._custom.add(delta)
            self._current()["input"] = self._custom.text
            return [self._event("custom_tool_call_input.delta", delta=more)] if more else []
        self._current()["arguments"] += delta
        return [self._event("function_call_arguments.delta", delta=delta)]

    def end(self, status: ItemStatus) -> list[StreamEvent]:
        """Closes the open item, if there is one."""
        item = self._open
        if item is None:
            return []
        if item["type"] != "custom_tool_call":  # which has no status in the API
            item["status"] = status
        if item["type"] == "function_call":
            # `name` was part of this event in earlier versions of the API, and older clients require it.
            done = [self._event("function_call_arguments.done", arguments=item["arguments"], name=item["name"])]
        elif item["type"] == "custom_tool_call":
            done = [self._event("custom_tool_call_input.done", input=item["input"])]
        else:
            part = self._part()
            logprobs = {"logprobs": self._event_logprobs} if "logprobs" in part else {}
            done = [
                self._part_event(f"{part['type']}.done", text=part["text"], **logprobs),
                self._part_event("content_part.done", part=dict(part)),
            ]
        done.append(self._item_event("output_item.done", dict(item)))
        self._open = None
        return done

    def _within(self, kind: str, fields: dict[str, Any], part: dict[str, Any]) -> list[StreamEvent]:
        """Opens an item of this kind with one empty part, unless one is open."""
        if self._open is not None and self._open["type"] == kind:
            return []
        events = [*self.end("completed"), self._open_item(kind, **fields)]
        events.append(self._part_event("content_part.added", part=dict(part)))
        self._current()["content"].append(part)
        return events

    def _open_item(self, kind: str, **fields: Any) -> StreamEvent:
        identity = item_id(kind, self._response_id, len(self.items), output=True)
        status = {} if kind == "custom_tool_call" else {"status": "in_progress"}
        self._event_logprobs = []
        self._open = {"id": identity, "type": kind, **status} | fields
        self.items.append(self._open)
        empty = {name: [] if isinstance(value, list) else value for name, value in self._open.items()}
        return self._item_event("output_item.added", empty)

    def _current(self) -> Item:
        assert self._open is not None, "no item is open"
        return self._open

    def _part(self) -> dict[str, Any]:
        return self._current()["content"][0]

    def _item_event(self, kind: str, item: Item) -> StreamEvent:
        return {"type": f"response.{kind}", "output_index": len(self.items) - 1, "item": item}

    def _event(self, kind: str, **fields: Any) -> StreamEvent:
        where = {"item_id": self._current()["id"], "output_index": len(self.items) - 1}
        return {"type": f"response.{kind}"} | where | fields

    def _part_event(self, kind: str, **fields: Any) -> StreamEvent:
        return self._event(kind, content_index=0, **fields)


def _without_bytes(logprobs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The form in events; only the part itself has the bytes."""
    return [
        {
            "token": entry["token"],
            "logprob": entry["logprob"],
            "top_logprobs": [{"token": top["token"], "logprob": top["logprob"]} for top in entry["top_logprobs"]],
        }
        for entry in logprobs
    ]
