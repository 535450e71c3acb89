"""The gateway's Prometheus metrics, under its own names and under those of vLLM that load-test tools read."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from edgedraft.wire import MAX_WINDOW, Commit
from gateway.accounts import Owner
from gateway.observability.live import LiveStats
from gateway.records.generation import GenerationRecord

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
FLUSH_SECONDS = 0.5  # how often a session's sums are added to the counters
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)


class Metrics:
    """Metrics of one app in a registry of their own, and its live statistics. Clients cannot choose any label value."""

    def __init__(self) -> None:
        disable_created_metrics()  # tools that sum all series with a name prefix would add timestamps to counts
        self.registry = registry = CollectorRegistry()
        self.live = LiveStats()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        name = "edgedraft_gateway_"
        self.requests = Counter(
            name + "requests", "Generations that ended", ["model", "outcome", "mode"], registry=registry
        )
        self.prompt_tokens = Counter(name + "prompt_tokens", "Prompt tokens", ["model"], registry=registry)
        self.output_tokens = Counter(name + "output_tokens", "Output tokens sent", ["model"], registry=registry)
        self.first_token = Histogram(
            name + "time_to_first_token_seconds",
            "Time from request to first text",
            ["model"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.sessions = Gauge(name + "sessions", "Running generations", registry=registry)
        self.queued = Gauge(name + "queued", "Sessions that wait for a verifier", registry=registry)
        self.agents = Gauge(name + "agents", "Agents attached", registry=registry)
        self.verifiers = Gauge(name + "verifiers", "Verifiers connected", registry=registry)
        self.replicas = Gauge(
            name + "replicas", "Links to other replicas whose agents draft for this one", registry=registry
        )
        self.remote_sessions = Gauge(
            name + "guests", "Sessions of other replicas that agents of this one draft for", registry=registry
        )
        self.shared_store = Gauge(name + "shared_store_up", "Whether Redis answered the last call", registry=registry)
        self.hedged = Counter(name + "hedged", "Sessions also opened at a second verifier", registry=registry)
        self.reopened = Counter(name + "reopened", "Sessions moved to another verifier", registry=registry)
        self.agents_lost = Counter(name + "agents_lost", "Sessions that lost their agent", registry=registry)
        self.steps = Counter(name + "verifier_steps", "Commits received", ["model"], registry=registry)
        self.seconds = Counter(
            name + "verifier_seconds", "Verifier compute time of all sessions", ["model"], registry=registry
        )
        self.made = Counter(
            name + "tokens_made",
            "Tokens committed: drafted by an agent, drafted by the verifier, or neither",
            ["model", "by"],
            registry=registry,
        )
        self.saved = Counter(
            name + "forwards_saved", "Tokens that needed no forward of their own", ["model"], registry=registry
        )
        self.inter_token = Histogram(
            name + "inter_token_seconds",
            "Time between two commits of a session, divided by the tokens of the later one",
            ["model"],
            buckets=_TOKEN_SECONDS,
            registry=registry,
        )
        self.length = Histogram(
            name + "acceptance_length",
            "Tokens committed by a forward that verified a draft",
            ["model"],
            buckets=(1, 2, 3, 4, 5, 6, 8, 10, 12, 16),
            registry=registry,
        )
        self.window = Histogram(
            name + "window",
            "Draft nodes that an agent may hold, as sent by verifiers",
            ["model"],
            buckets=(0, 2, 4, 8, 12, 16, 24, 32, 48),
            registry=registry,
        )
        vllm = "vllm:spec_decode_num_"
        self.drafts = Counter(vllm + "drafts", "Verifications of a draft", registry=registry)
        self.draft_tokens = Counter(vllm + "draft_tokens", "Drafted tokens verified", registry=registry)
        self.accepted = Counter(vllm + "accepted_tokens", "Drafted tokens accepted", registry=registry)
        self._accepted_at = Counter(
            vllm + "accepted_tokens_per_pos", "Drafted tokens accepted, by position", ["position"], registry=registry
        )
        self.vllm_running = Gauge("vllm:num_requests_running", "Running generations", registry=registry)
        self.vllm_waiting = Gauge("vllm:num_requests_waiting", "Sessions that wait for a verifier", registry=registry)
        self._by_model: dict[str, ModelMetrics] = {}
        self._positions: list[Counter] = []

    def accepted_at(self, position: int) -> Counter:
        """The counter of draft tokens accepted at this position of a draft, 0 being the first."""
        while len(self._positions) <= position:
            self._positions.append(self._accepted_at.labels(len(self._positions)))
        return self._positions[position]

    def generation_ended(self, record: GenerationRecord) -> None:
        self.requests.labels(record.model, record.reported_outcome, record.mode).inc()
        self.prompt_tokens.labels(record.model).inc(record.prompt_tokens)
        self.output_tokens.labels(record.model).inc(record.output_tokens)
        first_text, per_token = record.time_to_first_text, record.time_per_output_token
        if first_text is not None:
            self.first_token.labels(record.model).observe(first_text)
        self.live.record_end(record.principal.agents_owner, record.mode, first_text, per_token)

    def for_model(self, model: str) -> ModelMetrics:
        """The series labelled with this served model."""
        if model not in self._by_model:
            self._by_model[model] = ModelMetrics(self, model)
        return self._by_model[model]


class ModelMetrics:
    """The series of one model, looked up once."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self.steps = metrics.steps.labels(model)
        self.seconds = metrics.seconds.labels(model)
        self.saved = metrics.saved.labels(model)
        self.inter_token = metrics.inter_token.labels(model)
        self.length = metrics.length.labels(model)
        self.window = metrics.window.labels(model)
        self.edge, self.own, self.plain = (metrics.made.labels(model, by) for by in ("edge", "verifier_guess", "plain"))


