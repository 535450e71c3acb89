"""The texts of a message's content: clients send one string, or a list of typed parts of which text is served."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from gateway.http.errors import ApiError


class Part(Protocol):
    """One part, with what it holds if its type is a text's or a refusal's."""

    @property
    def type(self) -> str: ...
    @property
    def text(self) -> str | None: ...
    @property
    def refusal(self) -> str | None: ...


def extract_texts(content: str | Sequence[Part], param: str, text_types: Collection[str]) -> list[str]:
    """`text_types` are the types whose text counts. Raises ApiError 400 that names the part of another one."""
    if isinstance(content, str):
        return [content]
    texts: list[str] = []
    for number, part in enumerate(content):
        text = part.refusal if part.type == "refusal" else part.text if part.type in text_types else None
        if text is None:
            raise ApiError(
                400,
                f"Content of the type {part.type!r} is not supported; this model reads text only.",
                param=f"{param}.{number}",
                code="unsupported_content",
            )
        texts.append(text)
    return texts
