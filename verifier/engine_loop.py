"""The engine's thread: takes messages in, plans a step, runs it, hands the commits out, and again.

Plain synchronous code. Its only ties to the event loop are two queues: `post` puts messages in from any thread, and
the `deliver` it is given carries a step's answers out, one call a step.
"""

from __future__ import annotations

import logging
import queue
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from edgedraft.tree import DraftViolation
from edgedraft.wire import (
    CLOSE_FAILED,
    CLOSE_OVERLOADED,
    CLOSE_REFUSED,
    AgentChanged,
    Close,
    Commit,
    Draft,
    Open,
    Queued,
    Sampling,
)
from verifier.engine.interface import Engine, EngineLost, Overloaded, Request, RequestRejected, ScheduledSession
from verifier.metrics import Metrics
from verifier.scheduling.scheduler import Scheduler, SchedulerLimits
from verifier.scheduling.step_costs import StepCosts
from verifier.traces import SessionSpans

log = logging.getLogger(__name__)

WARM_UP_ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64)
WARM_UP_KEY = 0

Address = tuple[int, int]  # link, and the session's number on it
Deliver = Callable[[Sequence[tuple[int, Commit | Queued | Close]]], None]


@dataclass(frozen=True, slots=True)
class LinkClosed:
    """A link ended: its sessions are cancelled."""


@dataclass(frozen=True, slots=True)
class _Post:
    link: int
    message: Open | Draft | AgentChanged | Close | LinkClosed
    at: float


