"""What `helm test` runs: one chat through the gateway, streamed and whole, which must be the same text.

Needs nothing but Python. Exits 1 with what is wrong.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.request
from typing import Any

WAIT_SECONDS = 120.0


def main() -> None:
    """Wait until a model is served, ask it, and compare."""
    base, key = os.environ["BASE_URL"].rstrip("/"), os.environ["API_KEY"]
    model = os.environ.get("MODEL") or _first_model(base, key)
    question = {
        "model": model,
        "messages": [{"role": "user", "content": "Say hello."}],
        "max_tokens": 16,
        "temperature": 0,
    }
    whole = _read(_call(base, key, "/v1/chat/completions", question))
    text, tokens = whole["choices"][0]["message"]["content"], whole["usage"]["completion_tokens"]
    if not tokens:
        sys.exit(f"{model} answered without a token: {whole}")
    streamed = _streamed(_call(base, key, "/v1/chat/completions", question | {"stream": True}))
    if streamed != text:
        sys.exit(f"{model} streamed {streamed!r}, and said {text!r} as a whole")
    print(f"{model}: {tokens} tokens, {text!r}")


def _first_model(base: str, key: str) -> str:
    until = time.monotonic() + WAIT_SECONDS
    while True:
        if models := _read(_call(base, key, "/v1/models"))["data"]:
            return models[0]["id"]
        if time.monotonic() > until:
            sys.exit(f"no model is served after {WAIT_SECONDS:g} seconds")
        time.sleep(1)


def _call(base: str, key: str, path: str, body: dict[str, Any] | None = None) -> Any:
    request = urllib.request.Request(
        base + path,
        json.dumps(body).encode() if body else None,
        {"authorization": f"Bearer {key}", "content-type": "application/json"},
    )
    try:
        return urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        sys.exit(f"{path}: {error.code}: {error.read().decode(errors='replace')}")
    except OSError as error:
        sys.exit(f"{base}{path}: {error}")


def _read(answer: Any) -> dict[str, Any]:
    with answer:
        return json.load(answer)


def _streamed(answer: Any) -> str:
    """The text of a stream that ended as it should."""
    text, ended = "", False
    with answer:
        for line in answer:
            data = line.decode().strip().removeprefix("data:").strip()
            if data == "[DONE]":
                ended = True
            elif data.startswith("{"):
                for choice in json.loads(data)["choices"]:
                    text += choice["delta"].get("content") or ""
    if not ended:
        sys.exit("the stream broke off before its end")
    return text


if __name__ == "__main__":
    main()
