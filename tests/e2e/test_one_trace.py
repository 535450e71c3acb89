"""A client's trace continues through gateway, verifier and agent processes, each of which exports it by OTLP."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest

from edgedraft.local.processes import Supervisor
from tests.e2e.conftest import VERIFIER
from tests.support.in_memory_tracing import PARENT, TRACE, TRACEPARENT
from tests.support.otlp_receiver import OtlpReceiver, attributes

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

KEY = "ed-one-trace"
WORDS = "Repeat after me: heliotrope, heliotrope, heliotrope."
SERVICES = ("edgedraft-gateway", "edgedraft-verifier", "edgedraft-agent")


def test_client_gateway_verifier_and_agent_share_a_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with OtlpReceiver() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
        monkeypatch.setenv("EDGEDRAFT_LOG_FORMAT", "json")
        with Supervisor(KEY, tmp_path) as stack:
            verifier = stack.start_verifier(*VERIFIER)
            stack.start_gateway(
                verifier.address, flags=("--port", "0", "--database", f"sqlite+aiosqlite:///{tmp_path}/gateway.db")
            )
            stack.wait_for_verifier()
            stack.start_agent("--threads", "1", "--draft-model", "none")
            body = {
                "model": "smollm2-135m-instruct",
                "messages": [{"role": "user", "content": WORDS}],
                "max_tokens": 24,
                "temperature": 0,
                "ignore_eos": True,
                "stream": True,
            }
            request = urllib.request.Request(
                f"{stack.url}/v1/chat/completions",
                json.dumps(body).encode(),
                {"authorization": f"Bearer {KEY}", "content-type": "application/json", "traceparent": TRACEPARENT},
            )
            with urllib.request.urlopen(request, timeout=300) as response:
                assert response.read().endswith(b"data: [DONE]\n\n")
            collector.wait(lambda: all(collector.of(service) for service in SERVICES), 60)
        # Ending a process sends what it has left, measurements too.
        names = {name: {span.name: span for span in collector.of(name)} for name in SERVICES}
        assert {span.trace_id.hex() for _, span in collector.spans} == {TRACE}
        chat = names["edgedraft-gateway"]["chat smollm2-135m-instruct"]
        verify = names["edgedraft-verifier"]["verify smollm2-135m-instruct"]
        prefill = names["edgedraft-verifier"]["prefill"]
        draft = names["edgedraft-agent"]["draft"]
        assert chat.parent_span_id.hex() == PARENT
        assert verify.parent_span_id == draft.parent_span_id == chat.span_id
        assert names["edgedraft-gateway"]["edge agent"].parent_span_id == chat.span_id
        assert prefill.parent_span_id == verify.span_id
        reported = attributes(chat.attributes)
        assert (
            reported["gen_ai.usage.output_tokens"] == attributes(verify.attributes)["gen_ai.usage.output_tokens"] == 24
        )
        assert (
            attributes(verify.attributes)["edgedraft.rounds"]
            == len(verify.events)
            == reported["edgedraft.verifier_steps"]
        )
        assert attributes(draft.attributes)["edgedraft.draft.accepted"] == reported["edgedraft.accepted"]
        duration = collector.metrics["gen_ai.server.request.duration"].histogram.data_points[0]
        assert (duration.count, duration.explicit_bounds[0]) == (1, 0.01)
        assert not any(b"heliotrope" in sent or KEY.encode() in sent for sent in collector.bodies)
    logs = [file.read_text() for file in tmp_path.glob("*.log")]
    lines = [json.loads(line) for log in logs for line in log.splitlines() if line.startswith("{")]
    (asked,) = [line for line in lines if line["event"] == "request" and line["method"] == "POST"]
    assert (asked["trace"], asked["output_tokens"]) == (TRACE, 24)
    assert not any("heliotrope" in log or KEY in log for log in logs)
