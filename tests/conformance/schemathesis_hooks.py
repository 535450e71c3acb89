"""Loaded by Schemathesis: makes most generated requests valid where OpenAPI cannot express what is valid.

Sets an existing model and non-empty text and removes conflicting parameters, so that requests reach the verifier.
"""

from __future__ import annotations

import os
from typing import Any

import schemathesis

MODEL = os.environ["EDGEDRAFT_TEST_MODEL"]


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    body = case.body
    if isinstance(body, dict) and isinstance(body.get("model"), str) and len(repr(body)) % 8:
        case.body = make_valid(body)


def make_valid(body: dict[str, Any]) -> dict[str, Any]:
    """Everything else stays as it was generated, right or wrong."""
    body = body | {"model": MODEL}
    if body.get("prompt") in ("", [""]):
        body["prompt"] = "Once upon a time"
    if isinstance(body.get("messages"), list):
        body["messages"] = [
            message | {"content": "Go on."} if isinstance(message, dict) and not message.get("content") else message
            for message in body["messages"]
        ]
        if body.get("top_logprobs") is not None and body.get("logprobs") is False:
            body["logprobs"] = True
    elif body.get("echo") is True:
        body.pop("logprobs", None)
    if isinstance(body.get("n"), int) and "prediction" in body:
        body.pop("prediction" if body["n"] > 1 else "n")
    return body
