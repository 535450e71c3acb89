"""Content as a string or as typed parts, and which part an error names."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from gateway.http.errors import ApiError
from gateway.prompt.content_parts import extract_texts


@dataclass(frozen=True)
class Part:
    type: str
    text: str | None = None
    refusal: str | None = None


def test_texts_and_refusals_are_read() -> None:
    assert extract_texts("one", "content", ("text",)) == ["one"]
    parts = [Part("text", text="a"), Part("refusal", refusal="no"), Part("text", text="")]
    assert extract_texts(parts, "content", ("text",)) == ["a", "no", ""]
    assert extract_texts([], "content", ("text",)) == []


@pytest.mark.parametrize(
    ("part", "place"),
    [(Part("image_url", text="x"), "1"), (Part("text"), "1.text"), (Part("refusal", text="no"), "1.refusal")],
)
def test_any_other_part_is_named(part: Part, place: str) -> None:
    with pytest.raises(ApiError) as raised:
        extract_texts([Part("text", text="a"), part], "messages.0.content", ("text",))
    assert (raised.value.status, raised.value.body["error"]["param"]) == (400, f"messages.0.content.{place}")
