"""Reads a message's content, which is a string or a list of typed parts. Only text is served."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from gateway.http.errors import ApiError


class Part(Protocol):
    """One part: `text` is set in parts of text, `refusal` in refusals."""

    @property
    def type(self) -> str: ...
    @property
    def text(self) -> str | None: ...
    @property
    def refusal(self) -> str | None: ...


def extract_texts(content: str | Sequence[Part], param: str, text_types: Collection[str]) -> list[str]:
    """Returns the texts of the parts, whose types are `text_types` or "refusal".

    Raises ApiError 400, which names the part, for any other type.
    """
    if isinstance(content, str):
        return [content]
    texts: list[str] = []
    for number, part in enumerate(content):
        field = "refusal" if part.type == "refusal" else "text"
        text = part.refusal if part.type == "refusal" else part.text if part.type in text_types else None
        if text is None and (part.type in text_types or part.type == "refusal"):
            param = f"{param}.{number}.{field}"
            raise ApiError(400, f"{param}: Input should be a string", param=param, code="invalid_value")
        if text is None:
            raise ApiError(
                400,
                f"Content of the type {part.type[:40]!r} is not supported; this model reads text only.",
                param=f"{param}.{number}",
                code="unsupported_content",
            )
        texts.append(text)
    return texts
