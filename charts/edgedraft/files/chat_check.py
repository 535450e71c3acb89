"""Run by `helm test`: one chat through the gateway, complete and streamed, which must have the same text.

Uses the standard library only. Exits with 1 and the reason on failure.
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
    """Waits deadline a model is served, sends the requests and compares their texts."""
    base, key = os.environ["BASE_URL"].rstrip("/"), os.environ["API_KEY"]
    model = os.environ.get("MODEL") or _first_model(base, key)
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Say hello."}],
        "max_tokens": 16,
        "temperature": 0,
    }
    complete = _read(_call(base, key, "/v1/chat/completions", body))
    text, tokens = complete["choices"][0]["message"]["content"], complete["usage"]["completion_tokens"]
    if not tokens:
        sys.exit(f"{model} answered without a token: {complete}")
    streamed = _streamed(_call(base, key, "/v1/chat/completions", body | {"stream": True}))
    if streamed != text:
        sys.exit(f"{model} streamed {streamed!r}, and said {text!r} as a complete")
    print(f"{model}: {tokens} tokens, {text!r}")


def _first_model(base: str, key: str) -> str:
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        if models := _read(_call(base, key, "/v1/models"))["data"]:
            return models[0]["id"]
        if time.monotonic() > deadline:
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


def _read(response: Any) -> dict[str, Any]:
    with response:
        return json.load(response)


def _streamed(response: Any) -> str:
    """Returns the text of a stream. Exits if it ended without [DONE]."""
    text, ended = "", False
    with response:
        for line in response:
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
