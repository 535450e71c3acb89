"""OpenTelemetry spans of a generation, over real sockets: names, parents, attributes, and no text."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgedraft.wire import CLOSE_REFUSED
from gateway.observability.traces import DURATION, FIRST_TOKEN, PER_TOKEN
from tests.gateway.conftest import Gateway, running_gateway
from tests.support.in_memory_tracing import PARENT, TRACE, TRACEPARENT, InMemoryTracing, attributes, ids
from tests.support.scripted_verifier import ScriptedVerifier
from tests.support.waiting import until

SECRET = "say one two three secret words"
BODY: dict[str, Any] = {"model": "toy", "messages": [{"role": "user", "content": SECRET}]}


@dataclass
class Traced:
    gateway: Gateway
    verifier: ScriptedVerifier
    tracing: InMemoryTracing

    async def post(self, status: int = 200, **options: Any) -> None:
        async with self.gateway.http() as http:
            headers = {"traceparent": TRACEPARENT, "tracestate": "vendor=x"}
            response = await http.post("/v1/chat/completions", json=BODY | options, headers=headers)
        assert response.status_code == status

    async def spans(self, count: int) -> dict[str, Any]:
        await until(lambda: len(self.tracing.spans) >= count)
        return {span.name: span for span in self.tracing.spans}


@pytest.fixture
async def traced(tmp_path: Path, verifier: ScriptedVerifier) -> AsyncIterator[Traced]:
    tracing = InMemoryTracing()
    async with running_gateway(tmp_path, verifier, tracing=tracing) as gateway:
        yield Traced(gateway, verifier, tracing)


async def test_a_generation_is_a_span_of_the_genai_conventions(traced: Traced) -> None:
    await traced.post(temperature=0.5, max_tokens=200, stop=["secret"], top_k=7, n=2)
    (span,) = (await traced.spans(1)).values()
    assert span.name == "chat toy"
    assert ids(span)[::2] == (TRACE, PARENT)
    assert span.get_span_context().trace_state.get("vendor") == "x"
    recorded = dict(attributes(span))
    assert recorded.pop("gen_ai.usage.input_tokens") > 0
    assert recorded.pop("gen_ai.usage.output_tokens") > 0
    assert recorded.pop("edgedraft.verifier_steps") > 0
    assert recorded.pop("edgedraft.verifier_seconds") >= 0
    assert recorded == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "edgedraft",
        "gen_ai.request.model": "toy",
        "gen_ai.response.model": "toy",
        "gen_ai.request.max_tokens": 200,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 1.0,
        "gen_ai.request.top_k": 7,
        "gen_ai.request.frequency_penalty": 0.0,
        "gen_ai.request.presence_penalty": 0.0,
        "gen_ai.request.choice.count": 2,
        "gen_ai.request.stream": False,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.response.finish_reasons": ("stop", "stop"),
        "edgedraft.outcome": "finished",
        "edgedraft.mode": "datacenter",
        "edgedraft.drafted": 0,
        "edgedraft.accepted": 0,
        "edgedraft.verifier_accepted": 0,
    }


async def test_verifier_and_agent_get_the_gateways_span_as_parent(traced: Traced) -> None:
    async with traced.gateway.agent() as agent:
        await traced.post(stream=True)
        spans = await traced.spans(2)
        trace, span, _ = ids(spans["chat toy"])
        assert traced.verifier.opened[0].trace == agent.opened[0].trace == f"00-{trace}-{span}-01"
    assert attributes(spans["chat toy"])["gen_ai.response.time_to_first_chunk"] > 0
    link = spans["edge agent"]
    assert ids(link)[::2] == (trace, span)
    assert attributes(link)["edgedraft.drafter"] == "script"
    assert attributes(link)["edgedraft.draft.accepted"] == attributes(spans["chat toy"])["edgedraft.accepted"] > 0
    assert [event.name for event in link.events] == ["first draft"]


async def test_an_agent_lost_during_a_stream_is_recorded(traced: Traced) -> None:
    agent = traced.gateway.agent(mute=True)
    traced.verifier.step = 0.02  # so that the text does not end before the agent
    async with agent, traced.gateway.http() as http:
        body = BODY | {"messages": [{"role": "user", "content": "babble"}], "max_tokens": 1500, "stream": True}
        async with http.stream("POST", "/v1/chat/completions", json=body) as response:
            await anext(response.aiter_lines())
            await agent.die()
            link = (await traced.spans(1))["edge agent"]
    assert [event.name for event in link.events] == ["agent lost"]
    span = (await traced.spans(2))["chat toy"]
    assert attributes(span)["edgedraft.outcome"] == "cancelled"
    assert "error.type" not in attributes(span)


async def test_a_failure_has_its_kind(tmp_path: Path) -> None:
    tracing = InMemoryTracing()
    async with ScriptedVerifier() as verifier:
        verifier.refuse = CLOSE_REFUSED
        async with running_gateway(tmp_path, verifier, tracing=tracing) as gateway:
            await Traced(gateway, verifier, tracing).post(400)
    (span,) = tracing.spans
    assert attributes(span)["error.type"] == "Refused"
    assert attributes(span)["edgedraft.outcome"] == "failed"
    assert not span.status.is_ok


async def test_measurements_have_the_conventions_names_and_buckets(traced: Traced) -> None:
    await traced.post()
    await traced.spans(1)
    measured = traced.tracing.measured()
    for name, buckets in (
        ("gen_ai.server.request.duration", DURATION),
        ("gen_ai.server.time_to_first_token", FIRST_TOKEN),
        ("gen_ai.server.time_per_output_token", PER_TOKEN),
    ):
        (point,) = measured[name]
        assert (point.count, tuple(point.explicit_bounds)) == (1, buckets)
        assert dict(point.attributes) == {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "edgedraft",
            "gen_ai.request.model": "toy",
            "gen_ai.response.model": "toy",
        }


async def test_spans_contain_no_text_token_or_key(traced: Traced) -> None:
    async with traced.gateway.agent():
        await traced.post(stream=True, stop=["wordless"], user="somebody")
    recorded = "".join(span.to_json() for span in (await traced.spans(2)).values())
    for word in ("secret", "wordless", "three", "somebody", "ed-static"):
        assert word not in recorded


async def test_a_trace_passes_through_a_gateway_without_tracing(gateway: Gateway, verifier: ScriptedVerifier) -> None:
    async with gateway.http() as http:
        for header in (TRACEPARENT, "rubbish; DROP TABLE"):
            await http.post("/v1/chat/completions", json=BODY, headers={"traceparent": header})
    assert [opened.trace for opened in verifier.opened] == [TRACEPARENT, ""]
