"""An OpenAI server without a model: the same text as the stub verifier's, one token per chunk when streaming.

`python -m loadtest.peers.gateways.stub_openai NAME INTERVAL` prints its URL. A stream gets one token every INTERVAL
seconds; an INTERVAL of 0, and a request without streaming, is answered at once.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from edgedraft.serving.server import serve
from loadtest.peers.gateways.script import script_pieces


def build(name: str, interval: float) -> Starlette:
    script = script_pieces(2048)
    header = {"id": "chatcmpl-stub", "created": 1, "model": name}

    async def chat(request: Request) -> Response:
        body = await request.json()
        pieces = script[: body.get("max_tokens") or body.get("max_completion_tokens") or len(script)]
        usage = {"prompt_tokens": 16, "completion_tokens": len(pieces), "total_tokens": 16 + len(pieces)}
        if body.get("stream"):
            return StreamingResponse(stream(pieces), media_type="text/event-stream")
        message = {"role": "assistant", "content": "".join(pieces)}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "length"}
        return JSONResponse({**header, "object": "chat.completion", "choices": [choice], "usage": usage})

    def chunk(delta: dict[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        document = {**header, "object": "chat.completion.chunk", "choices": [choice]}
        return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"

    async def stream(pieces: list[str]) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        due = loop.time()
        for number, piece in enumerate(pieces):
            due += interval
            await asyncio.sleep(max(0.0, due - loop.time()))
            yield chunk({"content": piece} if number else {"role": "assistant", "content": piece})
        yield chunk({}, "length")
        yield b"data: [DONE]\n\n"

    return Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])])


if __name__ == "__main__":
    serve(
        build(sys.argv[1], float(sys.argv[2])),
        "127.0.0.1",
        0,
        lambda at: f"stub server ready http://{at}",
        max_frame=1024,
    )
