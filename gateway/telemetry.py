"""The gateway's Prometheus metrics: its own names, and beside them the vLLM names that load-test tools read."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from edgedraft.wire import Commit

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """One app's metrics, in a registry of their own."""

    def __init__(self) -> None:
        disable_created_metrics()  # tools that add up all that begins with a name would add times to counts
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        name = "edgedraft_gateway_"
        self.requests = Counter(
            name + "requests", "Chat completions that ended", ["model", "outcome", "mode"], registry=registry
        )
        self.prompt_tokens = Counter(name + "prompt_tokens", "Prompt tokens", ["model"], registry=registry)
        self.output_tokens = Counter(name + "output_tokens", "Output tokens sent", ["model"], registry=registry)
        self.first_token = Histogram(
            name + "time_to_first_token_seconds", "From request to first text", buckets=_SECONDS, registry=registry
        )
        self.sessions = Gauge(name + "sessions", "Generations that run", registry=registry)
        self.agents = Gauge(name + "agents", "Agents attached", registry=registry)
        self.verifiers = Gauge(name + "verifiers", "Verifiers connected", registry=registry)
        self.reopened = Counter(name + "reopened", "Sessions taken to another verifier", registry=registry)
        self.agents_lost = Counter(name + "agents_lost", "Sessions that lost their agent", registry=registry)
        self._steps = Counter(name + "verifier_steps", "Commits received", registry=registry)
        self._seconds = Counter(name + "verifier_seconds", "Verifier compute time of all sessions", registry=registry)
        vllm = "vllm:spec_decode_num_"
        self._drafts = Counter(vllm + "drafts", "Verifies that had a draft", registry=registry)
        self._draft_tokens = Counter(vllm + "draft_tokens", "Drafted tokens verified", registry=registry)
        self._accepted = Counter(vllm + "accepted_tokens", "Drafted tokens accepted", registry=registry)
        self._accepted_at = Counter(
            vllm + "accepted_tokens_per_pos", "Drafted tokens accepted, by position", ["position"], registry=registry
        )
        self._running = Gauge("vllm:num_requests_running", "Generations that run", registry=registry)

    def session_began(self) -> None:
        self.sessions.inc()
        self._running.inc()

    def session_ended(self) -> None:
        self.sessions.dec()
        self._running.dec()

    def committed(self, commit: Commit) -> None:
        self._steps.inc()
        self._seconds.inc(max(0.0, commit.seconds))
        if commit.nodes > 0:
            self._drafts.inc()
            self._draft_tokens.inc(commit.nodes)
            self._accepted.inc(max(0, commit.accepted))
            for position in range(min(commit.accepted, commit.depth)):
                self._accepted_at.labels(position).inc()
