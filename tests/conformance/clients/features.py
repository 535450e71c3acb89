"""What the client scripts of this folder have in common: they are asked by JSON, and answer by JSON.

Each runs in an environment of its own (environments.py) and imports nothing of this repository but this file.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
import traceback
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

Feature = Callable[["Given"], Any] | Callable[["Given"], Awaitable[Any]]


@dataclass(frozen=True)
class Given:
    """What to ask, and whom.

    `tool` is an OpenAI function, `tool_result` what it returns, `schema` the JSON schema of an object.
    `max_tokens` is enough for a piece of text, `long` for a call or an object.
    """

    base_url: str
    api_key: str
    model: str
    prompt: str
    seed: int
    max_tokens: int
    long: int
    stop: str
    tool: dict[str, Any]
    tool_result: str
    schema: dict[str, Any]

    @property
    def messages(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.prompt}]


def answer(*features: Feature) -> None:
    """Print one JSON object: for each of those asked (argv), what each feature gave or the exception it ended in."""
    reported = {who: _reported(Given(**given), features) for who, given in json.loads(sys.argv[1]).items()}
    print(json.dumps(reported))


def _reported(given: Given, features: Sequence[Feature]) -> dict[str, Any]:
    reported: dict[str, Any] = {}
    with asyncio.Runner() as loop:  # one loop, since some packages keep their connections
        for feature in features:
            try:
                result = feature(given)
                reported[feature.__name__] = loop.run(_awaited(result)) if inspect.isawaitable(result) else result
            except Exception:
                reported[feature.__name__] = {"failed": traceback.format_exc()}
    return reported


async def _awaited(result: Awaitable[Any]) -> Any:
    return await result
