"""What goes out in which frame, and when too much is queued."""

from __future__ import annotations

import pytest

from edgedraft.links.outbox import Outbox, PeerTooSlow
from edgedraft.links.settings import LinkSettings
from edgedraft.wire import MAX_FRAME, MAX_MESSAGES, TIMEOUT, Close, Open, Sampling

SETTINGS = LinkSettings(MAX_FRAME)


async def test_all_that_is_queued_goes_out_as_one_frame_up_to_a_bound() -> None:
    outbox = Outbox(SETTINGS)
    outbox.put(Close(1))
    assert await outbox.next_batch() == [Close(1)]
    sent = [Close(number) for number in range(2, MAX_MESSAGES + 12)]
    for message in sent:
        outbox.put(message)
    first, rest = await outbox.next_batch(), await outbox.next_batch()
    assert (len(first), len(rest)) == (MAX_MESSAGES, 10)
    assert first + rest == sent


async def test_long_prompts_are_spread_over_frames() -> None:
    outbox = Outbox(LinkSettings(MAX_FRAME, max_peer_frame=10_000))
    for number in (1, 2, 3):
        outbox.put(Open(number, [7] * 700, Sampling(), 5))
    frames = [await outbox.next_batch() for _ in range(3)]
    assert [[message.session for message in frame if isinstance(message, Open)] for frame in frames] == [[1], [2], [3]]


async def test_one_message_more_than_the_limit_is_an_overflow() -> None:
    outbox = Outbox(LinkSettings(MAX_FRAME, max_queued=10))
    for number in range(1, 11):
        assert outbox.congested == (number > 6)
        outbox.put(Close(number))
    outbox.put(Close(11))
    with pytest.raises(PeerTooSlow, match="10 messages") as slow:
        await outbox.overflow()
    assert slow.value.code == TIMEOUT
    assert len(await outbox.next_batch()) == 10
