"""client.responses of the openai package for Python against the real model: one text with an agent and without."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.conftest import PROMPT, SEED, TOKENS, Gateway, text_of
from tests.conformance.test_openai_python import MODES, client

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


def asked(gateway: Gateway, **more: Any) -> dict[str, Any]:
    sampling = {"temperature": 0, "extra_body": {"seed": SEED}}
    return {"model": gateway.model, "input": PROMPT, "max_output_tokens": TOKENS} | sampling | more


def test_a_response_has_the_chats_text_and_can_be_gone_on_from(gateway: Gateway, side: str) -> None:
    ask = client(gateway, side)
    first = ask.responses.create(**asked(gateway))
    assert first.output_text == text_of(gateway.reference())
    assert (first.model_extra or {})["edgedraft"]["mode"] in MODES[side]
    second = ask.responses.create(**asked(gateway, input="Shorter.", previous_response_id=first.id))
    items = [{"role": "user", "content": PROMPT}, *first.output, {"role": "user", "content": "Shorter."}]
    stateless = ask.responses.create(**asked(gateway, input=items, store=False))
    assert second.output_text == stateless.output_text
    assert ask.responses.retrieve(second.id).output_text == second.output_text
    ask.responses.delete(second.id)


def test_a_stream_says_the_same(gateway: Gateway, side: str) -> None:
    with client(gateway, side).responses.stream(**asked(gateway)) as stream:
        events = list(stream)
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == text_of(gateway.reference())
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].type == "response.incomplete"
