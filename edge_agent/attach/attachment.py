"""Keeps an agent attached: connects, drafts until the link is lost, and connects again.

Each attachment has its own mailbox, drafter state and drafting thread, so no stale state survives a lost link; the
model itself is loaded once. Attempts are separated by exponential backoff with jitter, at most half a minute, which
starts over after an attachment that lasted.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from edge_agent.attach.connection import GatewayLink, dial
from edge_agent.attach.errors import GatewayMoved, LinkLost
from edge_agent.attach.observer import Observer
from edge_agent.drafters.interface import Drafter
from edge_agent.drafting.loop import DraftingLimits, DraftingLoop
from edge_agent.drafting.mailbox import Incoming, Mailbox, MailboxClosed
from edge_agent.drafting.stats import StatsCollector
from edge_agent.traces import DraftSpans
from edgedraft.observability.tracing import Tracing
from edgedraft.wire import AgentWelcome, Hello

log = logging.getLogger(__name__)

FIRST_BACKOFF, MAX_BACKOFF = 0.5, 30.0  # seconds, upper bounds of what is drawn
STABLE_SECONDS = 10.0  # after which an attachment counts as successful
STOP_SECONDS = 0.3  # that a drafting thread has to finish its step when the agent ends
MOVED_TOO_SOON = 1.0  # seconds: an agent that was attached for less backs off although it is asked to move


class LostSoon(LinkLost):
    """Lost before the attachment was stable: the next attempt backs off further."""


@dataclass(frozen=True)
class Agent:
    """What is attached, and where.

    `new_drafter(vocab_size, tokenizer)` returns a drafter over the loaded model. While `may_draft` returns False,
    commits are applied and nothing is drafted.
    """

    url: str
    key: str
    hello: Hello
    new_drafter: Callable[[int, str], Drafter]
    stats: StatsCollector
    observer: Observer
    may_draft: Callable[[], bool] = lambda: True
    tracing: Tracing | None = None


async def stay_attached(agent: Agent) -> None:
    """Run until cancelled, which closes the link in good order. Raises AttachRejected."""

    def report(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        agent.observer.lost(str(error), state.next_action.sleep if state.next_action else 0.0)

    while True:
        attempts = AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, LostSoon)),
            wait=wait_random_exponential(multiplier=FIRST_BACKOFF, max=MAX_BACKOFF),
            before_sleep=report,
            reraise=True,
        )
        try:
            await attempts(_attach, agent)
        except GatewayMoved as moved:
            agent.observer.moving(str(moved))
        except LinkLost as lost:
            wait = random.uniform(0, FIRST_BACKOFF)
            agent.observer.lost(str(lost), wait)
            await asyncio.sleep(wait)


async def _attach(agent: Agent) -> None:
    """One attachment, from connecting until it ends. Raises AttachRejected, LinkLost or LostSoon."""
    attached_at = math.inf
    try:
        link = await dial(agent.url, agent.key)
        try:
            welcome, messages = await link.greet(agent.hello)
            attached_at = time.monotonic()
            await _draft_for(link, welcome, messages, agent)
        finally:
            await link.close(1000, "detached")
    except LinkLost as lost:
        lasted = time.monotonic() - attached_at
        if isinstance(lost, GatewayMoved) and lasted >= MOVED_TOO_SOON:
            raise
        if lasted < STABLE_SECONDS:
            raise LostSoon(*lost.args) from None
        raise


async def _draft_for(link: GatewayLink, welcome: AgentWelcome, messages: Sequence[Incoming], agent: Agent) -> None:
    """Draft in a thread while messages are relayed. Raises AttachRejected or LinkLost once the thread has ended."""
    mailbox = Mailbox()
    limits = DraftingLimits(welcome.vocab_size, min(agent.hello.max_sessions, welcome.max_sessions))
    drafter = agent.new_drafter(welcome.vocab_size, welcome.fingerprint)
    spans = DraftSpans(agent.tracing, agent.hello.drafter) if agent.tracing else None
    loop = DraftingLoop(mailbox, drafter, limits, agent.stats, agent.may_draft, spans)
    ended = asyncio.Event()
    # A daemon, so that a long step does not delay the end of the process.
    threading.Thread(target=_run, args=(loop, asyncio.get_running_loop(), ended), name="drafting", daemon=True).start()
    agent.observer.attached(welcome)
    stop_timeout = None  # the next attachment must not use the model while this thread still does
    try:
        await mailbox.deliver(messages)
        await link.run(mailbox, agent.observer.round_trip)
    except MailboxClosed:
        raise LinkLost("the drafting thread failed") from None
    except asyncio.CancelledError:
        stop_timeout = STOP_SECONDS
        raise
    finally:
        mailbox.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(stop_timeout):
                await ended.wait()


def _run(drafting: DraftingLoop, event_loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> None:
    try:
        drafting.run()
    except Exception:
        log.exception("the drafting thread failed")
    finally:
        with suppress(RuntimeError):  # the event loop did not wait for this thread
            event_loop.call_soon_threadsafe(ended.set)
