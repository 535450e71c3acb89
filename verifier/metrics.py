"""The verifier's Prometheus metrics. CPU seconds and memory of the process come with the client library."""

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

from verifier.engine import Capacity, Progress, Work


class Metrics:
    """One process's metrics, in a registry of their own."""

    def __init__(self) -> None:
        disable_created_metrics()
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        name = "edgedraft_verifier_"
        self.sessions = Gauge(name + "sessions", "Open sessions", registry=self.registry)
        self.waiting = Gauge(name + "waiting", "Sessions that wait for room", registry=self.registry)
        self._kv_free = Gauge(name + "kv_free_tokens", "Tokens of KV cache free", registry=self.registry)
        self._steps = Counter(name + "steps", "Forwards", registry=self.registry)
        self._session_steps = Counter(
            name + "session_steps", "Forwards, one for each session in it", registry=self.registry
        )
        self._rows = Counter(name + "rows", "Tokens that went into forwards", registry=self.registry)
        self._tokens = Counter(name + "tokens", "Output tokens committed", registry=self.registry)
        self._nodes = Counter(name + "draft_nodes", "Drafted nodes checked", registry=self.registry)
        self._accepted = Counter(name + "draft_accepted", "Drafted nodes that became output", registry=self.registry)
        self._seconds = Histogram(
            name + "step_seconds",
            "Seconds of a forward with its choices",
            registry=self.registry,
            buckets=(0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5),
        )

    def observe(self, work: Sequence[Work], progress: Sequence[Progress], seconds: float, room: Capacity) -> None:
        """Count one step."""
        self._steps.inc()
        self._seconds.observe(seconds)
        self._session_steps.inc(sum(1 for made in progress if made.tokens))
        self._rows.inc(sum(item.rows + len(item.draft) for item in work))
        self._tokens.inc(sum(len(made.tokens) for made in progress))
        self._nodes.inc(sum(made.nodes for made in progress))
        self._accepted.inc(sum(made.accepted for made in progress))
        self._kv_free.set(room.kv_free)
