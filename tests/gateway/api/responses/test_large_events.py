"""The events at the end of a response repeat all of its log-probabilities; they are written in pieces."""

from __future__ import annotations

import json
from typing import Any

from gateway.api.responses.output import ResponseOutput
from gateway.api.responses.response import ResponseStream

TOKENS = 2000
TOP = {"token": "ü", "logprob": -1.5, "bytes": [195, 188]}


def test_each_event_is_whole_and_no_piece_is_large() -> None:
    output = ResponseOutput("resp_" + "0" * 32)
    for _ in range(TOKENS):
        output.text("ü", [{**TOP, "top_logprobs": [TOP] * 20}])
    stream = ResponseStream(None)  # type: ignore[arg-type]  # whose body is not asked for frames
    kinds: list[str] = []
    for number, event in enumerate(output.end("completed")):
        expected: dict[str, Any] = {**event, "sequence_number": number}
        pieces = list(stream._frame(event))
        frame = b"".join(pieces)
        assert frame == f"event: {event['type']}\ndata: {json.dumps(expected, separators=(',', ':'))}\n\n".encode()
        assert len(frame) > 10 * max(map(len, pieces))
        kinds.append(event["type"])
    assert kinds == ["response.output_text.done", "response.content_part.done", "response.output_item.done"]
    assert len(output.items[0]["content"][0]["logprobs"]) == TOKENS
