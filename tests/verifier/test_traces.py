"""Spans and metrics of sessions, over an engine whose output counts up."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from edgedraft.wire import Close, Draft, Open, Sampling
from tests.support.in_memory_tracing import PARENT, TRACE, TRACEPARENT, InMemoryTracing, attributes, ids
from tests.verifier.counting_engine import LIMITS, CountingEngine
from verifier.engine.interface import ScheduledSession, StepResult
from verifier.engine_loop import EngineLoop, Reply
from verifier.metrics import Metrics
from verifier.traces import MAX_STEP_EVENTS, SessionSpans

GREEDY = Sampling(temperature=0)
PROMPT = [901, 902, 0]


class Breakable(CountingEngine):
    """Fails on a prompt of one token."""

    def step(self, scheduled: Sequence[ScheduledSession]) -> list[StepResult]:
        if any(self.num_uncomputed[item.session] == 1 and not self.last_token[item.session] for item in scheduled):
            raise RuntimeError("broken")
        return super().step(scheduled)


class Running:
    """An engine's thread with everything that looks at it."""

    def __init__(self) -> None:
        self.tracing = InMemoryTracing()
        self.metrics = Metrics("toy")
        self.answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        spans = SessionSpans(self.tracing, "toy")
        self.loop = EngineLoop(Breakable(2), LIMITS, self._deliver, self.metrics, spans)

    def _deliver(self, answers: Sequence[tuple[int, Reply]]) -> None:
        for _, message in answers:
            self.answers.put(message)

    def finish(self, session: int) -> None:
        while True:
            answer = self.answers.get(timeout=10)
            if answer.session == session and (isinstance(answer, Close) or getattr(answer, "finish", None)):
                return

    def values(self) -> dict[str, float]:
        text = generate_latest(self.metrics.registry).decode()
        return {
            sample.name: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if "le" not in sample.labels
        }


@pytest.fixture
def running() -> Iterator[Running]:
    running = Running()
    running.loop.start()
    yield running
    running.loop.stop()


def by_name(running: Running, name: str) -> Any:
    (span,) = [span for span in running.tracing.spans if span.name == name]
    return span


def test_a_session_is_one_span_with_a_prefill_child_and_an_event_per_step(running: Running) -> None:
    running.loop.post(1, Open(1, PROMPT, GREEDY, 6, agent="agent", trace=TRACEPARENT))
    running.loop.post(1, Draft(1, 1, 0, 1, [1, 2, 7], [0, 1, 2], bytes(3)))
    running.finish(1)
    running.loop.stop()
    session, prefill = by_name(running, "verify toy"), by_name(running, "prefill")
    trace, span, parent = ids(session)
    assert (trace, parent) == (TRACE, PARENT)
    assert ids(prefill)[::2] == (TRACE, span)
    assert session.start_time <= prefill.start_time < prefill.end_time <= session.end_time
    reported = attributes(session)
    assert reported["gen_ai.request.model"] == "toy"
    assert reported["gen_ai.usage.input_tokens"] == len(PROMPT)
    assert reported["gen_ai.usage.output_tokens"] == 6
    assert reported["edgedraft.finish"] == "length"
    assert reported["edgedraft.draft.accepted"] == 2
    assert session.events[0].name == "verify"
    assert len(session.events) == reported["edgedraft.rounds"] < 6
    assert session.events[0].attributes["edgedraft.committed"] == 3


def test_steps_beyond_a_bound_are_only_counted(running: Running) -> None:
    running.loop.post(1, Open(1, PROMPT, GREEDY, MAX_STEP_EVENTS + 20))
    running.finish(1)
    running.loop.stop()
    session = by_name(running, "verify toy")
    assert len(session.events) == MAX_STEP_EVENTS
    assert attributes(session)["edgedraft.rounds"] > MAX_STEP_EVENTS


def test_cancelled_and_failed_sessions_end_their_spans(running: Running) -> None:
    running.loop.post(1, Open(1, PROMPT, GREEDY, 900))
    running.loop.post(1, Open(2, [0], GREEDY, 5))
    running.finish(2)
    running.loop.post(1, Open(3, PROMPT, GREEDY, 900))
    running.loop.post(1, Close(3))
    running.loop.stop()
    spans = [span for span in running.tracing.spans if span.name == "verify toy"]
    reported = sorted((attributes(span)["edgedraft.finish"], attributes(span).get("error.type", "")) for span in spans)
    assert reported[-1] == ("error", "failed")
    assert ("cancelled", "") in reported or len(spans) == 3
    assert not running.values()["edgedraft_verifier_waiting"]


def test_no_token_gets_into_a_span(running: Running) -> None:
    running.loop.post(1, Open(1, PROMPT, GREEDY, 6, trace=TRACEPARENT))
    running.finish(1)
    running.loop.stop()
    reported = [attributes(span) for span in running.tracing.spans]
    reported += [event.attributes or {} for span in running.tracing.spans for event in span.events]
    assert len(reported) > 6
    assert not {901, 902} & {value for attributes in reported for value in attributes.values()}


def test_metrics_show_latency_acceptance_and_capacity(running: Running) -> None:
    running.loop.post(1, Open(1, PROMPT, GREEDY, 6, agent="agent"))
    running.loop.post(1, Draft(1, 1, 0, 1, [1, 2, 7], [0, 1, 2], bytes(3)))
    running.finish(1)
    running.loop.stop()
    values = running.values()
    assert values["edgedraft_verifier_time_to_first_token_seconds_count"] == 1
    assert values["edgedraft_verifier_inter_token_seconds_count"] == 3
    assert values["edgedraft_verifier_acceptance_length_sum"] == 3
    assert values["edgedraft_verifier_window_count"] == 4
    assert values["edgedraft_verifier_tokens_total"] == 6
    assert values["vllm:num_requests_running"] == 0
    assert values["vllm:num_requests_waiting"] == 0
    assert values["vllm:kv_cache_usage_perc"] == 0
