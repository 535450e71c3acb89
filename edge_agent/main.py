"""`edgedraft attach`: loads the drafters, attaches to the gateway and drafts until SIGINT or SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import signal
import sys
from types import FrameType

from edge_agent.attach.address import agent_url, is_unencrypted
from edge_agent.attach.attachment import Agent, stay_attached
from edge_agent.attach.errors import AttachRejected, TokenizerMismatch
from edge_agent.attach.observer import LineObserver, Observer
from edge_agent.desktop.idle_policy import IdlePolicy, lower_priority
from edge_agent.desktop.live_view import LiveView
from edge_agent.desktop.login import fill_from_login
from edge_agent.drafters.candidates import find_candidates
from edge_agent.drafters.loading import DrafterSet, DrafterUnavailable
from edge_agent.drafting.stats import StatsCollector
from edge_agent.settings import AgentSettings
from edgedraft import wire
from edgedraft.observability.logs import configure_logging
from edgedraft.observability.tracing import Tracing, TracingUnavailable, start_tracing

log = logging.getLogger(__name__)


def main(settings: AgentSettings) -> None:
    """Run until SIGINT or SIGTERM, then exit. Exits with 1 and a line on stderr when the agent cannot attach."""
    configure_logging(settings.log_level, settings.log_format, file=settings.log_file, bounded=True)
    try:
        tracing = start_tracing(settings.otel, "edgedraft-agent")
        settings = fill_from_login(settings)
        url = agent_url(settings.url)
        if settings.polite:
            lower_priority()
        if is_unencrypted(url):
            log.warning("%s is not encrypted: the key and your prompts can be read on the way", settings.url)
        _attach_first_fitting(settings, url, tracing)
    except KeyboardInterrupt:
        sys.exit(130)
    except (DrafterUnavailable, AttachRejected, TracingUnavailable) as error:
        sys.exit(f"edgedraft attach: {error}")
    # A regular interpreter exit takes torch a second, and may abort while the drafting thread is in a forward.
    if tracing:
        tracing.close()
    sys.stdout.flush()
    logging.shutdown()
    os._exit(0)


def _attach_first_fitting(settings: AgentSettings, url: str, tracing: Tracing | None) -> None:
    """Attach with the first candidate whose tokenizer the gateway's model has, until SIGINT or SIGTERM.

    Raises AttachRejected when the gateway takes none, DrafterUnavailable when the last one cannot be loaded.
    """
    candidates, refused = find_candidates(settings)
    for reason in refused:
        log.info("not drafted with: %s", reason)
    for i, candidate in enumerate(candidates):
        try:
            _attach(settings, url, candidate.load(), tracing)
            return
        except (TokenizerMismatch, DrafterUnavailable) as error:
            if i + 1 == len(candidates):
                raise
            why = "has another tokenizer" if isinstance(error, TokenizerMismatch) else str(error)
            log.warning("%s: %s; trying %s", candidate.name, why, candidates[i + 1].name)


def _attach(settings: AgentSettings, url: str, drafters: DrafterSet, tracing: Tracing | None) -> None:
    """Attach with these drafters until SIGINT or SIGTERM. Raises AttachRejected."""
    stats = StatsCollector()
    if settings.live and sys.stdout.isatty():
        with LiveView(settings.url, hello_of(settings, drafters), stats) as view:
            asyncio.run(_run_until_signal(settings, url, drafters, stats, view, tracing))
    else:
        asyncio.run(_run_until_signal(settings, url, drafters, stats, LineObserver(settings.url), tracing))


def hello_of(settings: AgentSettings, drafters: DrafterSet) -> wire.Hello:
    """The Hello that this agent sends to a gateway."""
    name, description = (settings.name or platform.node())[:256], drafters.description[:256]
    return wire.Hello(
        wire.PROTOCOL, name, drafters.fingerprint, description, settings.max_sessions, device=drafters.device
    )


async def _run_until_signal(
    settings: AgentSettings,
    url: str,
    drafters: DrafterSet,
    stats: StatsCollector,
    observer: Observer,
    tracing: Tracing | None,
) -> None:
    """Stay attached until SIGINT or SIGTERM, then detach. Raises AttachRejected."""
    idle_policy = IdlePolicy(observer)
    agent = Agent(
        url,
        settings.key,
        hello_of(settings, drafters),
        drafters.new_drafter,
        stats,
        observer,
        may_draft=idle_policy.may_draft,
        tracing=tracing,
    )
    task = asyncio.ensure_future(stay_attached(agent))
    watch = asyncio.ensure_future(idle_policy.watch()) if settings.polite else None
    loop = asyncio.get_running_loop()

    def stop(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(task.cancel)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        await task
    except asyncio.CancelledError:
        log.info("detached")
    finally:
        for number, handler in before.items():  # another candidate may be loaded next, without this event loop
            signal.signal(number, handler)
        if watch is not None:
            watch.cancel()
