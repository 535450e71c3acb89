"""Writes JSON responses of any size without holding the event loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from starlette.responses import Response

_ENTRIES = 64  # of a list that are written in one step: log-probabilities of a token have 2 KB
_CONTAINERS = (list, dict)
_STYLE: dict[str, Any] = {"allow_nan": False, "check_circular": False, "separators": (",", ":")}
_write = json.JSONEncoder(ensure_ascii=False, **_STYLE).encode
write_ascii = json.JSONEncoder(**_STYLE).encode


async def json_response(document: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    """The document as a response. Raises ValueError for NaN and infinity."""
    pieces = []
    for piece in write_json(document):
        pieces.append(piece.encode())
        if len(pieces) > 1:
            await asyncio.sleep(0)
    return Response(b"".join(pieces), media_type="application/json", headers=headers)


def write_json(value: Any, write: Callable[[Any], str] = _write) -> Iterator[str]:
    """Pieces of JSON, each by `write`: a value without a list of more than _ENTRIES, or so many entries of one."""
    if not _is_large(value):
        yield write(value)
    elif isinstance(value, dict):
        for number, (key, entry) in enumerate(value.items()):
            yield f"{',' if number else '{'}{write(str(key))}:"
            yield from write_json(entry, write)
        yield "}"
    elif len(value) <= _ENTRIES:
        for number, entry in enumerate(value):
            yield "," if number else "["
            yield from write_json(entry, write)
        yield "]"
    else:
        for start in range(0, len(value), _ENTRIES):
            yield ("," if start else "[") + write(value[start : start + _ENTRIES])[1:-1]
        yield "]"


def _is_large(value: Any) -> bool:
    """Whether there is a long list in it, which is not looked into."""
    if isinstance(value, list):
        if len(value) > _ENTRIES:
            return True
    elif isinstance(value, dict):
        value = value.values()
    else:
        return False
    return any(_is_large(entry) for entry in value if isinstance(entry, _CONTAINERS))
