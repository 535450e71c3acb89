"""`edgedraft attach`: load the drafters, attach to the gateway and draft until told to stop."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import platform
import signal
import sys
from collections.abc import Callable
from types import FrameType
from urllib.parse import urlsplit

from edge_agent.attachment import Agent, stay_attached
from edge_agent.counts import Tally
from edge_agent.link import Refused, agent_url
from edge_agent.loading import CannotDraft, load
from edgedraft import wire
from edgedraft.settings import AgentSettings
from edgedraft.telemetry import configure_logging

log = logging.getLogger(__name__)


def main(settings: AgentSettings) -> None:
    """Until SIGINT or SIGTERM, then ends the process. Exits 1 with a line on stderr if this agent cannot attach."""
    configure_logging(settings.log_level)
    try:
        agent = _agent(settings)
        asyncio.run(_until_told(agent, _announcer(settings.url)))
    except KeyboardInterrupt:
        sys.exit(130)
    except (CannotDraft, Refused) as error:
        sys.exit(f"edgedraft attach: {error}")
    # Taking the interpreter down takes torch a second, and may abort under a step that is still running.
    sys.stdout.flush()
    logging.shutdown()
    os._exit(0)


def _agent(settings: AgentSettings) -> Agent:
    """The agent, its drafters loaded. Raises CannotDraft, or Refused for a wrong URL."""
    url = agent_url(settings.url)
    armoury = load(settings)
    if _in_the_clear(url):
        log.warning("%s is not encrypted: the key and your prompts can be read on the way", settings.url)
    name, description = (settings.name or platform.node())[:256], armoury.description[:256]
    hello = wire.Hello(wire.PROTOCOL, name, armoury.fingerprint, description, settings.max_sessions)
    return Agent(url, settings.key, hello, armoury.drafter, Tally())


async def _until_told(agent: Agent, attached: Callable[[str], None]) -> None:
    """stay_attached until a signal to end arrives, which ends it in good order."""
    task = asyncio.ensure_future(stay_attached(agent, attached))
    loop = asyncio.get_running_loop()

    def stop(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(task.cancel)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        await task
    except asyncio.CancelledError:
        log.info("detached")


def _announcer(url: str) -> Callable[[str], None]:
    """What to do when attached: a line on stdout the first time, in the log later."""
    times = 0

    def attached(agent: str) -> None:
        nonlocal times
        times += 1
        if times == 1:
            print(f"edgedraft agent attached {agent} to {url}", flush=True)
        else:
            log.info("attached again as %s", agent)

    return attached


def _in_the_clear(url: str) -> bool:
    """Whether this address sends the key over a network without TLS."""
    parts = urlsplit(url)
    if parts.scheme == "wss" or parts.hostname == "localhost":
        return False
    try:
        return not ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return True
