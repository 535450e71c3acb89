"""A gateway that does not read what it is sent loses its link, and the verifier's memory stays bounded."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from edgedraft.links.link import Frame, Link
from edgedraft.links.outbox import Outbox
from edgedraft.links.settings import VERIFIER_ENDPOINT
from edgedraft.wire import TIMEOUT, Queued, WireError


class Unread:
    """A transport whose peer neither reads nor sends."""

    async def send(self, frame: bytes) -> None:
        await asyncio.Event().wait()

    async def receive(self) -> bytes | str:
        await asyncio.Event().wait()
        raise AssertionError

    async def close(self, code: int = 1000, reason: str = "") -> None:
        pass


async def ignore(frame: Frame) -> None:
    pass


async def test_a_frame_has_its_time() -> None:
    outbox = Outbox(VERIFIER_ENDPOINT)
    outbox.put(Queued(1, 0))
    with pytest.raises(WireError) as slow:
        await asyncio.wait_for(Link(Unread(), replace(VERIFIER_ENDPOINT, send_timeout=0.1)).run(outbox, ignore), 2)
    assert slow.value.code == TIMEOUT


async def test_what_waits_is_bounded() -> None:
    outbox = Outbox(VERIFIER_ENDPOINT)
    for _ in range(VERIFIER_ENDPOINT.max_queued + 1):
        outbox.put(Queued(1, 0))
    with pytest.raises(WireError) as slow:
        await asyncio.wait_for(Link(Unread(), VERIFIER_ENDPOINT).run(outbox, ignore), 2)
    assert slow.value.code == TIMEOUT
