"""The Responses API through the openai package: complete, streamed, and continued from a stored response."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from openai.types.responses import Response

from tests.conformance.conftest import PROMPT, SEED, SIDES, TOKENS, Gateway, text_of
from tests.conformance.test_openai_python import MODES, client

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


def asked(gateway: Gateway, **more: Any) -> dict[str, Any]:
    body = {"model": gateway.model, "input": PROMPT, "max_output_tokens": TOKENS, "temperature": 0}
    return body | {"extra_body": {"seed": SEED}} | more


@pytest.mark.parametrize("temperature", [0, 0.8])
def test_a_response_has_the_text_of_a_chat(gateway: Gateway, side: str, temperature: float) -> None:
    response = client(gateway, side).responses.create(**asked(gateway, temperature=temperature))
    assert response.output_text == text_of(gateway.reference(temperature=temperature))
    assert (response.model_extra or {})["edgedraft"]["mode"] in MODES[side]
    assert response.usage
    assert response.usage.output_tokens == gateway.reference(temperature=temperature)["usage"]["completion_tokens"]


def test_a_streamed_response_tells_its_text_and_its_end(gateway: Gateway, side: str) -> None:
    with client(gateway, side).responses.stream(**asked(gateway)) as stream:
        events = list(stream)
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == text_of(gateway.reference())
    last = events[-1]
    assert last.type in {"response.completed", "response.incomplete"}
    assert Response.model_validate(last.model_dump()["response"]).output_text == text
    assert [event.sequence_number for event in events] == list(range(len(events)))


def test_a_conversation_goes_on_from_a_stored_response(gateway: Gateway) -> None:
    reported: list[str] = []
    for side in SIDES:
        responses = client(gateway, side).responses
        first = responses.create(**asked(gateway, max_output_tokens=12))
        second = responses.create(
            **asked(gateway, input="What was the question?", previous_response_id=first.id, max_output_tokens=12)
        )
        by_hand = responses.create(
            **asked(
                gateway,
                input=[
                    {"role": "user", "content": PROMPT},
                    *first.output,
                    {"role": "user", "content": "What was the question?"},
                ],
                store=False,
                max_output_tokens=12,
            )
        )
        assert second.output_text == by_hand.output_text
        assert responses.retrieve(first.id).output_text == first.output_text
        reported += [first.output_text + second.output_text]
        responses.delete(first.id)
        with pytest.raises(openai.NotFoundError):
            responses.retrieve(first.id)
    assert reported[0] == reported[1]


def test_a_response_is_seen_by_its_owner_alone(gateway: Gateway) -> None:
    mine = client(gateway, "edge").responses.create(**asked(gateway, max_output_tokens=4))
    with pytest.raises(openai.NotFoundError):
        client(gateway, "datacenter").responses.retrieve(mine.id)
