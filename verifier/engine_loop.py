"""The engine loop: a thread that receives messages, schedules a step, runs it and delivers its commits, repeatedly.

It is synchronous. Two functions connect it to the server's event loop: `post` hands messages in from any thread, and
the `deliver` callback carries the replies of each iteration out.
"""

from __future__ import annotations

import logging
import queue
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec.structs import replace

from edgedraft.tree import DraftViolation
from edgedraft.wire import (
    CLOSE_FAILED,
    CLOSE_GRAMMAR,
    CLOSE_OVERLOADED,
    CLOSE_REFUSED,
    AgentChanged,
    Close,
    Commit,
    Draft,
    Open,
    Progress,
    Queued,
    Sampling,
    Spent,
)
from verifier.engine.interface import Engine, EngineLost, Overloaded, Request, RequestRejected, ScheduledSession
from verifier.scheduling.scheduler import Scheduler, SchedulerLimits
from verifier.scheduling.step_costs import StepCosts
from verifier.session_meter import SessionMeter, StepUnderWay
from verifier.traces import SessionSpans

if TYPE_CHECKING:  # benchmarks measure with warm_up where no metrics are exported
    from verifier.metrics import Metrics

log = logging.getLogger(__name__)

WARM_UP_ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64)
WARM_UP_KEY = 0
NO_PROGRESS_PAUSE = 0.001  # seconds

Address = tuple[int, int]  # link number, and the session's number on that link
Reply = Commit | Queued | Progress | Spent | Close
Deliver = Callable[[Sequence[tuple[int, Reply]]], None]  # replies with their link numbers


@dataclass(frozen=True, slots=True)
class LinkClosed:
    """A link has ended: its sessions are cancelled."""


@dataclass(frozen=True, slots=True)
class _PostedMessage:
    link: int
    message: Open | Draft | AgentChanged | Close | LinkClosed
    received_at: float  # time.monotonic()
    prepared: object  # of an Open: what Engine.precompile returned


def warm_up(engine: Engine, step_costs: StepCosts) -> None:
    """Run steps of a few sizes, so that costs are known and the first session does not pay for initialisation."""
    sizes = [rows for rows in WARM_UP_ROWS for _ in range(2)]  # the second step of each size is recorded
    prompt = (0,) * min(sum(sizes), engine.context_length - 1)
    try:
        num_uncomputed = engine.open(Request(WARM_UP_KEY, prompt, Sampling(temperature=0), 1, frozenset()))
        for i, rows in enumerate(sizes):
            if rows > num_uncomputed:
                break
            began = time.monotonic()
            (result,) = engine.step([ScheduledSession(WARM_UP_KEY, rows)])
            num_uncomputed = result.num_uncomputed
            if i % 2:
                step_costs.record(rows, time.monotonic() - began)
    except (RequestRejected, Overloaded) as error:
        log.warning("no warm-up: %s", error)
    finally:
        engine.close(WARM_UP_KEY)


