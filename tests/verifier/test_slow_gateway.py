"""A gateway that does not read what it is sent loses its link, not the verifier its memory."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from fastapi import WebSocket

from edgedraft.wire import TIMEOUT, Queued, WireError
from verifier.server import OUTBOX, _Link


class Unread:
    """A socket whose peer does not read."""

    async def send_bytes(self, data: bytes) -> None:
        await asyncio.Event().wait()


async def test_a_frame_has_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verifier.server.SEND_SECONDS", 0.1)
    link = _Link(cast(WebSocket, Unread()))
    link.send([Queued(1, 0)])
    with pytest.raises(WireError) as slow:
        await asyncio.wait_for(link.write(), 2)
    assert slow.value.code == TIMEOUT


async def test_what_waits_is_bounded() -> None:
    link = _Link(cast(WebSocket, Unread()))
    link.send([Queued(1, 0)] * (OUTBOX + 1))
    with pytest.raises(WireError) as slow:
        await asyncio.wait_for(link.write(), 2)
    assert slow.value.code == TIMEOUT
