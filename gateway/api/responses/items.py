"""Input items: validated, and converted to the shape that is stored and returned.

An item is a dict as the API shows it: a message, reasoning, the call of a function or custom tool, or its output
(https://platform.openai.com/docs/api-reference/responses). messages.py converts them to chat messages.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from gateway.api.responses.foreign_items import served_form
from gateway.http.bodies.validation import Schema, validated
from gateway.http.errors import ApiError
from gateway.limits.request_bounds import (
    MAX_CONTENT_PARTS,
    MAX_IDENTIFIER_CHARACTERS,
    MAX_ITEM_REFERENCES,
    MAX_NAME_CHARACTERS,
)
from gateway.prompt.content_parts import extract_texts

Item = dict[str, Any]
Identifier = Annotated[str, Field(max_length=MAX_IDENTIFIER_CHARACTERS)]
Name = Annotated[str, Field(max_length=MAX_NAME_CHARACTERS)]

_PREFIXES = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "cto",
    "reasoning": "rs",
}
_ITEM_ID = re.compile(r"[a-z]{2,3}_([0-9a-f]{32})[io]\d{1,6}")
_RESPONSE_ID = re.compile(r"resp_[0-9a-f]{32}")
_TEXT_PARTS = ("input_text", "output_text", "text", "reasoning_text", "summary_text")


_NO_TEXT = "[{}: left out, this model reads text only]"


class _Part(Schema):
    type: str
    text: str | None = None
    refusal: str | None = None


Parts = Annotated[list[_Part], Field(max_length=MAX_CONTENT_PARTS, fail_fast=True)]


class _Message(Schema):
    id: Identifier | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: str | Parts


class _FunctionCall(Schema):
    id: Identifier | None = None
    call_id: Identifier
    name: Name
    namespace: Name | None = None
    arguments: Any = ""


class _FunctionCallOutput(Schema):
    id: Identifier | None = None
    call_id: Identifier
    output: str | Parts


class _CustomToolCall(Schema):
    id: Identifier | None = None
    call_id: Identifier
    name: Name
    namespace: Name | None = None
    input: str


class _Reasoning(Schema):
    id: Identifier | None = None
    content: Parts | None = None
    summary: Parts | None = None


class _ItemReference(Schema):
    id: Identifier


_SCHEMAS: dict[str, type[Schema]] = {
    "message": _Message,
    "function_call": _FunctionCall,
    "function_call_output": _FunctionCallOutput,
    "custom_tool_call": _CustomToolCall,
    "custom_tool_call_output": _FunctionCallOutput,
    "reasoning": _Reasoning,
    "item_reference": _ItemReference,
}


def new_response_id() -> str:
    return f"resp_{uuid.uuid4().hex}"


def is_response_id(identity: str) -> bool:
    """Whether the id has the format of this gateway's response ids; others are not looked up."""
    return _RESPONSE_ID.fullmatch(identity) is not None


def item_id(kind: str, response_id: str, number: int, *, output: bool) -> str:
    """The id of a response's item. It contains the response's id, so that an item_reference leads to one row."""
    return f"{_PREFIXES[kind]}_{response_id.removeprefix('resp_')}{'o' if output else 'i'}{number}"


def response_of(identity: str) -> str | None:
    """Returns the id of the response that an item belongs to; None for an id of another format."""
    made = _ITEM_ID.fullmatch(identity)
    return f"resp_{made[1]}" if made else None


def referenced(given: str | list[Any]) -> dict[str, str]:
    """The item_references of an input: item id -> response id. Raises ApiError 400 for an id of another format."""
    found: dict[str, str] = {}
    for number, raw in enumerate(given if isinstance(given, list) else ()):
        if _kind(raw) != "item_reference":
            continue
        identity = raw.get("id")
        response_id = response_of(identity) if isinstance(identity, str) else None
        if response_id is None:
            raise no_such_item(identity, f"input.{number}.id")
        found[identity] = response_id
    if len(found) > MAX_ITEM_REFERENCES:
        raise ApiError(
            400, f"input has more than {MAX_ITEM_REFERENCES} item references.", param="input", code="too_many_items"
        )
    return found


