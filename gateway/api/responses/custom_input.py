"""Reads a custom tool's input out of a call's arguments, {"input": "..."}, as they arrive."""

from __future__ import annotations

import json
import re

INPUT = "input"  # the one argument of a custom tool, as the model sees it

_OPENING = re.compile(rf'\s*{{\s*"{INPUT}"\s*:\s*"')
_UNIT = re.compile(r'[^"\\]+|\\(?:[^u]|u[0-9a-fA-F]{4})')
_HIGH_SURROGATE = re.compile(r"\\u[dD][89abAB]")


class CustomInput:
    """One call's input. `text` is what has come so far, in whole characters."""

    def __init__(self) -> None:
        self.text = ""
        self._buffer = ""
        self._started = False
        self._ended = False

    def add(self, arguments: str) -> str:
        """Takes more of the arguments. Returns more of the input, which may be empty."""
        if self._ended:
            return ""
        self._buffer += arguments
        if not self._started:
            opening = _OPENING.match(self._buffer)
            if not opening:
                return ""
            self._started = True
            self._buffer = self._buffer[opening.end() :]
        more = self._decode()
        self.text += more
        return more

    def _decode(self) -> str:
        end = waiting = 0
        while unit := _UNIT.match(self._buffer, end):
            end = unit.end()
            # The first half of a pair waits for the second.
            waiting = len(unit[0]) if _HIGH_SURROGATE.match(unit[0]) else 0
        self._ended = self._buffer.startswith('"', end)
        if not self._ended:
            end -= waiting
        complete, self._buffer = self._buffer[:end], self._buffer[end:]
        text: str = json.loads(f'"{complete}"', strict=False)
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