def warm_up(engine: Engine, costs: StepCosts) -> None:
    """Run steps of a few sizes, so that their cost is known and nobody's first token waits for it."""
    sizes = [rows for rows in WARM_UP_ROWS for _ in range(2)]  # the second of a size is the one that counts
    prompt = (0,) * min(sum(sizes), engine.context_length - 1)
    try:
        left = engine.open(Request(WARM_UP_KEY, prompt, Sampling(temperature=0), 1, frozenset()))
        for turn, rows in enumerate(sizes):
            if rows > left:
                break
            began = time.monotonic()
            (made,) = engine.step([ScheduledSession(WARM_UP_KEY, rows)])
            left = made.num_uncomputed
            if turn % 2:
                costs.measured(rows, time.monotonic() - began)
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
        """`spans` is None where nothing is traced."""
        self._engine = engine
        self._scheduler = Scheduler(engine, limits)
        self._deliver = deliver
        self._metrics = metrics
        self._spans = spans
        self._inbox: queue.SimpleQueue[_Post | None] = queue.SimpleQueue()
        self._keys: dict[Address, int] = {}
        self._addresses: dict[int, Address] = {}
        self._last_key = 0
        self.broken = False
        self._thread = threading.Thread(target=self._main, name="engine", daemon=True)

    @property
    def busy(self) -> bool:
        """Whether sessions are open that will go on."""
        return self._thread.is_alive() and not self.broken and (bool(self._keys) or not self._inbox.empty())

    @property
    def backlog(self) -> int:
        """Messages that the thread has not come to yet."""
        return self._inbox.qsize()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends after the step that is running; what is still open is dropped."""
        self._inbox.put(None)
        self._thread.join()

    def post(self, link: int, message: Open | Draft | AgentChanged | Close | LinkClosed) -> None:
        self._inbox.put(_Post(link, message, time.monotonic()))

    def _main(self) -> None:
        try:
            warm_up(self._engine, self._scheduler.costs)
            self._run()
        except Exception:
            # Better a verifier that is gone, whose sessions open elsewhere, than one that is silent.
            log.critical("the engine's thread broke; this verifier ends", exc_info=True)
            self.broken = True
            signal.raise_signal(signal.SIGTERM)

    def _run(self) -> None:
        wait: float | None = None
        while True:
            answers: list[tuple[int, Commit | Queued | Close]] = []
            if not self._take(wait, answers):
                return
            self._turn_away(answers)
            plan = self._scheduler.schedule(time.monotonic())
            if plan.work:
                answers.extend(self._step(plan.work))
                wait = 0.0
            else:
                wait = None if plan.wake_at is None else max(0.0, plan.wake_at - time.monotonic())
            if answers:
                self._deliver(answers)

    def _take(self, wait: float | None, answers: list[tuple[int, Commit | Queued | Close]]) -> bool:
        """Everything posted so far, after waiting `wait` seconds for a first; False when told to stop."""
        try:
            post = self._inbox.get(timeout=wait) if wait != 0.0 else self._inbox.get_nowait()
            while post is not None:
                self._handle(post, answers)
                post = self._inbox.get_nowait()
        except queue.Empty:
            self._metrics.state(len(self._scheduler), self._scheduler.waiting, self._engine.capacity())
            return True
        return False

    def _handle(self, post: _Post, answers: list[tuple[int, Commit | Queued | Close]]) -> None:
        if isinstance(post.message, LinkClosed):
            for address in [address for address in self._keys if address[0] == post.link]:
                self._close(address)
            return
        address = (post.link, post.message.session)
        match post.message:
            case Open() as message:
                if answer := self._open(address, message, post.at):
                    answers.append((post.link, answer))
            case Draft() as message if key := self._keys.get(address):
                try:
                    self._scheduler.add_draft(key, message, post.at)
                except DraftViolation as violation:
                    log.warning("link %d session %d: drafts are no longer taken: %s", *address, violation)
            case AgentChanged() as message if key := self._keys.get(address):
                self._scheduler.set_agent(key, message.agent)
            case Close():
                self._close(address)
            case _:
                pass  # late: the session has ended

    def _open(self, address: Address, message: Open, at: float) -> Queued | Close | None:
        if address in self._keys:
            return Close(message.session, CLOSE_REFUSED, "this session is open already")
        self._last_key += 1
        try:
            ahead = self._scheduler.open(self._last_key, message, at)
        except RequestRejected as refused:
            return Close(message.session, CLOSE_REFUSED, str(refused))
        except Overloaded as overloaded:
            return Close(message.session, CLOSE_OVERLOADED, str(overloaded), overloaded.retry_after)
        self._keys[address] = self._last_key
        self._addresses[self._last_key] = address
        self._metrics.opened(self._last_key, at)
        if self._spans:
            self._spans.opened(self._last_key, message, at, ahead)
        return None if ahead is None else Queued(message.session, ahead)

    def _turn_away(self, answers: list[tuple[int, Commit | Queued | Close]]) -> None:
        for key, why in self._scheduler.drop_expired(time.monotonic()):
            link, session = self._addresses[key]
            answers.append((link, Close(session, CLOSE_OVERLOADED, str(why), why.retry_after)))
            self._close((link, session))

    def _close(self, address: Address) -> None:
        if key := self._keys.pop(address, None):
            del self._addresses[key]
            self._scheduler.close(key)
            self._metrics.closed(key)
            if self._spans:
                self._spans.closed(key)

    def _step(self, work: Sequence[ScheduledSession]) -> list[tuple[int, Commit | Queued | Close]]:
        began = time.monotonic()
        try:
            progress = self._engine.step(work)
        except EngineLost:
            raise
        except Exception:
            log.exception("a step of %d sessions failed", len(work))
            return [self._fail(item) for item in work]
        now = time.monotonic()
        if not progress:
            time.sleep(0.001)  # older sessions hold all of the cache; let their drafts come
        self._metrics.observe(work, progress, now - began)
        commits = self._scheduler.update(work, progress, began, now)
        self._tell(work, commits, began, now)
        return [self._addressed(key, commit) for key, commit in commits.items()]

    def _tell(self, work: Sequence[ScheduledSession], commits: Mapping[int, Commit], began: float, now: float) -> None:
        """The metrics and the spans what a step did."""
        for key, commit in commits.items():
            self._metrics.committed(key, commit, now)
        if self._spans:
            for item in work:
                self._spans.stepped(item.session, began)
            for key, commit in commits.items():
                self._spans.committed(key, commit, now)

    def _addressed(self, key: int, commit: Commit) -> tuple[int, Commit | Queued | Close]:
        link, session = self._addresses[key]
        if commit.finish:
            del self._addresses[key], self._keys[link, session]
        return link, replace(commit, session=session)

    def _fail(self, item: ScheduledSession) -> tuple[int, Commit | Queued | Close]:
        link, session = self._addresses[item.session]
        if self._spans:
            self._spans.failed(item.session, CLOSE_FAILED)
        self._close((link, session))
        return link, Close(session, CLOSE_FAILED, "the verifier failed in this session's step")
