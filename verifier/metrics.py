"""The verifier's Prometheus metrics: its own names, and the vLLM names that load balancers read.

CPU seconds and memory of the process come from the client library. Only the engine's thread writes them.
"""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

from edgedraft.wire import Commit
from verifier.engine.interface import Capacity, ScheduledSession, StepResult

_LATENCY = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The metrics of one process, in their own registry. `model` is the label of the vLLM names."""

    def __init__(self, model: str) -> None:
        disable_created_metrics()
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        name = "edgedraft_verifier_"
        self._sessions = Gauge(name + "sessions", "Open sessions", registry=registry)
        self._waiting = Gauge(name + "waiting", "Sessions in the admission queue", registry=registry)
        self._kv = Gauge(name + "kv_tokens", "Tokens that the KV cache holds", registry=registry)
        self._kv_free = Gauge(name + "kv_free_tokens", "Tokens of KV cache free", registry=registry)
        self._steps = Counter(name + "steps", "Forwards", registry=registry)
        self._session_steps = Counter(name + "session_steps", "Forwards, counted per session", registry=registry)
        self._rows = Counter(name + "rows", "Tokens that went into forwards", registry=registry)
        self._tokens = Counter(name + "tokens", "Output tokens committed", registry=registry)
        self._cached = Counter(name + "cached_tokens", "Prompt tokens found in the prefix cache", registry=registry)
        self._nodes = Counter(name + "draft_nodes", "Draft nodes verified", registry=registry)
        self._accepted = Counter(name + "draft_accepted", "Draft nodes accepted", registry=registry)
        self._compute = Counter(
            name + "compute_seconds", "Seconds of steps by the shares of their sessions", registry=registry
        )
        self._seconds = Histogram(
            name + "step_seconds",
            "Seconds of a step: forward and sampling",
            registry=registry,
            buckets=(0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5),
        )
        self._first_token = Histogram(
            name + "time_to_first_token_seconds",
            "From a session's arrival to its first commit, time in the admission queue included",
            registry=registry,
            buckets=_LATENCY,
        )
        self._inter_token = Histogram(
            name + "inter_token_seconds",
            "Between two commits of a session, divided by the tokens of the later one; one entry per token",
            registry=registry,
            buckets=_LATENCY,
        )
        self._length = Histogram(
            name + "acceptance_length",
            "Tokens committed by a forward that verified a draft",
            registry=registry,
            buckets=(1, 2, 3, 4, 5, 6, 8, 10, 12, 16),
        )
        self._window = Histogram(
            name + "window", "Nodes that an agent may hold", registry=registry, buckets=(0, 2, 4, 8, 12, 16, 24, 32, 48)
        )
        vllm = "vllm:"
        self._vllm_running = Gauge(
            vllm + "num_requests_running", "Sessions that run", ["model_name"], registry=registry
        ).labels(model)
        self._vllm_waiting = Gauge(
            vllm + "num_requests_waiting", "Sessions in the admission queue", ["model_name"], registry=registry
        ).labels(model)
        self._vllm_kv = Gauge(
            vllm + "kv_cache_usage_perc", "Share of the KV cache in use, 0 to 1", ["model_name"], registry=registry
        ).labels(model)
        self._last_commit_at: dict[int, float] = {}  # by session, or when it was opened; time.monotonic()
        self._decoding: set[int] = set()  # sessions that have committed something

    def set_state(self, running: int, waiting: int, capacity: Capacity) -> None:
        """Set the gauges, between two steps."""
        self._sessions.set(running)
        self._waiting.set(waiting)
        self._kv.set(capacity.kv_tokens)
        self._kv_free.set(capacity.free_kv_tokens)
        self._vllm_running.set(running)
        self._vllm_waiting.set(waiting)
        self._vllm_kv.set(1 - capacity.free_kv_tokens / capacity.kv_tokens if capacity.kv_tokens else 0.0)

    def record_step(self, scheduled: Sequence[ScheduledSession], results: Sequence[StepResult], seconds: float) -> None:
        """Count one step."""
        self._steps.inc()
        self._seconds.observe(seconds)
        self._session_steps.inc(sum(1 for result in results if result.tokens))
        self._rows.inc(sum(item.num_tokens + len(item.draft) for item in scheduled))
        self._tokens.inc(sum(len(result.tokens) for result in results))
        self._nodes.inc(sum(result.nodes for result in results))
        self._accepted.inc(sum(result.accepted for result in results))

    def record_compute(self, seconds: float) -> None:
        """Count what the sessions of a step are charged for together."""
        self._compute.inc(seconds)

    def record_open(self, key: int, received_at: float) -> None:
        """A session was opened."""
        self._last_commit_at[key] = received_at

    def record_commit(self, key: int, commit: Commit, now: float) -> None:
        """Count a session's commit. One with a finish reason ends the session."""
        elapsed = max(0.0, now - self._last_commit_at.get(key, now))
        if key in self._decoding:
            for _ in commit.tokens:
                self._inter_token.observe(elapsed / len(commit.tokens))
        else:
            self._decoding.add(key)
            self._first_token.observe(elapsed)
            self._cached.inc(commit.cached)
        self._last_commit_at[key] = now
        self._window.observe(commit.window)
        if commit.nodes:
            self._length.observe(len(commit.tokens))
        if commit.finish:
            self.record_close(key)

    def record_close(self, key: int) -> None:
        """The session has ended, however it did. Unknown ones are ignored."""
        self._last_commit_at.pop(key, None)
        self._decoding.discard(key)