def input_items(given: str | list[Any], response_id: str, stored: Mapping[str, Item]) -> list[Item]:
    """Returns a request's input in the stored shape; `stored` holds the items that its item_references name.

    Raises ApiError 400 that names the invalid part.
    """
    return list(each_input_item(given, response_id, stored))


def each_input_item(given: str | list[Any], response_id: str, stored: Mapping[str, Item]) -> Iterator[Item]:
    """As input_items, one by one: thousands of them take 10 ms."""
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    for number, raw in enumerate(given):
        yield from _items(number, raw, response_id, stored)


def _items(number: int, raw: Any, response_id: str, stored: Mapping[str, Item]) -> list[Item]:
    kind = _kind(raw)
    if kind is None or kind in _SCHEMAS:
        return [_item(number, raw, response_id, stored)]
    return [_item(number, served, response_id, stored) for served in served_form(kind, raw)]


def _item(number: int, raw: Any, response_id: str, stored: Mapping[str, Item]) -> Item:
    param = f"input.{number}"
    kind = _kind(raw)
    if kind is None:
        raise ApiError(400, f"{param} is no item.", param=param, code="invalid_value")
    item = validated(_SCHEMAS[kind], raw, param)
    if isinstance(item, _ItemReference):
        if item.id not in stored:
            raise no_such_item(item.id, f"{param}.id")
        return stored[item.id]
    made: Item = {"id": item.id or item_id(kind, response_id, number, output=False), "type": kind}  # type: ignore[attr-defined]
    match item:
        case _Message():
            own = {"type": "output_text", "annotations": []} if item.role == "assistant" else {"type": "input_text"}
            texts = extract_texts(item.content, f"{param}.content", _TEXT_PARTS)
            return made | {
                "role": item.role,
                "status": "completed",
                "content": [own | {"text": text} for text in texts],
            }
        case _FunctionCall():
            # What clients send back may be no text: an object, or nothing.
            text = item.arguments if isinstance(item.arguments, str) else json.dumps(item.arguments)
            return made | _called(item) | {"arguments": text, "status": "completed"}
        case _CustomToolCall():
            return made | _called(item) | {"input": item.input}
        case _FunctionCallOutput():
            return made | {
                "call_id": item.call_id,
                "output": _result_text(item.output),
                "status": "completed",
            }
        case _Reasoning():
            return made | {
                "summary": [
                    {"type": "summary_text", "text": t}
                    for t in extract_texts(item.summary or [], f"{param}.summary", _TEXT_PARTS)
                ],
                "content": [
                    {"type": "reasoning_text", "text": t}
                    for t in extract_texts(item.content or [], f"{param}.content", _TEXT_PARTS)
                ],
            }
    raise AssertionError(f"no shape for {kind}")


def _called(item: _FunctionCall | _CustomToolCall) -> Item:
    namespace = {"namespace": item.namespace} if item.namespace else {}
    return {"call_id": item.call_id, "name": item.name, **namespace}


def _result_text(output: str | list[_Part]) -> str:
    """A tool's result, with a note in the place of what is no text: a client that sent an image once goes on."""
    if isinstance(output, str):
        return output
    return "".join(_NO_TEXT.format(part.type[:40]) if part.text is None else part.text for part in output)


def _kind(raw: Any) -> str | None:
    """An item's type. It may be missing on messages and references, as in the SDK's types."""
    if not isinstance(raw, dict):
        return None
    kind = raw.get("type")
    if kind is None:
        kind = "message" if "role" in raw else "item_reference" if set(raw) <= {"id", "type"} else None
    return kind if isinstance(kind, str) else None


def no_such_item(identity: Any, param: str) -> ApiError:
    return ApiError(400, f"Item with id {identity!r} not found.", param=param, code="item_not_found")