class EngineLoop:
    """Runs an engine in a thread of its own from `start` to `stop`."""

    def __init__(
        self,
        engine: Engine,
        limits: SchedulerLimits,
        deliver: Deliver,
        metrics: Metrics,
        spans: SessionSpans | None = None,
    ) -> None:
        """`spans` is None where tracing is off."""
        self._engine = engine
        self._scheduler = Scheduler(engine, limits)
        self._deliver = deliver
        self._metrics = metrics
        self._spans = spans
        self._inbox: queue.SimpleQueue[_PostedMessage | None] = queue.SimpleQueue()  # None stops the thread
        self._keys: dict[Address, int] = {}
        self._addresses: dict[int, Address] = {}
        self._meters: dict[int, SessionMeter] = {}
        self._last_key = 0
        self.broken = False
        self.step_under_way: StepUnderWay | None = None  # read by other threads
        self._thread = threading.Thread(target=self._run_thread, name="engine", daemon=True)

    @property
    def busy(self) -> bool:
        """Whether there are open sessions that will continue."""
        return self._thread.is_alive() and not self.broken and (bool(self._keys) or not self._inbox.empty())

    @property
    def backlog(self) -> int:
        """The number of messages that the thread has not received yet."""
        return self._inbox.qsize()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop after the current step. Open sessions are dropped."""
        self._inbox.put(None)
        self._thread.join()

    def post(
        self, link: int, message: Open | Draft | AgentChanged | Close | LinkClosed, prepared: object = None
    ) -> None:
        """Queue a message for the thread. Safe from any thread. An Open is `prepared` by Engine.precompile."""
        self._inbox.put(_PostedMessage(link, message, time.monotonic(), prepared))

    def _run_thread(self) -> None:
        try:
            warm_up(self._engine, self._scheduler.step_costs)
            self._run()
        except Exception:
            # End the process, so that gateways open its sessions elsewhere instead of waiting for it.
            log.critical("the engine's thread broke; this verifier ends", exc_info=True)
            self.broken = True
            signal.raise_signal(signal.SIGTERM)

    def _run(self) -> None:
        timeout: float | None = None
        while True:
            replies: list[tuple[int, Reply]] = []
            if not self._receive_messages(timeout, replies):
                return
            self._close_expired(replies)
            output = self._scheduler.schedule(time.monotonic())
            if output.scheduled:
                replies.extend(self._run_step(output.scheduled))
                timeout = 0.0
            else:
                timeout = None if output.wake_at is None else max(0.0, output.wake_at - time.monotonic())
            if replies:
                self._deliver(replies)

    def _receive_messages(self, timeout: float | None, replies: list[tuple[int, Reply]]) -> bool:
        """Handle all posted messages, waiting up to `timeout` seconds for the first. Returns False to stop."""
        try:
            posted = self._inbox.get(timeout=timeout) if timeout != 0.0 else self._inbox.get_nowait()
            while posted is not None:
                self._handle_message(posted, replies)
                posted = self._inbox.get_nowait()
        except queue.Empty:
            self._metrics.set_state(len(self._scheduler), self._scheduler.num_waiting, self._engine.capacity())
            return True
        return False

    def _handle_message(self, posted: _PostedMessage, replies: list[tuple[int, Reply]]) -> None:
        if isinstance(posted.message, LinkClosed):
            for address in [address for address in self._keys if address[0] == posted.link]:
                self._close(address, replies)
            return
        address = (posted.link, posted.message.session)
        match posted.message:
            case Open() as message:
                replies.extend((posted.link, reply) for reply in self._open(address, message, posted))
            case Draft() as message if key := self._keys.get(address):
                try:
                    self._scheduler.add_draft(key, message, posted.received_at)
                except DraftViolation as violation:
                    log.warning("link %d session %d: drafts are no longer taken: %s", *address, violation)
            case AgentChanged() as message if key := self._keys.get(address):
                self._scheduler.set_agent(key, message.agent)
            case Close():
                self._close(address, replies)
            case _:
                pass  # the session has ended meanwhile

    def _open(self, address: Address, message: Open, posted: _PostedMessage) -> list[Reply]:
        """Open a session. Returns the replies, none if the session runs at once."""
        if address in self._keys:
            return [Close(message.session, CLOSE_REFUSED, "this session is open already")]
        self._last_key += 1
        try:
            ahead = self._scheduler.open(self._last_key, message, posted.received_at, posted.prepared)
        except RequestRejected as rejected:
            return [Close(message.session, CLOSE_REFUSED, str(rejected)), *SessionMeter(message).report()]
        except Overloaded as overloaded:
            close = Close(message.session, CLOSE_OVERLOADED, str(overloaded), overloaded.retry_after)
            return [close, *SessionMeter(message).report()]
        self._keys[address] = self._last_key
        self._addresses[self._last_key] = address
        self._meters[self._last_key] = SessionMeter(message)
        self._metrics.record_open(self._last_key, posted.received_at)
        if self._spans:
            self._spans.record_open(self._last_key, message, posted.received_at, ahead)
        return [] if ahead is None else [Queued(message.session, ahead)]

    def _close_expired(self, replies: list[tuple[int, Reply]]) -> None:
        """Close the sessions that the admission queue has rejected, unless their gateway has cancelled them since."""
        for key, reason in self._scheduler.drop_expired(time.monotonic()):
            if address := self._addresses.get(key):
                link, session = address
                replies.append((link, Close(session, CLOSE_OVERLOADED, str(reason), reason.retry_after)))
                self._close(address, replies)

    def _close(self, address: Address, replies: list[tuple[int, Reply]]) -> None:
        """End a session, unless it has ended, and report what it has cost."""
        if key := self._keys.pop(address, None):
            del self._addresses[key]
            self._scheduler.close(key)
            replies.extend((address[0], spent) for spent in self._meters.pop(key).report())
            self._metrics.record_close(key)
            if self._spans:
                self._spans.record_close(key)

    def _run_step(self, scheduled: Sequence[ScheduledSession]) -> list[tuple[int, Reply]]:
        """Run one step. A failed step closes its sessions. Raises EngineLost."""
        began = time.monotonic()
        rows = sum(item.num_tokens + len(item.draft) for item in scheduled)
        self.step_under_way = StepUnderWay(
            began, self._scheduler.step_costs.seconds(rows), tuple(self._addresses.values())
        )
        replies: list[tuple[int, Reply]] = []
        try:
            results = self._engine.step(scheduled)
        except EngineLost:
            raise
        except Exception:
            log.exception("a step of %d sessions failed", len(scheduled))
            seconds = time.monotonic() - began
            for item in scheduled:
                share = (item.num_tokens + len(item.draft)) / rows
                self._meters[item.session].add_failed(seconds * share)
                self._fail(item.session, CLOSE_FAILED, "the verifier failed in this session's step", replies)
            self._metrics.record_compute(seconds)
            return replies
        finally:
            self.step_under_way = None
        now = time.monotonic()
        if not results:
            time.sleep(NO_PROGRESS_PAUSE)  # older sessions hold all blocks: let their drafts arrive
        self._metrics.record_step(scheduled, results, now - began)
        self._metrics.record_compute(sum(result.seconds for result in results))
        scheduled_tokens = {item.session: item.num_tokens for item in scheduled}
        for result in results:
            self._meters[result.session].add(
                result.seconds,
                # A session that was evicted for others computed nothing, and may not have been in this step at all.
                scheduled_tokens.get(result.session, 0) if result.seconds else 0,
                result.num_uncomputed,
                self._scheduler.num_cached_tokens(result.session),
            )
        commits = self._scheduler.update(scheduled, results, began, now)
        self._record_step(scheduled, commits, began, now)
        for key, commit in commits.items():
            self._send_commit(key, commit, replies)
        for result in results:
            if result.failure:
                self._fail(result.session, CLOSE_GRAMMAR, result.failure, replies)
            elif result.session not in commits and self._meters[result.session].progress_is_due(now):
                link, session = self._addresses[result.session]
                replies.append((link, self._meters[result.session].progress(session)))
        return replies

    def _record_step(
        self, scheduled: Sequence[ScheduledSession], commits: Mapping[int, Commit], began: float, now: float
    ) -> None:
        """Add a step to the metrics and spans of its sessions."""
        for key, commit in commits.items():
            self._metrics.record_commit(key, commit, now)
        if self._spans:
            for item in scheduled:
                self._spans.record_step(item.session, began)
            for key, commit in commits.items():
                self._spans.record_commit(key, commit, now)

    def _send_commit(self, key: int, commit: Commit, replies: list[tuple[int, Reply]]) -> None:
        """Reply with the commit under its link's number of the session, which is forgotten if it has ended."""
        link, session = self._addresses[key]
        replies.append((link, replace(commit, session=session)))
        if commit.finish:
            del self._addresses[key], self._keys[link, session]
            replies.extend((link, spent) for spent in self._meters.pop(key).report())

    def _fail(self, key: int, code: str, reason: str, replies: list[tuple[int, Reply]]) -> None:
        link, session = self._addresses[key]
        if self._spans:
            self._spans.record_failure(key, code)
        replies.append((link, Close(session, code, reason)))
        self._close((link, session), replies)
