"""Being attached: dial, draft until the link is lost, and dial again, for as long as there is hope.

Each attachment has its own mailbox, drafter state and drafting thread, so nothing stale survives a lost link; the
model itself is loaded once. Waits between tries grow at random up to half a minute, and begin anew after an
attachment that lasted.
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
from websockets.asyncio.client import ClientConnection

from edge_agent.attach.connection import GatewayMoved, LinkLost, dial, greet, pump
from edge_agent.attach.observer import Observer
from edge_agent.drafters.interface import Drafter
from edge_agent.drafting.loop import DraftingLimits, DraftingLoop
from edge_agent.drafting.mailbox import Incoming, Mailbox, MailboxClosed
from edge_agent.drafting.stats import StatsCollector
from edge_agent.traces import DraftSpans
from edgedraft.observability.tracing import Tracing
from edgedraft.wire import AgentWelcome, Hello

log = logging.getLogger(__name__)

FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds, upper ends of what is drawn
LASTING = 10.0  # seconds after which an attachment counts as a good one
LEAVE_SECONDS = 0.3  # what a drafting thread gets to finish its step when the agent goes


MOVED_TOO_SOON = 1.0  # seconds after which an agent that is told to move does so at once


class LostSoon(LinkLost):
    """Lost before the attachment lasted: the next try waits longer."""


@dataclass(frozen=True)
class Agent:
    """Who attaches where, and with what. `drafter(vocab_size, tokenizer)` makes a fresh drafter over what is loaded;
    while `may_draft` says no, sessions are followed and not drafted."""

    url: str
    key: str
    hello: Hello
    drafter: Callable[[int, str], Drafter]
    tally: StatsCollector
    observer: Observer
    may_draft: Callable[[], bool] = lambda: True
    tracing: Tracing | None = None


async def stay_attached(agent: Agent) -> None:
    """For ever. Raises Refused; cancelled, it detaches in good order."""

    def say(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        agent.observer.lost(str(error), state.next_action.sleep if state.next_action else 0.0)

    while True:
        tries = AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, LostSoon)),
            wait=wait_random_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT),
            before_sleep=say,
            reraise=True,
        )
        try:
            await tries(_attach, agent)
        except GatewayMoved as moved:
            agent.observer.moving(str(moved))
        except LinkLost as lost:
            wait = random.uniform(0, FIRST_WAIT)
            agent.observer.lost(str(lost), wait)
            await asyncio.sleep(wait)


async def _attach(agent: Agent) -> None:
    """One attachment, from dialling until it ends. Raises Refused, Lost or LostSoon."""
    began = math.inf
    try:
        socket = await dial(agent.url, agent.key)
        try:
            welcome, messages = await greet(socket, agent.hello)
            began = time.monotonic()
            await _draft_for(socket, welcome, messages, agent)
        finally:
            await socket.close(1000, "detached")
    except LinkLost as lost:
        lasted = time.monotonic() - began
        if isinstance(lost, GatewayMoved) and lasted >= MOVED_TOO_SOON:
            raise
        if lasted < LASTING:
            raise LostSoon(*lost.args) from None
        raise


async def _draft_for(
    socket: ClientConnection, welcome: AgentWelcome, messages: Sequence[Incoming], agent: Agent
) -> None:
    """Draft in a thread of its own while messages pass. Raises Refused or Lost, when the thread has ended."""
    mailbox = Mailbox()
    limits = DraftingLimits(welcome.vocab_size, min(agent.hello.max_sessions, welcome.max_sessions))
    drafter = agent.drafter(welcome.vocab_size, welcome.fingerprint)
    spans = DraftSpans(agent.tracing, agent.hello.drafter) if agent.tracing else None
    loop = DraftingLoop(mailbox, drafter, limits, agent.tally, agent.may_draft, spans)
    left = asyncio.Event()
    # A daemon, so that a step that takes long cannot hold up the end of the process.
    threading.Thread(target=_run, args=(loop, asyncio.get_running_loop(), left), name="drafting", daemon=True).start()
    agent.observer.attached(welcome)
    patience = None  # the model is the thread's until it has left: the next attachment must not meet it there
    try:
        await mailbox.deliver(messages)
        await pump(socket, mailbox, agent.observer.round_trip)
    except MailboxClosed:
        raise LinkLost("the drafting thread failed") from None
    except asyncio.CancelledError:
        patience = LEAVE_SECONDS
        raise
    finally:
        mailbox.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await left.wait()


def _run(drafting: DraftingLoop, event_loop: asyncio.AbstractEventLoop, left: asyncio.Event) -> None:
    try:
        drafting.run()
    except Exception:
        log.exception("the drafting thread failed")
    finally:
        with suppress(RuntimeError):  # the event loop did not wait for this thread
            event_loop.call_soon_threadsafe(left.set)
