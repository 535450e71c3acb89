"""JSON responses: the same bytes as in one piece, written in steps that do not hold the event loop."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http import json_response as module
from gateway.http.json_response import json_response, write_json
from tests.support.processor_time import step_seconds

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
)


@given(VALUES, st.integers(1, 3))
def test_pieces_are_the_whole(value: Any, entries: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_ENTRIES", entries)
        text = "".join(write_json(value))
    assert text == json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def test_no_piece_of_many_log_probabilities_takes_long() -> None:
    entry = {"token": "abc", "logprob": -1.5, "bytes": [97, 98, 99]}
    tokens = [{**entry, "top_logprobs": [entry] * 20} for _ in range(10_000)]
    seconds = step_seconds(write_json({"choices": [{"logprobs": {"content": tokens}}, {"logprobs": None}]}))
    assert len(seconds) > 150
    assert max(seconds) < sum(seconds) / 10


async def test_a_document_is_a_response() -> None:
    response = await json_response({"a": list(range(1000))}, {"x-a": "b"})
    assert json.loads(bytes(response.body)) == {"a": list(range(1000))}
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-a"] == "b"
    with pytest.raises(ValueError, match="JSON"):
        await json_response({"a": float("nan")})
