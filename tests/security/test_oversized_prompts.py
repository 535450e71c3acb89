"""Attack: texts that fill a body and cannot fit any context, on every endpoint, while others stream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.event_loop import assert_never_held
from tests.support.server_processes import KEY, running_servers, served_model

DIGITS = "1" * 8_000_000
SECONDS = 15.0  # of one answer on a busy machine; on an idle one it takes 0.05


@asynccontextmanager
async def stream(http: httpx.AsyncClient, model: str) -> AsyncIterator[list[float]]:
    """A completion that goes on while the context lasts; when each of its chunks came."""
    arrivals: list[float] = []

    async def read() -> None:
        body = {"model": model, "prompt": "The", "stream": True, "ignore_eos": True, "max_tokens": 60}
        while True:
            async with http.stream("POST", "/v1/completions", json=body) as response:
                async for line in response.aiter_lines():
                    if line.startswith("data: {"):
                        arrivals.append(time.monotonic())

    reading = asyncio.create_task(read())
    try:
        yield arrivals
        assert not reading.done(), reading.exception()
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


def attacks(model: str) -> dict[str, tuple[str, dict[str, Any]]]:
    said = [{"role": "user", "content": DIGITS}]
    return {
        "chat": ("/v1/chat/completions", {"messages": said}),
        "parts": ("/v1/chat/completions", {"messages": [said[0] | {"content": [{"type": "text", "text": DIGITS}]}]}),
        "system": ("/v1/chat/completions", {"messages": [said[0] | {"role": "system"}]}),
        "completion": ("/v1/completions", {"prompt": DIGITS}),
        "completions": ("/v1/completions", {"prompt": ["a", DIGITS]}),
        "token ids": ("/v1/completions", {"prompt": [5] * 130_000}),
        "response": ("/v1/responses", {"input": DIGITS}),
        "instructions": ("/v1/responses", {"input": "a", "instructions": DIGITS}),
        "truncated": ("/v1/responses", {"input": DIGITS, "truncation": "auto"}),
        "input tokens": ("/v1/responses/input_tokens", {"input": DIGITS}),
        "tokenize": ("/tokenize", {"prompt": DIGITS}),
        "tokenize a chat": ("/tokenize", {"messages": said}),
        "detokenize": ("/detokenize", {"tokens": [5] * 130_000}),
    }


@pytest.mark.long
async def test_texts_that_cannot_fit_are_refused_while_others_stream(tmp_path: Path) -> None:
    with running_servers(tmp_path) as servers:
        gateway = servers["gateway"]
        url = "http://{}:{}".format(*gateway.address)
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as http:
            http.headers["authorization"] = f"Bearer {KEY}"
            model = await served_model(http)
            async with stream(http, model) as arrivals:
                before: int | None = None
                for name, (path, body) in attacks(model).items():
                    content = httpx.Request("POST", url, json={"model": model} | body).content
                    chunks, began = len(arrivals), time.monotonic()
                    answer = await http.post(path, content=content)
                    took = time.monotonic() - began
                    error = answer.json().get("error", {})
                    assert (answer.status_code, error.get("code")) == (400, "context_length_exceeded"), (name, error)
                    assert took < SECONDS, (name, took)
                    assert len(arrivals) > chunks or took < 2.0, f"nothing streamed meanwhile: {name}"
                    # The first one is not counted: it loads what the others use.
                    before = before or gateway.memory()
                assert before
                assert gateway.memory() - before < 96 << 20  # one body is 8 MB, as bytes and as text
        assert_never_held(url)
        assert "Traceback" not in gateway.log.read_text()
