"""Items that other servers' tools left in a history, in the form of items that are served here.

Calls that the client executed become function calls, and their results stay with them; what has a text keeps it; what
only another server can read, such as encrypted items, says nothing to a model and is left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_CALL, _OUTPUT = "_call", "_call_output"
_NO_ARGUMENTS = frozenset({"id", "type", "status", "call_id", "output", "outputs", "created_by", "async", "caller"})


def served_form(kind: str, item: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns an item of another type as items of served types, without ids; none if it has nothing to say."""
    call_id = item.get("call_id")
    if kind.endswith(_OUTPUT):
        call_id = call_id or item.get("id")  # of a local_shell_call_output
        return [_result(call_id, item.get("output"))] if isinstance(call_id, str) else []
    if kind.endswith(_CALL):
        if isinstance(call_id, str):
            return [_call(call_id, kind.removesuffix(_CALL), item)]
        name, output, call_id = item.get("name"), item.get("output"), item.get("id")
        if isinstance(name, str) and isinstance(output, str) and isinstance(call_id, str):  # executed by the server
            return [_call(call_id, name, item), _result(call_id, output)]
        return []
    text = next((text for field in ("content", "summary", "text") if (text := _text(item.get(field)))), "")
    return [{"type": "message", "role": "user", "content": text}] if text else []


def _call(call_id: str, name: str, item: Mapping[str, Any]) -> dict[str, Any]:
    arguments = item.get("arguments")
    if arguments is None:
        arguments = {field: value for field, value in item.items() if field not in _NO_ARGUMENTS}
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}


def _result(call_id: str, output: Any) -> dict[str, Any]:
    text = _text(output) or json.dumps(output, ensure_ascii=False)
    return {"type": "function_call_output", "call_id": call_id, "output": text}


def _text(value: Any) -> str:
    """A text, or the texts of a list of parts; empty for anything else."""
    if isinstance(value, str):
        return value
    parts = value if isinstance(value, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return "".join(text for text in texts if isinstance(text, str))
