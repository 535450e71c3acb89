"""Reading responses off a real socket, every body and every event checked against the openai package's own types."""

from __future__ import annotations

import json
from typing import Any, get_args

import httpx
from openai.types.responses import (
    Response,
    ResponseCustomToolCall,
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseReasoningItem,
    ResponseStreamEvent,
)
from pydantic import BaseModel

from tests.gateway.conftest import KEY, Gateway
from tests.support.openai_shapes import OWN, check_names

_ITEMS: dict[str, type[BaseModel]] = {
    "message": ResponseOutputMessage,
    "function_call": ResponseFunctionToolCall,
    "custom_tool_call": ResponseCustomToolCall,
    "reasoning": ResponseReasoningItem,
}
_EVENTS: dict[str, type[BaseModel]] = {
    get_args(model.model_fields["type"].annotation)[0]: model for model in get_args(get_args(ResponseStreamEvent)[0])
}


def checked(body: dict[str, Any]) -> dict[str, Any]:
    """The body, which has the shape that OpenAI's own types want."""
    check_names(body, Response, OWN | {"store"})
    assert {"id", "object", "created_at", "status", "error", "incomplete_details", "output", "usage"} <= set(body)
    Response.model_validate(body, strict=True)
    for item in body["output"]:
        check_names(item, _ITEMS[item["type"]], set())
    return body


async def post(gateway: Gateway, body: Any, key: str = KEY) -> httpx.Response:
    async with gateway.http(key) as http:
        return await http.post("/v1/responses", json={"model": "toy"} | body)


async def complete(gateway: Gateway, key: str = KEY, **body: Any) -> dict[str, Any]:
    response = await post(gateway, body, key)
    assert response.status_code == 200, response.text
    return checked(response.json())


async def events(gateway: Gateway, **body: Any) -> list[dict[str, Any]]:
    """A stream's events, numbered without a gap, each under its own name."""
    async with (
        gateway.http() as http,
        http.stream("POST", "/v1/responses", json={"model": "toy", "stream": True} | body) as response,
    ):
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"].startswith("text/event-stream")
        frames = (await response.aread()).decode().split("\n\n")
    assert frames.pop() == ""
    found = []
    for number, frame in enumerate(frames):
        name, data = frame.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == number
        model = _EVENTS[event["type"]]
        check_names(event, model, {"response", "name"})
        model.model_validate(event, strict=True)
        if "response" in event:
            checked(event["response"])
        found.append(event)
    return found


def steady(body: dict[str, Any]) -> dict[str, Any]:
    """What does not differ between two answers to one request."""
    ids = ("id", "created_at", "completed_at", "edgedraft", "metrics", "usage", "store")
    output = [{name: value for name, value in item.items() if name != "id"} for item in body["output"]]
    return {name: value for name, value in body.items() if name not in ids} | {"output": output}


def text_of(body: dict[str, Any]) -> str:
    return "".join(part["text"] for item in body["output"] if item["type"] == "message" for part in item["content"])