class SessionMetrics:
    """Counts one session from beginning to end.

    Sums are kept here and added to the counters every FLUSH_SECONDS, so that a commit costs the event loop little.
    """

    def __init__(self, metrics: Metrics, model: str, owner: Owner) -> None:
        self._metrics = metrics
        self._model = metrics.for_model(model)
        self._live = metrics.live.count_commits(owner)
        self._last: float | None = None
        self._flushed_at = 0.0
        self._steps = self._plain = self._edge = self._own = self._saved = 0
        self._drafts = self._nodes = self._accepted = 0
        self._seconds = 0.0

    def record_start(self) -> None:
        self._metrics.sessions.inc()
        self._metrics.vllm_running.inc()

    def record_end(self) -> None:
        self._flush()
        self._metrics.sessions.dec()
        self._metrics.vllm_running.dec()

    @contextmanager
    def track_queued(self) -> Iterator[None]:
        """Counts the session as queued while the context lasts."""
        with self._metrics.queued.track_inprogress(), self._metrics.vllm_waiting.track_inprogress():
            yield

    def record_commit(self, commit: Commit) -> None:
        now, tokens = time.monotonic(), len(commit.tokens)
        if self._last is not None and tokens:
            self._model.inter_token.observe((now - self._last) / tokens)
        self._last = now
        accepted = min(max(0, commit.accepted), tokens)
        self._steps += 1
        self._seconds += max(0.0, commit.seconds)
        self._plain += tokens - accepted
        self._saved += max(0, tokens - 1)
        if commit.nodes > 0:
            self._own += accepted if commit.verifier_drafted else 0
            self._edge += 0 if commit.verifier_drafted else accepted
            self._drafts += 1
            self._nodes += commit.nodes
            self._accepted += max(0, commit.accepted)
            self._model.length.observe(tokens)
            self._model.window.observe(commit.window)
            for position in range(min(commit.accepted, commit.depth, MAX_WINDOW)):
                self._metrics.accepted_at(position).inc()
        self._live.record(commit)
        if now - self._flushed_at > FLUSH_SECONDS:
            self._flushed_at = now
            self._flush()

    def _flush(self) -> None:
        metrics, model = self._metrics, self._model
        model.steps.inc(self._steps)
        model.seconds.inc(self._seconds)
        model.plain.inc(self._plain)
        model.edge.inc(self._edge)
        model.own.inc(self._own)
        model.saved.inc(self._saved)
        metrics.drafts.inc(self._drafts)
        metrics.draft_tokens.inc(self._nodes)
        metrics.accepted.inc(self._accepted)
        self._steps = self._plain = self._edge = self._own = self._saved = 0
        self._drafts = self._nodes = self._accepted = 0
        self._seconds = 0.0
