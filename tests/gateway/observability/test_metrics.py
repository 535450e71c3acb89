"""/metrics in Prometheus format, and the log of requests, which contains no text."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from edgedraft.observability.logs import JsonFormatter
from tests.gateway.conftest import KEY, Gateway
from tests.support.in_memory_tracing import TRACE, TRACEPARENT
from tests.support.waiting import until

BODY = {"model": "toy", "messages": [{"role": "user", "content": "say one two three secret words"}]}

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def samples(gateway: Gateway) -> Samples:
    async with gateway.http("") as http:
        text = (await http.get("/metrics")).text
    assert "secret" not in text
    assert KEY not in text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


async def test_latency_acceptance_and_savings_by_model(gateway: Gateway) -> None:
    async with gateway.agent(), gateway.http() as http:
        made = (await http.post("/v1/chat/completions", json=BODY)).json()
        unknown = await http.post("/v1/chat/completions", json=BODY | {"model": "no-such-model"})
        assert unknown.status_code == 404
        got = await samples(gateway)
    edge, name = made["edgedraft"], "edgedraft_gateway_"
    tokens = made["usage"]["completion_tokens"]
    assert of(got, name + "time_to_first_token_seconds_count", model="toy") == 1
    assert of(got, name + "verifier_steps_total", model="toy") == edge["verifier_steps"]
    assert of(got, name + "tokens_made_total", model="toy", by="edge") == edge["accepted"]
    assert of(got, name + "tokens_made_total", model="toy", by="plain") == tokens - edge["accepted"]
    assert of(got, name + "forwards_saved_total", model="toy") == tokens - edge["verifier_steps"]
    assert of(got, name + "inter_token_seconds_count", model="toy") == edge["verifier_steps"] - 1
    assert of(got, name + "acceptance_length_count", model="toy") > 0
    assert of(got, name + "window_count", model="toy") > 0
    assert of(got, "vllm:num_requests_waiting") == of(got, name + "queued") == 0
    assert of(got, "vllm:num_requests_running") == 0
    assert not [labels for _, labels in got if ("model", "no-such-model") in labels]


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """The log, as it is written with --log-format json."""
    recorded: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.name.startswith("gateway"):
                recorded.append(JsonFormatter().format(record))

    root, handler = logging.getLogger(), Keep()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield recorded
    root.removeHandler(handler)
    root.setLevel(before)


async def test_a_request_is_one_line_and_no_line_has_its_text(gateway: Gateway, lines: list[str]) -> None:
    async with gateway.agent(), gateway.http() as http:
        headers = {"x-request-id": "mine", "traceparent": TRACEPARENT}
        await http.post("/v1/chat/completions", json=BODY | {"stream": True}, headers=headers)
        await http.post("/v1/chat/completions?key=hidden", json=BODY | {"temperature": "secret"})
        await http.get("/v1/nothing%0Aforged")
        await http.get("/health")
    await until(lambda: "agent detached" in lines[-1])
    recorded = [json.loads(line) for line in lines]
    requests = [line for line in recorded if line["event"] == "request"]
    assert [line["status"] for line in requests] == [200, 400, 404]
    first = requests[0]
    assert (first["request"], first["trace"], first["path"]) == ("mine", TRACE, "/v1/chat/completions")
    assert (first["operation"], first["outcome"], first["model"], first["mode"]) == ("chat", "finished", "toy", "edge")
    assert first["output_tokens"] > 0
    assert first["seconds"] >= first["first_text"] > 0
    assert {"agent attached", "agent detached"} <= {line["event"] for line in recorded}
    for line in lines:
        assert "secret words" not in line
        assert KEY not in line
        assert "hidden" not in line
