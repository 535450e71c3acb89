"""The verifier's Prometheus metrics: its own names, and beside them the vLLM names that load balancers read.

CPU seconds and memory of the process come with the client library. Used by the engine's thread alone, but for reading.
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
    """One process's metrics, in a registry of their own. `model` is what the vLLM names are labelled with."""

    def __init__(self, model: str) -> None:
        disable_created_metrics()
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        name = "edgedraft_verifier_"
        self._sessions = Gauge(name + "sessions", "Open sessions", registry=registry)
        self._waiting = Gauge(name + "waiting", "Sessions that wait for room", registry=registry)
        self._kv = Gauge(name + "kv_tokens", "Tokens that the KV cache holds", registry=registry)
        self._kv_free = Gauge(name + "kv_free_tokens", "Tokens of KV cache free", registry=registry)
        self._steps = Counter(name + "steps", "Forwards", registry=registry)
        self._session_steps = Counter(name + "session_steps", "Forwards, one for each session in it", registry=registry)
        self._rows = Counter(name + "rows", "Tokens that went into forwards", registry=registry)
        self._tokens = Counter(name + "tokens", "Output tokens committed", registry=registry)
        self._cached = Counter(name + "cached_tokens", "Prompt tokens found computed", registry=registry)
        self._nodes = Counter(name + "draft_nodes", "Drafted nodes checked", registry=registry)
        self._accepted = Counter(name + "draft_accepted", "Drafted nodes that became output", registry=registry)
        self._seconds = Histogram(
            name + "step_seconds",
            "Seconds of a forward with its choices",
            registry=registry,
            buckets=(0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5),
        )
        self._first_token = Histogram(
            name + "time_to_first_token_seconds",
            "From a session's arrival to its first commit, waiting for room included",
            registry=registry,
            buckets=_LATENCY,
        )
        self._inter_token = Histogram(
            name + "inter_token_seconds",
            "Between two commits of a session, divided by the tokens of the later one; one entry a token",
            registry=registry,
            buckets=_LATENCY,
        )
        self._length = Histogram(
            name + "acceptance_length",
            "Tokens committed by a forward that checked a draft",
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
            vllm + "num_requests_waiting", "Sessions that wait for room", ["model_name"], registry=registry
        ).labels(model)
        self._vllm_kv = Gauge(
            vllm + "kv_cache_usage_perc", "Share of the KV cache in use, 0 to 1", ["model_name"], registry=registry
        ).labels(model)
        self._since: dict[int, float] = {}  # when a session came or committed last
        self._begun: set[int] = set()  # those that have committed something

    def state(self, running: int, waiting: int, room: Capacity) -> None:
        """How things stand between two steps."""
        self._sessions.set(running)
        self._waiting.set(waiting)
        self._kv.set(room.kv_tokens)
        self._kv_free.set(room.kv_free)
        self._vllm_running.set(running)
        self._vllm_waiting.set(waiting)
        self._vllm_kv.set(1 - room.kv_free / room.kv_tokens if room.kv_tokens else 0.0)

    def observe(self, work: Sequence[ScheduledSession], progress: Sequence[StepResult], seconds: float) -> None:
        """Count one step."""
        self._steps.inc()
        self._seconds.observe(seconds)
        self._session_steps.inc(sum(1 for made in progress if made.tokens))
        self._rows.inc(sum(item.num_tokens + len(item.draft) for item in work))
        self._tokens.inc(sum(len(made.tokens) for made in progress))
        self._nodes.inc(sum(made.nodes for made in progress))
        self._accepted.inc(sum(made.accepted for made in progress))

    def opened(self, key: int, at: float) -> None:
        """A session came in; times are time.monotonic()."""
        self._since[key] = at

    def committed(self, key: int, commit: Commit, now: float) -> None:
        """Count what a step did for one session."""
        took = max(0.0, now - self._since.get(key, now))
        if key in self._begun:
            for _ in commit.tokens:
                self._inter_token.observe(took / len(commit.tokens))
        else:
            self._begun.add(key)
            self._first_token.observe(took)
            self._cached.inc(commit.cached)
        self._since[key] = now
        self._window.observe(commit.window)
        if commit.nodes:
            self._length.observe(len(commit.tokens))
        if commit.finish:
            self.closed(key)

    def closed(self, key: int) -> None:
        """The session is over, however it ended; ones that are over already are ignored."""
        self._since.pop(key, None)
        self._begun.discard(key)
