"""What a gateway, a model server or a file says, made fit for a log or a terminal."""

from __future__ import annotations

MAX_SHOWN = 256  # characters


def printable(text: str) -> str:
    """The beginning of a text in one line, without control characters, which a terminal would obey."""
    shown = text[:MAX_SHOWN].strip()
    return "".join(c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in shown)
